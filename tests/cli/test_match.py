"""``tradeengine match``: the core alone, through a real process: lines in, events out, bad lines named."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from perf.reference_book import ReferenceBook
from tests.engines import PROGRAM

ROOT = Path(__file__).parents[2]


def match(lines: str | bytes, *options: str) -> subprocess.CompletedProcess[str]:
    """Give lines to the command; return what it wrote."""
    data = lines.encode() if isinstance(lines, str) else lines
    done = subprocess.run([*PROGRAM, "match", *options], input=data, capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def events_of(*commands: dict[str, Any], options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Give commands that are all good; return the events."""
    result = match("".join(json.dumps(command) + "\n" for command in commands), *options)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def order(order_id: object, side: str, price: object, quantity: object, **more: Any) -> dict[str, Any]:
    """Make a ``new`` line."""
    return {"op": "new", "id": order_id, "side": side, "price": price, "quantity": quantity, **more}


def test_example_of_the_documentation() -> None:
    """The example in docs/match.md gives what stands there."""
    text = (ROOT / "docs" / "match.md").read_text(encoding="utf-8")
    command, wanted = re.findall(r"```(?:sh|json)\n(.*?)```", text, re.DOTALL)
    first, lines = command.split("\n", 1)
    options = first.split("match ")[1].split(" <<")[0].split()
    result = match(lines.removesuffix("EOF\n"), *options)
    assert (result.returncode, result.stdout) == (0, wanted)


def test_events_have_exactly_their_fields() -> None:
    """A trade names maker, taker, price, quantity; every other event id, reason, remaining; all have a sequence."""
    events = events_of(order("a", "sell", 100, 2), order(7, "buy", 101, 1), {"op": "cancel", "id": "a"})
    assert events == [
        {"event": "accepted", "id": "a", "reason": None, "remaining": "2", "sequence": 1},
        {"event": "accepted", "id": 7, "reason": None, "remaining": "1", "sequence": 2},
        {"event": "traded", "maker": "a", "taker": 7, "price": "100", "quantity": "1", "sequence": 3},
        {"event": "cancelled", "id": "a", "reason": "USER", "remaining": "1", "sequence": 4},
    ]


def test_every_kind_of_order() -> None:
    """Limit, market, stop and stop-limit orders, IOC, FOK and post-only do what the API says."""
    stop = {"id": "stop", "side": "buy", "type": "stop", "stop_price": 100, "quantity": 1}
    events = events_of(
        order("m", "sell", 100, 5),
        order("n", "sell", 105, 5),
        order("post", "buy", 100, 1, post_only=True),
        order("fok", "buy", 100, 6, time_in_force="fok"),
        order("ioc", "buy", 100, 6, time_in_force="IOC"),
        stop,
        {"id": "amount", "side": "buy", "type": "market", "quote_quantity": "211"},
        {"id": "all", "side": "buy", "quantity": 9},
        {"id": "sl", "side": "sell", "stop_price": 106, "price": 104, "quantity": 1},
    )
    told = [
        (e["event"], e.get("id", (e.get("maker"), e.get("taker"), e.get("quantity"))), e.get("reason")) for e in events
    ]
    assert told == [
        ("accepted", "m", None),
        ("accepted", "n", None),
        ("rejected", "post", "POST_ONLY_WOULD_MATCH"),
        ("rejected", "fok", "FOK_NOT_FILLED"),
        ("accepted", "ioc", None),
        ("traded", ("m", "ioc", "5"), None),
        ("cancelled", "ioc", "IOC_REMAINDER"),
        ("accepted", "stop", None),
        ("triggered", "stop", None),
        ("traded", ("n", "stop", "1"), None),
        ("accepted", "amount", None),
        ("traded", ("n", "amount", "2"), None),
        ("accepted", "all", None),
        ("traded", ("n", "all", "2"), None),
        ("cancelled", "all", "NO_LIQUIDITY"),
        ("accepted", "sl", None),
        ("triggered", "sl", None),
    ]


def test_amend_keeps_or_loses_its_place() -> None:
    """Less quantity keeps the place in the queue, another price loses it; a refused amend changes nothing."""
    events = events_of(
        order(1, "sell", 10, 5),
        order(2, "sell", 10, 5),
        order(3, "sell", 11, 5),
        {"op": "amend", "id": 1, "quantity": 3},
        {"op": "amend", "id": 3, "price": 10},
        order(4, "buy", 10, 10),
        {"op": "amend", "id": 3, "quantity": 2},
    )
    assert [(e["maker"], e["quantity"]) for e in events if e["event"] == "traded"] == [(1, "3"), (2, "5"), (3, "2")]
    assert events[-1] == {
        "event": "rejected",
        "id": 3,
        "reason": "QUANTITY_NOT_ABOVE_FILLED",
        "remaining": "3",
        "sequence": 10,
    }


def test_account_never_trades_with_itself() -> None:
    """Orders of one account do not trade with each other; without an account every order has its own."""
    events = events_of(
        order(1, "sell", 10, 1, account="x"),
        order(2, "buy", 10, 1, account="x"),
        order(3, "buy", 10, 1, account="x", self_trade_prevention="cancel_maker"),
        order(4, "sell", 10, 1),
    )
    assert [(e["event"], e.get("id"), e.get("reason")) for e in events[2:5]] == [
        ("cancelled", 2, "SELF_TRADE"),
        ("accepted", 3, None),
        ("cancelled", 1, "SELF_TRADE"),
    ]
    assert (events[-1]["maker"], events[-1]["taker"]) == (3, 4)


def test_strangers_cannot_touch_an_order() -> None:
    """A cancel or amend with another account, or of an id that never was, is rejected as not found."""
    events = events_of(
        order(1, "sell", 10, 1, account=5),
        {"op": "cancel", "id": 1, "account": 6},
        {"op": "amend", "id": 1, "account": "5", "quantity": 2},
        {"op": "cancel", "id": "1"},
        {"op": "cancel", "id": 1, "account": 5},
    )
    assert [(e["event"], e["id"], e["reason"]) for e in events[1:]] == [
        ("rejected", 1, "ORDER_NOT_FOUND"),
        ("rejected", 1, "ORDER_NOT_FOUND"),
        ("rejected", "1", "ORDER_NOT_FOUND"),
        ("cancelled", 1, "USER"),
    ]


def test_time_expires_orders() -> None:
    """When the time of a line reaches an order's end, the order is cancelled before the line is carried out."""
    end = "2024-01-01T00:00:10Z"
    events = events_of(
        order(1, "sell", 10, 1, time_in_force="gtd", expires_at=end),
        order(2, "buy", 9, 1, time="2024-01-01T00:00:09.999Z"),
        order(3, "buy", 10, 1, time=1_704_067_210_000),
    )
    assert [(e["event"], e["id"], e["reason"]) for e in events] == [
        ("accepted", 1, None),
        ("accepted", 2, None),
        ("cancelled", 1, "EXPIRED"),
        ("accepted", 3, None),
    ]


def test_decimals_are_exact() -> None:
    """Numbers are taken as written, as JSON numbers or strings, and come out with the places of tick and lot."""
    options = ("--tick", "0.01", "--lot", "0.001", "--book")
    events = events_of(
        order(1, "buy", 0.07, "0.001"),
        order(2, "buy", "0.070", 1.1),
        order(3, "sell", 10_000_000, 3),
        {"id": 4, "side": "sell", "type": "stop", "stop_price": "0.05", "quantity": 2},
        options=options,
    )
    assert events[-1]["book"] == {
        "bids": [["0.07", "1.101"]],
        "asks": [["10000000.00", "3.000"]],
        "stops": [["sell", "0.05", "2.000"]],
    }


GOOD = '{"id":"good","side":"buy","price":1,"quantity":1}\n'


BAD_LINES = [
    (b"nonsense", "it is not JSON"),
    (b"[1]", "it is not a JSON object"),
    (b'{"side":"buy","price":NaN,"quantity":1}', "it is not JSON: NaN"),
    (b'{"side":"buy","price":1e3,"quantity":1}', "price must be a plain decimal"),
    (b'{"side":"buy","price":-1,"quantity":1}', "price must not be negative"),
    (b'{"side":"buy","price":0,"quantity":1}', "price must be 1 to 1000000000"),
    (b'{"side":"buy","price":1.5,"quantity":1}', "price must be a multiple of 1"),
    (b'{"side":"buy","price":1,"quantity":"0.5"}', "quantity must be a multiple of 1"),
    (b'{"side":"buy","price":1,"quantity":0}', "quantity must be 1 to"),
    (b'{"side":"buy","price":1000000000000000000000000000000,"quantity":1}', "price must be 1 to"),
    (b'{"side":"buy","price":' + b"9" * 5000 + b',"quantity":1}', "too many digits"),
    (b'{"side":"buy","price":true,"quantity":1}', "price must be of type str"),
    (b'{"side":"up","price":1,"quantity":1}', "side must be one of: buy, sell"),
    (b'{"price":1,"quantity":1}', "side is missing"),
    (b'{"side":"buy","price":1}', "quantity is missing"),
    (b'{"op":"buy","price":1,"quantity":1}', "op must be new, cancel or amend"),
    (b'{"op":["new"],"price":1,"quantity":1}', "op must be new, cancel or amend"),
    (
        b'{"side":"buy","price":1,"quantity":1,"size":2}',
        "size is unknown here; known in a line with op new are: op, id, account, time, symbol, side",
    ),
    (b'{"side":"buy","price":1,"quantity":1,"price":2}', "the field price is given twice"),
    (b'{"id":"good","side":"buy","price":1,"quantity":1}', 'id "good" was used before'),
    (b'{"id":null,"side":"buy","price":1,"quantity":1}', "id must be a string or a number"),
    (b'{"id":true,"side":"buy","price":1,"quantity":1}', "id must be a string or a number"),
    (b'{"id":1,"account":{},"side":"buy","price":1,"quantity":1}', "account must be a string or a number"),
    (b'{"side":"buy","type":"market","price":1,"quantity":1}', "a market order takes no price"),
    (b'{"side":"buy","price":1,"quantity":1,"post_only":true,"time_in_force":"ioc"}', "post_only"),
    (b'{"side":"buy","price":1,"quantity":1,"time":0}', "time must not go back"),
    (b'{"side":"buy","price":1,"quantity":1,"time":1.5}', "time must be RFC 3339 or milliseconds"),
    (b'{"side":"buy","price":1,"quantity":1,"time":"now"}', "time must be an RFC 3339 time"),
    (b'{"side":"buy","price":1,"quantity":1,"symbol":"B"}', "symbol must be A as before"),
    (b'{"op":"cancel"}', "id is missing"),
    (
        b'{"op":"cancel","id":"good","price":1}',
        "price is unknown here; known in a line with op cancel are: op, id, account, time, symbol",
    ),
    (b'{"op":"amend","id":"good"}', "give at least one of quantity, price, stop_price"),
    (
        b'{"op":"amend","id":"good","side":"sell"}',
        "side is unknown here; known in a line with op amend are: op, id, account, time, symbol, quantity",
    ),
    (b'{"side":"buy\xff"}', "it is not UTF-8"),
    (b'{"side":' + b"[" * 30_000, "nested too deep"),
    (b'{"id":"' + b"x" * 70_000 + b'"}', "it is longer than 65536 bytes"),
]


def test_bad_lines_are_named_and_change_nothing() -> None:
    """Each bad line is named by its number with what is wrong, the rest goes on as without them, and status is 1."""
    before = b'{"id":"good","symbol":"A","side":"buy","price":1,"quantity":1}\n'
    after = b'{"id":"after","side":"sell","price":1,"quantity":1}\n'
    bad = match(before + b"\n".join(line for line, _ in BAD_LINES) + b"\n" + after, "--book")
    clean = match(before + after, "--book")
    assert (bad.returncode, clean.returncode, clean.stderr) == (1, 0, "")
    assert bad.stdout == clean.stdout
    for number, ((line, said), message) in enumerate(zip(BAD_LINES, bad.stderr.splitlines(), strict=True), start=2):
        assert message.startswith(f"line {number}: "), line[:80]
        assert said in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tick", "0"), "--tick must be more than 0"),
        (("--lot", "1e-3"), "--lot must be a plain decimal"),
        (("--tick", "-1"), "--tick must not be negative"),
        (("--tick", "0.0000000001", "--lot", "0.0000000001"), "decimal places"),
        (("--tick", "100000", "--lot", "100000"), "too large"),
        (("--taker-fee", "2"), "--taker-fee must be 0 to 1"),
    ],
)
def test_impossible_option_is_refused(options: tuple[str, ...], said: str) -> None:
    """A wrong option is one clear line, and nothing is matched."""
    result = match(GOOD, *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def random_lines(seed: int, count: int) -> str:
    """Make a stream of all kinds of lines."""
    random, lines = Random(seed), []
    for number in range(count):
        if number > 5 and random.random() < 0.3:
            line: dict[str, Any] = {"op": random.choice(("cancel", "amend")), "id": random.randrange(number)}
            if line["op"] == "amend":
                line["quantity"] = random.randint(1, 30)
        else:
            line = {"id": number, "side": random.choice(("buy", "sell")), "quantity": random.randint(1, 20)}
            line["account"] = random.randrange(6)
            kind = random.random()
            if kind < 0.8:
                line["price"] = random.randint(90, 110)
            if kind > 0.7:
                line["stop_price"] = random.randint(90, 110)
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


@pytest.mark.long
def test_same_lines_give_the_same_bytes_in_whatever_pieces(tmp_path: Path) -> None:
    """The same input gives the same output and hash, all at once or in pieces that end within lines."""
    lines = random_lines(1, 3_000)
    whole = match(lines, "--book", "--taker-fee", "0.001")
    assert whole.returncode == 0
    assert whole.stdout.count('"traded"') > 500
    data = lines.encode()
    command = [*PROGRAM, "match", "--book", "--taker-fee", "0.001"]
    with (
        (tmp_path / "events").open("w+b") as events,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=events, bufsize=0) as process,
    ):
        assert process.stdin is not None
        for start in range(0, len(data), 777):
            process.stdin.write(data[start : start + 777])
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        assert (tmp_path / "events").read_text() == whole.stdout


def test_answers_before_it_waits() -> None:
    """Someone who writes one line and waits gets its events before writing the next."""
    with subprocess.Popen(
        [*PROGRAM, "match"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, text=False
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b'{"side":"buy","price":1,"quantity":1}\n')
            event = json.loads(os.read(process.stdout.fileno(), 4096))
            assert (event["event"], event["id"]) == ("accepted", number + 1)
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_reader_that_leaves_ends_it_quietly() -> None:
    """Where the output is a pipe that nobody reads any more, it ends without a word."""
    with subprocess.Popen(
        [*PROGRAM, "match"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(random_lines(2, 2_000).encode(), timeout=60)
        assert said == b""
        assert process.returncode == 0


def test_no_lines_no_events() -> None:
    """Empty input gives nothing, and an empty book when asked for; the last line needs no line feed."""
    assert match("").stdout == ""
    assert json.loads(match("\n\n", "--book").stdout)["book"] == {"bids": [], "asks": [], "stops": []}
    assert match(GOOD.rstrip("\n")).stdout.count("accepted") == 1


def test_trades_are_those_of_a_plain_book() -> None:
    """Thousands of limit orders and cancels give the trades of an independent plain-Python book."""
    random, lines, plain = Random(3), [], ReferenceBook()
    for number in range(1, 6_000):
        if number > 10 and random.random() < 0.4:
            target = random.randrange(1, number)
            lines.append({"op": "cancel", "id": target})
            if target in plain.live:
                plain.cancel(target)
            continue
        side, price, lots = random.getrandbits(1), random.randint(90, 110), random.randint(1, 50)
        lines.append(order(number, ("buy", "sell")[side], price, lots))
        plain.place(side, number, price, lots)
    events = events_of(*lines)
    trades = [event for event in events if event["event"] == "traded"]
    assert len(trades) == plain.trades > 1_000
    assert sum(int(trade["quantity"]) for trade in trades) == plain.volume
    checksum = 0
    for trade in trades:
        values = trade["maker"] * 31 + trade["taker"] * 17 + int(trade["price"]) * 7 + int(trade["quantity"])
        checksum = (checksum * 1000003 + values) % 2**64
    assert checksum == plain.checksum
