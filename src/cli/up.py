"""``tradeengine up``: run an engine in the foreground, and say how to reach it.

What it prints on standard output is for people and for scripts: a script waits for the line that begins with ``ready``;
the line ``stopped`` is the last one of an engine that was asked to end.
Log lines go to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from tradeengine.actors.data_dir import DataDirError
from tradeengine.actors.errors import StartError
from tradeengine.actors.supervisor import Running, run_engine
from tradeengine.cli.errors import CommandError
from tradeengine.ipc.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.settings import Settings


def run_up(settings: Settings, *, demo: bool) -> None:
    """Run until Ctrl-C. Raises CommandError when the engine cannot start."""
    configure_logs(settings.log, "supervisor")
    if demo and not settings.demo.enabled:
        raise CommandError("--demo needs demo.enabled = true")
    if demo and settings.wallet.kind != "ledger":
        raise CommandError("--demo needs wallet.kind = 'ledger': the demo traders have no money at a wallet outside")
    if settings.auth.keys_file or settings.auth.secret:
        # Not at the top: nothing that the actors need waits for it.
        from tradeengine.web.token_keys import load_keys

        load_keys(settings.auth)
    if demo and "HS256" not in settings.auth.algorithms:
        raise CommandError("--demo signs the traders' tokens itself: it needs HS256 in auth.algorithms")
    try:
        run_engine(settings, partial(_attend, settings, demo))
    except (DataDirError, StartError) as error:
        raise CommandError(str(error)) from None
    # Past Python's buffer: whoever waited for ``ready`` may have closed the pipe since, and that is no error.
    with suppress(OSError):
        os.write(sys.stdout.fileno(), b"stopped\n")


async def _attend(settings: Settings, demo: bool, running: Running) -> None:
    """Do what there is to do beside a running engine, until it stops."""
    # Not at the top: nothing that the actors need waits for these.
    from tradeengine.cli.demo_process import demo_tokens, keep_demo_traders

    url = f"{'https' if settings.http.tls_certificate else 'http'}://{_host(running.host)}:{running.port}"
    announce(url, running.start_s, demo_tokens(settings), settings.wallet.url if settings.wallet.kind == "http" else "")
    if demo:
        await keep_demo_traders(settings, url)


def announce(url: str, start_s: float, tokens: Mapping[str, str], wallet_url: str) -> None:
    """Say where the engine listens and how to place a first order; the last line begins with ``ready``.

    tokens: by the names of the demo traders; the first one is shown.
    wallet_url: of the wallet outside that keeps the money; empty: there is none.
    """
    lines = [f"listening  {url}  (documentation: {url}/docs)"]
    for name, token in islice(tokens.items(), 1):
        lines += [f"token      {token}  ({name})", f"try        {curl_line(url, token)}"]
    if wallet_url:
        lines.append(f"wallet     {wallet_url}  (keeps the money: docs/wallet.md)")
    lines.append(f"ready      after {start_s:.1f} s; Ctrl-C stops")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def curl_line(url: str, token: str) -> str:
    """Build a line that places an order when it is pasted into a shell."""
    order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.01", "price": "49000.00"}
    return (
        f"curl -sS {url}/api/v1/orders -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(order)}'"
    )


def _host(host: str) -> str:
    """Name an address as it is written in a URL; one that stands for all is reached at the loopback."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104 - as above
    return f"[{host}]" if ":" in host else host
