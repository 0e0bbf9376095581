"""Market data, balances and the operators' calls, from shared pages."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.web.bench import ACCOUNT_ID, BTC_USDT, Bench, bearer, make_bench, small_settings

from tradeengine.core.ids import first_id_at
from tradeengine.core.records import Side, TradingState
from tradeengine.core.tables import ActorState, balances_dtype, depth_dtype, ticker_dtype
from tradeengine.ipc.metric_families import split_labels
from tradeengine.ipc.metric_help import METRIC_HELP, metric_help
from tradeengine.ipc.metric_names import ROLE_METRICS, operator_metrics
from tradeengine.storage.queries import TradeRow
from tradeengine.web.app import create_app

TRADE_ID = first_id_at(1_780_000_000_000) | 3


def make_trade(trade_id: int = TRADE_ID) -> TradeRow:
    """Make a trade in which alice's order was the taker."""
    return TradeRow(
        trade_id=trade_id,
        symbol_id=0,
        price_ticks=5_000_000,
        quantity_lots=10_000,
        notional_units=50_000_000_000,
        taker_side=Side.SELL,
        taker_fee_units=50_000_000,
        maker_fee_units=25_000_000,
        taker_order_id=21,
        maker_order_id=22,
        taker_account_id=ACCOUNT_ID,
        maker_account_id=ACCOUNT_ID + 1,
        sequence=5,
        timestamp_ms=1_780_000_000_000,
    )


@pytest.mark.parametrize("form", ["BTC-USDT", "BTC%2FUSDT", "BTC/USDT", "btc-usdt"])
async def test_symbol_is_known_in_every_form(bench: Bench, form: str) -> None:
    """A path names a symbol with a dash, an escaped slash or a slash."""
    book = await bench.client.get(f"/api/v1/orderbook/{form}")
    ticker = await bench.client.get(f"/api/v1/markets/{form}/ticker")
    assert (await book.get_json())["data"]["symbol"] == "BTC/USDT"
    assert (await ticker.get_json())["data"]["symbol"] == "BTC/USDT"


@pytest.mark.parametrize("path", ["/api/v1/orderbook/NO-SUCH", "/api/v1/markets/X/ticker", "/api/v1/trades?symbol=X-Y"])
async def test_unknown_symbol_is_404(bench: Bench, path: str) -> None:
    """A symbol that does not exist is SYMBOL_NOT_FOUND with its name."""
    answer = await bench.client.get(path)
    assert answer.status_code == 404
    assert (await answer.get_json())["error"]["code"] == "SYMBOL_NOT_FOUND"


async def test_book_shows_best_levels_first(bench: Bench) -> None:
    """The book is as the depth page has it, cut to the depth asked for."""
    row = np.zeros(1, depth_dtype)[0]
    row["sequence"], row["timestamp_ns"] = 77, 1_780_000_000_000_000_000
    row["bid_count"], row["ask_count"] = 3, 1
    row["bids"][:3] = [[4_999_900, 25_000], [4_999_800, 1], [4_999_700, 2]]
    row["asks"][:1] = [[5_000_100, 30_000]]
    bench.memory.tables["depth"].write(0, row)
    data = (await (await bench.client.get("/api/v1/orderbook/BTC-USDT?depth=2")).get_json())["data"]
    assert data["bids"] == [["49999.00", "2.5000"], ["49998.00", "0.0001"]]
    assert data["asks"] == [["50001.00", "3.0000"]]
    assert data["sequence"] == 77
    assert data["timestamp"] == "2026-05-28T20:26:40.000Z"


@pytest.mark.parametrize("depth", ["0", "1001", "-1", "x", "1.5"])
async def test_depth_out_of_range_is_refused(bench: Bench, depth: str) -> None:
    """A depth outside 1 to 1000 is refused with both bounds."""
    answer = await bench.client.get(f"/api/v1/orderbook/BTC-USDT?depth={depth}")
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["code"]) == (400, "NUMBER_OUT_OF_RANGE")
    assert error["details"] == {"field": "depth", "minimum": 1, "maximum": 1000}


async def test_ticker_of_a_market_without_trades_has_nulls(bench: Bench) -> None:
    """What does not exist is null, not zero."""
    data = (await (await bench.client.get("/api/v1/markets/BTC-USDT/ticker")).get_json())["data"]
    assert {data[name] for name in ("best_bid", "best_ask", "last", "open", "high", "low", "change")} == {None}
    assert data["volume"] == "0.0000"


async def test_ticker_shows_the_last_day(bench: Bench) -> None:
    """The ticker has the touch, the last trade and the change since the first of the day, in the symbol's places."""
    row = np.zeros(1, ticker_dtype)[0]
    row["best_bid_ticks"], row["best_bid_lots"] = 4_999_900, 10
    row["last_price_ticks"], row["last_quantity_lots"] = 4_990_000, 5
    row["open_ticks"], row["high_ticks"], row["low_ticks"] = 5_000_000, 5_100_000, 4_900_000
    row["volume_lots"], row["quote_volume_units"], row["trade_count"] = 12_345, 61_725_000_000, 9
    bench.memory.tables["tickers"].write(0, row)
    data = (await (await bench.client.get("/api/v1/markets/BTC-USDT/ticker")).get_json())["data"]
    assert (data["best_bid"], data["best_bid_quantity"], data["best_ask"]) == ("49999.00", "0.0010", None)
    assert (data["last"], data["change"]) == ("49900.00", "-100.00")
    assert (data["volume"], data["quote_volume"], data["trades"]) == ("1.2345", "61725.000000", 9)


@pytest.mark.parametrize(("state", "name"), [(TradingState.OPEN, "open"), (TradingState.HALTED, "halted")])
async def test_symbols_show_bounds_and_state(bench: Bench, state: TradingState, name: str) -> None:
    """Symbols are listed with what an order needs to know, and the matcher's word on their state."""
    before = (await (await bench.client.get("/api/v1/symbols")).get_json())["data"][0]
    assert before["status"] == "unlisted"
    bench.memory.tables["touch"].write(0, (0, 0, 0, 0, 0, state, 0, 1, 0))
    (symbol,) = (await (await bench.client.get("/api/v1/symbols")).get_json())["data"]
    assert symbol["status"] == name
    assert (symbol["symbol"], symbol["tick"], symbol["lot"]) == ("BTC/USDT", "0.01", "0.0001")
    assert (symbol["min_notional"], symbol["maker_fee"]) == ("5.000000", "0.000500")
    assert symbol["max_price_deviation"] == "0.100000"


async def test_time_is_now(bench: Bench) -> None:
    """The time is told twice, alike."""
    data = (await (await bench.client.get("/api/v1/time")).get_json())["data"]
    assert data["time"].endswith(f".{data['unix_ms'] % 1000:03d}Z")


async def test_balances_are_the_callers_own(bench: Bench) -> None:
    """Balances show total, held and what is left, of the caller's account only."""
    row = np.zeros(1, balances_dtype(bench.front.settings.limits.assets_max))[0]
    row["units"][0] = (150_000_000, 50_000_000)
    bench.memory.tables["balances"].write(ACCOUNT_ID, row)
    alices = (await (await bench.client.get("/api/v1/balances", headers=bearer())).get_json())["data"]
    bobs = (await (await bench.client.get("/api/v1/balances", headers=bearer("bob"))).get_json())["data"]
    assert alices[0] == {"asset": "BTC", "total": "1.50000000", "available": "1.00000000", "held": "0.50000000"}
    assert alices[1]["total"] == bobs[1]["total"] == "0.000000"
    assert bobs[0]["total"] == "0.00000000"


async def test_public_trade_names_no_order(bench: Bench) -> None:
    """A trade shows its order ids to its parties and to admins, and to nobody else."""
    bench.history.fills = [make_trade()]
    path = f"/api/v1/trades/{TRADE_ID}"
    shown = {}
    for who, headers in {
        "nobody": {},
        "alice": bearer(),
        "bob": bearer("bob"),
        "admin": bearer("bob", "admin"),
    }.items():
        shown[who] = (await (await bench.client.get(path, headers=headers)).get_json())["data"]
    assert "buy_order_id" not in shown["nobody"]
    assert shown["nobody"]["buyer_fee"] == "25.000000"
    assert shown["nobody"]["seller_fee"] == "50.000000"
    for who in ("alice", "bob", "admin"):
        assert (shown[who]["buy_order_id"], shown[who]["sell_order_id"]) == ("22", "21")


async def test_stranger_sees_no_order_ids(bench: Bench) -> None:
    """A user who is no party sees a trade as the public does."""
    bench.history.fills = [make_trade()]
    bench.history.fills[0].maker_account_id = 99
    data = (await (await bench.client.get(f"/api/v1/trades/{TRADE_ID}", headers=bearer("bob"))).get_json())["data"]
    assert "buy_order_id" not in data


async def test_own_trades_show_the_own_side(bench: Bench) -> None:
    """Own trades carry the own order, side, fee and liquidity."""
    bench.history.fills = [make_trade()]
    alice = (await (await bench.client.get("/api/v1/trades?scope=mine", headers=bearer())).get_json())["data"][0]
    bob = (await (await bench.client.get("/api/v1/trades?scope=mine", headers=bearer("bob"))).get_json())["data"][0]
    own = ("order_id", "side", "fee", "liquidity", "settlement_status")
    assert [alice[name] for name in own] == ["21", "sell", "50.000000", "taker", "settled"]
    assert [bob[name] for name in own] == ["22", "buy", "25.000000", "maker", "settled"]


async def test_trades_need_a_symbol_unless_mine(bench: Bench) -> None:
    """Public trades are asked for by symbol."""
    answer = await bench.client.get("/api/v1/trades")
    assert (await answer.get_json())["error"]["details"]["field"] == "symbol"
    bench.history.fills = [make_trade(TRADE_ID + n) for n in range(3)]
    page = await (await bench.client.get("/api/v1/trades?symbol=BTC-USDT&limit=2")).get_json()
    assert len(page["data"]) == 2
    assert page["meta"]["next_cursor"]


async def test_ready_says_what_is_wrong(bench: Bench) -> None:
    """Ready while orders are accepted: degraded when something else is down, 503 without risk or every matcher."""
    actors = bench.memory.tables["actors"]
    names = [actor.name for actor in bench.memory.topology.actors]

    async def after(name: str, state: ActorState, silent_ms: int = 0) -> tuple[int, str, list[str]]:
        row = names.index(name)
        actors.write(row, (name.encode(), b"why", 1, state, 0, 0, silent_ms))
        answer = await bench.client.get("/ready")
        body = await answer.get_json()
        data = body["data"] if body["success"] else body["error"]["details"]
        assert body["success"] or body["error"]["code"] == "NOT_READY"
        actors.write(row, (name.encode(), b"", 1, ActorState.READY, 0, 0, 0))
        assert ("Retry-After" in answer.headers) is not body["success"]
        return answer.status_code, data["status"], data["degraded"]

    assert await after("risk", ActorState.READY) == (200, "ready", [])
    assert await after("publisher", ActorState.RESTARTING) == (200, "degraded", ["publisher is restarting: why"])
    assert (await after("risk", ActorState.RESTARTING))[:2] == (503, "unready")
    assert (await after("matcher-0", ActorState.FAILED))[:2] == (503, "unready")
    assert (await after("settlement", ActorState.BLOCKED))[:2] == (200, "degraded")
    # Long before the supervisor takes a process for hanging, nobody gets an order through it.
    assert await after("risk", ActorState.READY, 4000) == (503, "unready", ["risk has been silent for 4.0 s"])
    assert await after("matcher-0", ActorState.STALLED, 12_000) == (
        503,
        "unready",
        ["matcher-0 is stalled: why", "matcher-0 has been silent for 12.0 s"],
    )
    assert await after("publisher", ActorState.READY, 4000) == (200, "ready", [])
    assert await after("shadow", ActorState.STARTING) == (200, "ready", [])
    assert await after("shadow", ActorState.RESTARTING) == (200, "degraded", ["shadow is restarting: why"])
    # The keeper is on nobody's way, and nobody misses it.
    assert await after("keeper", ActorState.FAILED) == (200, "ready", [])


async def test_metrics_are_prometheus_text(bench: Bench) -> None:
    """Every actor and every ring is in the metrics, in a form that Prometheus' own parser reads."""
    page = bench.memory.metrics["matcher-0"]
    page.add(page.counter("trades"), 42)
    for value in (1, 50, 100_000):
        page.record(page.histogram("sync_latency_us"), value)
    answer = await bench.client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(await answer.get_data(as_text=True))}
    assert families["tradeengine_matcher_trades"].samples[0].value == 42
    latency = families["tradeengine_matcher_sync_latency_seconds"].samples
    buckets = [sample.value for sample in latency if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
    actors = {sample.labels["actor"] for sample in families["tradeengine_actor_heartbeat_timestamp_seconds"].samples}
    assert {actor.name for actor in bench.memory.topology.actors} <= actors
    rings = {sample.labels["ring"] for sample in families["tradeengine_ring_records"].samples}
    assert rings == {ring.name for ring in bench.memory.topology.rings}


async def test_metrics_say_what_the_supervisor_knows(bench: Bench) -> None:
    """State and restarts of an actor are those of the supervisor's table, and the help text names the codes."""
    row = [actor.name for actor in bench.memory.topology.actors].index("publisher")
    bench.memory.tables["actors"].write(row, (b"publisher", b"", 1, ActorState.RESTARTING, 3, 0, 0))
    text = await (await bench.client.get("/metrics")).get_data(as_text=True)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        name: {sample.labels["actor"]: sample.value for sample in families[f"tradeengine_actor_{name}"].samples}
        for name in ("state", "restarts")
    }
    assert (values["state"]["publisher"], values["restarts"]["publisher"]) == (ActorState.RESTARTING, 3)
    assert (values["state"]["risk"], values["restarts"]["risk"]) == (ActorState.READY, 0)
    for state in ActorState:
        assert f"{int(state)} {state.name.lower()}" in families["tradeengine_actor_state"].documentation


def test_every_metric_has_a_help_text() -> None:
    """Each metric of each role is described by a sentence, and nothing is described that there is not."""
    for role, layout in ROLE_METRICS.items():
        told = operator_metrics([("risk", "risk")]) if role == "operator" else layout
        named = (*told.counters, *told.gauges, *told.histograms)
        names = {split_labels(name)[0] for name in named}
        for name in names:
            text = metric_help(role, name)
            assert re.fullmatch(r"[A-Z1].*\.", text), text
        assert METRIC_HELP[role].keys() <= names


async def test_metrics_token_is_asked_for_when_configured() -> None:
    """With a scrape token configured the metrics need it."""
    bench = make_bench()
    http = msgspec.structs.replace(small_settings().http, metrics_token="scrape")
    bench.front.settings = msgspec.structs.replace(small_settings(), http=http)
    client = create_app(bench.front).test_client()
    assert (await client.get("/metrics")).status_code == 401
    assert (await client.get("/metrics", headers={"Authorization": "Bearer wrong"})).status_code == 401
    assert (await client.get("/metrics", headers={"Authorization": "Bearer scrape"})).status_code == 200


async def test_health_needs_nothing(bench: Bench) -> None:
    """Health answers though every actor is gone."""
    for row in range(bench.memory.tables["actors"].rows):
        bench.memory.tables["actors"].write(row, (b"", b"", 0, ActorState.STOPPED, 0, 0, 0))
    assert (await (await bench.client.get("/health")).get_json())["data"]["status"] == "ok"


def test_symbol_of_the_tests_is_exact() -> None:
    """One tick times one lot is a whole number of minor units, so that the numbers above are exact."""
    assert BTC_USDT.tick_lot_units == 1
