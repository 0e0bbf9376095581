"""The wallet service outside, where the engine has one: a program of its own with a database of its own, killed, too.

In the end it must hold reserved exactly what the ledger says: each fill moved there once, each deposit taken once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Final

import httpx2
import psycopg
from tests.e2e.wallet_venue import QUICK
from tests.faults.harness.world import Connection
from tests.wallet.service import Service, running_service

from tradeengine.storage.embedded import open_embedded
from tradeengine.storage.outbox import expected_reserves

ARRIVED: Final = "1000000000000"
"""Of each asset, at the wallet, for each user: never too little for what the plan moves."""
DELIVERED_S_MAX: Final = 120.0
LOOK_S: Final = 0.05
_UNDELIVERED: Final = "SELECT state::text, count(*) FROM wallet_transfers GROUP BY 1"
_HELD: Final = "SELECT user_name, asset, amount FROM wallet.balances WHERE part = 'reserved' AND amount <> 0"


class Outside:
    """The service. It keeps port, secret and database when it is killed and started again."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        """Start it. data_dir: of the engine, which shares a secret with it."""
        with ExitStack() as stack:
            server = stack.enter_context(open_embedded(folder / "outside"))
            self._service: Service = stack.enter_context(running_service(server.dsn, data_dir))
            self._stack = stack.pop_all()

    @property
    def environment(self) -> Mapping[str, str]:
        """By what an engine knows it."""
        return {**QUICK, "TRADEENGINE_WALLET_URL": self._service.url}

    def fund(self, user: str, assets: Mapping[str, str]) -> None:
        """Let money arrive for a user."""
        headers = {"Authorization": f"Bearer {self._service.secret}"}
        with httpx2.Client(base_url=self._service.url, headers=headers, trust_env=False, timeout=20) as client:
            for asset in assets:
                body = {"id": f"{user}.{asset}", "user": user, "asset": asset, "amount": ARRIVED}
                assert client.post("/v1/deposits", json=body).status_code == 201

    def restart(self) -> None:
        """Kill it and start it again."""
        self._service.kill()
        self._service.start()

    def differences(self, connection: Connection) -> Iterator[str]:
        """Wait until it was told of everything, and compare. connection: to the engine's database."""
        deadline_s = time.monotonic() + DELIVERED_S_MAX
        while (waiting := dict(connection.execute(_UNDELIVERED).fetchall())).get("pending"):
            if time.monotonic() > deadline_s:
                break
            time.sleep(LOOK_S)
        if waiting:
            yield f"the wallet was not told of everything: {waiting}"
        self._service.check_books()
        names = dict(connection.execute("SELECT id, name FROM accounts").fetchall()) | {1: "exchange"}
        assets = {row[0]: row[1:] for row in connection.execute("SELECT id, name, places FROM assets").fetchall()}
        expected = {
            (names[account], assets[asset][0]): Decimal(units).scaleb(-assets[asset][1])
            for (account, asset), units in expected_reserves(connection).items()
        }
        with psycopg.connect(self._service.dsn) as outside:
            held = {(user, asset): Decimal(amount) for user, asset, amount in outside.execute(_HELD).fetchall()}
        for key in sorted(expected.keys() | held.keys()):
            if expected.get(key) != held.get(key):
                yield f"the wallet holds {held.get(key)} of {key}, the ledger says {expected.get(key)}"

    def close(self) -> None:
        """End it and its database."""
        self._stack.close()
