"""The story of a data directory that gets another shard: what is there stays, what is new has it for itself."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.bank import admin_of
from tests.e2e.test_admin_listing import listing, trade
from tests.e2e.users import Json, make_user, sign_in
from tests.engines import run_command, running_engine


@pytest.mark.long
def test_shard_is_added_to_what_is_there(tmp_path: Path) -> None:
    """With one shard more old symbols keep theirs, with orders and last trades; a new one has it; fewer are refused.

    Back at the first number it starts as long as nothing lives on the new shard.
    """
    order: Json = {"symbol": "BTC/USDT", "quantity": "0.5", "price": "40000.00"}
    folder = tmp_path / "data"
    with running_engine(folder, ["--shards", "1"]) as engine, ExitStack() as users:
        ann, ben = (make_user(engine, name, {"USDT": "100000", "BTC": "1"}) for name in ("ann", "ben"))
        users.enter_context(ann.http)
        users.enter_context(ben.http)
        resting = ann.place(**order)["order"]
        ben.place(201, **{**order, "side": "sell", "quantity": "0.2"})
        balances = ann.balances()
    with running_engine(folder, ["--shards", "2"]) as engine:
        assert any("shards without symbols do nothing" in line for line in engine.errors)
    with running_engine(folder, ["--shards", "1"]):
        pass
    with running_engine(folder, ["--shards", "2"]) as engine, ExitStack() as users:
        boss, ann, ben = admin_of(engine, "super_admin"), sign_in(engine, ann.name), sign_in(engine, ben.name)
        for user in (boss, ann, ben):
            users.enter_context(user.http)
        assert {row["shard"] for row in boss.call("GET", "/admin/symbols")} == {0}
        assert ann.call("GET", "/markets/BTC-USDT/ticker")["last"] == order["price"]
        assert ann.balances() == balances
        assert boss.call("POST", "/admin/symbols", 201, json=listing("FRESH"))["symbol"]["shard"] == 1
        trade(engine, "FRESH/USDT", ann, ben)
        ben.place(201, **{**order, "side": "sell", "quantity": "0.3"})
        assert ann.order(resting["id"])["status"] == "filled"
        assert engine.command("reconcile").returncode == 0
    result = run_command("up", "--port", "0", "--data-dir", str(folder), "--shards", "1")
    assert result.returncode == 1
    assert "engine.shards = 1 is not allowed: symbol FRESH/USDT lives on shard 1" in result.stderr
    with running_engine(folder, ["--shards", "2"]) as engine, ExitStack() as users:
        ann, ben = sign_in(engine, ann.name), sign_in(engine, ben.name)
        users.enter_context(ann.http)
        users.enter_context(ben.http)
        trade(engine, "FRESH/USDT", ben, ann)
        assert engine.command("reconcile").returncode == 0
