"""The front as a program: joins the ends that it was handed, and serves HTTP on the socket that the supervisor opened.

All fronts listen on that one socket, so a front that is started anew refuses no connection.
It refuses to know routes.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import time
from functools import partial
from typing import Final

import structlog
import trio
from hypercorn.config import Config

from tradeengine.ipc.buckets import Buckets
from tradeengine.ipc.metric_names import OTHER_REFUSALS
from tradeengine.ipc.overview import Overview
from tradeengine.ipc.replay_guard import ReplayGuard
from tradeengine.ipc.window import Window
from tradeengine.ipc.wiring import REFUSALS, Wiring
from tradeengine.settings import Settings
from tradeengine.storage.api_keys import find_key
from tradeengine.web.admission import Admission
from tradeengine.web.admitting import Trusted
from tradeengine.web.api_keys import NS_PER_MS, ApiKeys
from tradeengine.web.app import create_app
from tradeengine.web.audit_trail import AuditTrail
from tradeengine.web.auth import Authenticator
from tradeengine.web.barrier import Barrier
from tradeengine.web.database import Database
from tradeengine.web.figures import HISTOGRAMS
from tradeengine.web.front import Front, Pages
from tradeengine.web.gateway import Gateway
from tradeengine.web.health import Health
from tradeengine.web.history import Accounts, History
from tradeengine.web.in_force import InForce
from tradeengine.web.inbox import Inbox
from tradeengine.web.key_vault import KeyVault
from tradeengine.web.pool_metrics import PoolMetrics
from tradeengine.web.probes import Probes
from tradeengine.web.redaction import redaction_of
from tradeengine.web.request_limits import RequestLimits
from tradeengine.web.server import Server
from tradeengine.web.streams.demand import Wishes
from tradeengine.web.streams.feed_reader import FeedReader
from tradeengine.web.streams.hub import Hub
from tradeengine.web.streams.private import Private
from tradeengine.web.streams.roll import Roll
from tradeengine.web.streams.standing import objection
from tradeengine.web.watch import Watch

HEADER_BYTES_MAX: Final = 16 * 1024
KEEP_ALIVE_S: Final = 75
TLS_HANDSHAKE_S: Final = 15
GOODBYE_S: Final = 0.5
"""Clients of streams are told so long before that the server stops."""
_HEARTBEAT_S: Final = 0.5

_log = structlog.get_logger()


async def main(wiring: Wiring) -> None:
    """Serve until the supervisor asks for an end, then let open requests finish."""
    front = assemble(wiring)
    config = hypercorn_config(wiring.settings)
    with socket.socket(fileno=wiring.listening_fd) as listener:
        page = wiring.metrics
        admission = make_admission(wiring)
        server = Server(
            create_app(front),
            config,
            listener,
            trusted_by(wiring.settings),
            lambda name: page.add(page.counter(name)),
            admission,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.run)
            nursery.start_soon(_beat, wiring, front, server, admission)
            wiring.metrics.started()
            # What was imported lives as long as the process; scanning it again and again would stop requests for long.
            gc.collect()
            gc.freeze()
            await _serve(wiring, front, server)
            nursery.cancel_scope.cancel()
    front.database.close()


def assemble(wiring: Wiring) -> Front:
    """Make the front of what the wiring hands over."""
    settings = wiring.settings
    shard_rings = [wiring.ring(f"events.{shard}") for shard in range(wiring.shard_count)]
    settled = Barrier((*shard_rings, wiring.ring("events.risk")), "settlement")
    database = Database(
        settings.database.dsn,
        size=settings.database.pool_size,
        statement_timeout_ms=settings.database.statement_timeout_ms,
        connect_timeout_s=settings.database.connect_timeout_s,
        lock_timeout_ms=settings.database.lock_timeout_ms,
        idle_in_transaction_timeout_ms=settings.database.idle_in_transaction_timeout_ms,
        lifetime_s=settings.database.connection_lifetime_s,
        is_pooled=settings.database.is_pooled,
        name=f"tradeengine-{wiring.name}",
        metrics=PoolMetrics(wiring.metrics),
    )
    inbox = Inbox(wiring.doorbell)
    pages = Pages(
        balances=wiring.table("balances"),
        touch=wiring.table("touch"),
        trading_states=wiring.table("trading_states"),
        depth=wiring.table("depth"),
        tickers=wiring.table("tickers"),
        actors=wiring.table("actors"),
        directory_table=wiring.table("directory"),
    )
    hub = Hub(
        FeedReader(wiring.ring_reader("feed")),
        Wishes(wiring.table(f"demand.{wiring.index}"), lambda: wiring.wake("publisher")),
        pages,
        settings.streams,
        wiring.metrics,
        inbox,
        Roll(wiring.table(f"connections.{wiring.index}")),
    )
    overview = Overview(
        wiring.table("actors"),
        {wiring.name: wiring.metrics, **wiring.metric_pages},
        {name: wiring.ring(name) for name in wiring.ring_names},
        wiring.ring_writers,
    )
    in_force = InForce(wiring.table("accounts"), settings.http.barrier_timeout_ms / 1000)
    watch = Watch(
        wiring.table("actors"), settled, settings.settlement.backlog_events_max, overview.pages, overview.rings
    )
    window = Window(overview.pages, HISTOGRAMS)
    probes = Probes(settings)
    front = Front(
        settings=settings,
        authenticator=Authenticator(settings.auth),
        api_keys=ApiKeys(
            KeyVault(settings.keys.master),
            ReplayGuard(wiring.board("signatures"), time.time_ns() // NS_PER_MS),
            lambda key_id: database.run(find_key, key_id),
            in_force.keys_version,
        ),
        database=database,
        inbox=inbox,
        gateway=Gateway(
            wiring.ingress_number,
            wiring.ring_writer(wiring.ingress_name),
            {name: wiring.ring_reader(name) for name in wiring.answer_rings},
            REFUSALS,
            inbox.wake,
            wiring.metrics,
            pages.shard_of,
        ),
        admin_gateway=Gateway(
            wiring.ingress_rings.index(wiring.admin_ring_name),
            wiring.ring_writer(wiring.admin_ring_name),
            {name: wiring.ring_reader(name) for name in wiring.answer_rings},
            REFUSALS,
            inbox.wake,
            wiring.metrics,
            lambda _: 0,
        ),
        accounts=Accounts(database, settings.limits.accounts_max, settings.wallet.taken_name),
        in_force=in_force,
        history=History(database, settled, Barrier(shard_rings, "risk"), settings.http.barrier_timeout_ms / 1000),
        pages=pages,
        hub=hub,
        request_limits=RequestLimits(Buckets(wiring.board("buckets")), settings.requests, wiring.metrics),
        watch=watch,
        overview=overview,
        audit=AuditTrail(settings.audit_dir, wiring.name, database, redaction_of(settings), wiring.metrics),
        window=window,
        health=Health(settings, overview, window, watch, probes),
        probes=probes,
        rolls=[wiring.table(f"connections.{number}") for number in range(settings.engine.fronts)],
        metrics=wiring.metrics,
        shard_count=wiring.shard_count,
    )
    hub.private = Private(front, hub, wiring.index)
    hub.object_to = partial(objection, front)
    return front


def make_admission(wiring: Wiring) -> Admission:
    """Make room for requests; what is refused is counted by itself and among the refusals by error."""
    page = wiring.metrics
    shed = page.counter("requests_shed")
    refused = page.name_counter('http_refusals{error="ENGINE_OVERLOADED"}', page.counter(OTHER_REFUSALS))

    def note_refusal() -> None:
        page.add(shed)
        page.add(refused)

    return Admission(wiring.settings.http.work_requests_max, note_refusal)


def trusted_by(settings: Settings) -> Trusted:
    """Say whose word a server takes."""
    return Trusted(frozenset(settings.http.trusted_proxies), settings.http.cors_origins)


def hypercorn_config(settings: Settings) -> Config:
    """Tell Hypercorn the bounds of what a connection may do."""
    config = Config()
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.alpn_protocols = ["http/1.1"]
    config.ssl_handshake_timeout = TLS_HANDSHAKE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1 << 62
    config.graceful_timeout = settings.http.stop_timeout_s
    config.include_server_header = False
    config.accesslog = None
    config.websocket_max_message_size = settings.streams.frame_bytes_max
    config.errorlog = logging.getLogger("tradeengine.http")
    if settings.http.tls_certificate:
        config.certfile = settings.http.tls_certificate
        config.keyfile = settings.http.tls_key
    return config


async def _serve(wiring: Wiring, front: Front, server: Server) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:

        async def asked_to_end() -> None:
            async for _ in signals:
                await front.hub.say_goodbye(GOODBYE_S)
                return

        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, asked_to_end)
            wiring.ready()


async def _beat(wiring: Wiring, front: Front, server: Server, admission: Admission) -> None:
    """Show that the front lives, also while nobody asks anything."""
    connections, in_work = wiring.metrics.gauge("connections"), wiring.metrics.gauge("requests_in_work")
    was_crowded = False
    while True:
        wiring.metrics.heartbeat()
        wiring.metrics.set(connections, server.connection_count)
        wiring.metrics.set(in_work, admission.count)
        if bool(admission.crowded) != was_crowded:
            was_crowded = not was_crowded
            what = "more is asked than this front can answer" if was_crowded else "all that is asked is answered again"
            _log.warning(what, addresses=admission.crowded)
        front.gateway.measure()
        front.database.measure()
        await trio.sleep(_HEARTBEAT_S)
