"""Who may connect to streams, how often, from where, and how: others get an HTTP answer that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from tests.e2e.users import User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine, running_engine
from tests.web.raw_websocket import WAIT_S, RawSocket, Refused, connect, connected, read_body, read_head

TOTAL, PER_ADDRESS, PER_USER, SUBSCRIPTIONS = 2050, 8, 5, 10
ALLOWED = "https://trade.example"
ENVIRONMENT = {
    "TRADEENGINE_STREAMS_CONNECTIONS_MAX": f"{TOTAL}",
    "TRADEENGINE_STREAMS_CONNECTIONS_PER_ADDRESS_MAX": f"{PER_ADDRESS}",
    "TRADEENGINE_STREAMS_CONNECTIONS_PER_USER_MAX": f"{PER_USER}",
    "TRADEENGINE_STREAMS_SUBSCRIPTIONS_MAX": f"{SUBSCRIPTIONS}",
    "TRADEENGINE_HTTP_TRUSTED_PROXIES": "127.0.0.1",
    "TRADEENGINE_HTTP_CORS_ORIGINS": ALLOWED,
}
ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine behind a proxy, so that a test may come from any address."""
    with running_engine(tmp_path_factory.mktemp("limits"), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture(scope="module")
def alice(venue: Engine) -> Iterator[User]:
    """Give a user."""
    user = make_user(venue, "alice", {"USDT": "100000"})
    yield user
    user.http.close()


def coming_from(address: str) -> list[tuple[str, str]]:
    """Make the header with which the proxy names a client."""
    return [("X-Forwarded-For", address)]


async def connect_when_let_in(venue: Engine, address: str) -> RawSocket:
    """Connect as soon as there is room."""
    with trio.fail_after(WAIT_S):
        while True:
            with suppress(Refused):
                return await connect(venue.url, headers=coming_from(address))
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("network", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8:0:1::{}", "2001:db8:0:2::")], ids=["IPv4", "IPv6"]
)
async def test_connections_of_an_address_are_bounded(venue: Engine, network: str, other: str) -> None:
    """One address, or network of IPv6, may have so many connections; the next is 429, which ends; others are let in."""
    async with AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(connected(venue.url, headers=coming_from(network.format(number))))
            for number in range(PER_ADDRESS)
        ]
        with pytest.raises(Refused) as refused:
            await connect(venue.url, headers=coming_from(network.format("ffff")))
        assert (refused.value.status, refused.value.code) == (429, "RATE_LIMITED")
        details = refused.value.body["error"]["details"]
        assert details == {"field": "connections_per_address_max", "maximum": PER_ADDRESS}
        assert int(refused.value.headers["retry-after"]) > 0
        await stack.enter_async_context(connected(venue.url, headers=coming_from(other)))
        await trio.aclose_forcefully(held[0].stream)
        again = await connect_when_let_in(venue, network.format("fffe"))
        await again.ask("ping")
        await trio.aclose_forcefully(again.stream)


async def test_bound_holds_for_those_who_come_at_once(venue: Engine, alice: User) -> None:
    """Of many who connect at the same moment, from one address or as one user, no more than the bound get in."""
    for address, token, bound in (
        ("192.0.2.10", None, PER_ADDRESS),
        ("192.0.2.11", None, PER_ADDRESS),
        (None, token_of(alice), PER_USER),
    ):
        got_in: list[RawSocket] = []
        refused: list[int] = []

        async def come(number: int) -> None:
            headers = coming_from(address or f"192.0.3.{number}")  # noqa: B023 - awaited before it changes
            try:
                got_in.append(await connect(venue.url, token=token, headers=headers))  # noqa: B023
            except Refused as error:
                refused.append(error.status)  # noqa: B023

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(come, number)
        assert (len(got_in), set(refused)) == (bound, {429})
        for socket in got_in:
            await trio.aclose_forcefully(socket.stream)


async def test_connections_of_a_user_are_bounded(venue: Engine) -> None:
    """One user may have so many connections, wherever they come from and however they say who they are."""
    user, other = make_user(venue, "many"), make_user(venue, "few")
    async with AsyncExitStack() as stack:
        for number in range(PER_USER):
            headers = coming_from(f"198.51.100.{number}")
            await stack.enter_async_context(connected(venue.url, token=token_of(user), headers=headers))
        with pytest.raises(Refused) as refused:
            await connect(venue.url, "/ws/orders", token=token_of(user), headers=coming_from("198.51.100.99"))
        assert refused.value.body["error"]["details"] == {"field": "connections_per_user_max", "maximum": PER_USER}
        assert refused.value.status == 429
        late = await stack.enter_async_context(connected(venue.url, headers=coming_from("198.51.100.98")))
        error = await late.refusal("auth", access_token=token_of(user))
        assert (error["code"], error["details"]["maximum"]) == ("RATE_LIMITED", PER_USER)
        assert (await late.refusal("subscribe", channels=["orders"]))["code"] == "UNAUTHORIZED"
        assert (await late.ask("auth", access_token=token_of(other)))["user"] == other.name
    for one in (user, other):
        one.http.close()


async def test_subscriptions_of_a_connection_are_bounded(venue: Engine) -> None:
    """A connection may listen to so many channels; a request for more is refused whole, and changes nothing."""
    async with connected(venue.url) as socket:
        symbols = ["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT"]
        channels = [f"{kind}:{symbol}" for kind in ("trades", "status") for symbol in symbols]
        assert (await socket.ask("subscribe", channels=channels[:4]))["channels"] == channels[:4]
        error = await socket.refusal("subscribe", channels=channels[4 : SUBSCRIPTIONS + 1])
        assert (error["code"], error["details"]["maximum"]) == ("LIMIT_EXCEEDED", SUBSCRIPTIONS)
        assert (await socket.ask("subscribe", channels=channels[4:SUBSCRIPTIONS]))["channels"] == channels[
            :SUBSCRIPTIONS
        ]
        await socket.ask("subscribe", channels=channels[:SUBSCRIPTIONS])
        assert (await socket.refusal("subscribe", channels=channels[-1:]))["code"] == "LIMIT_EXCEEDED"
        await socket.ask("unsubscribe", channels=channels[:1])
        await socket.ask("subscribe", channels=channels[-1:])


@pytest.mark.long
async def test_thousands_idle_and_orders_are_answered(venue: Engine, alice: User) -> None:
    """With two thousand connections that only listen, orders are answered, and a trade reaches every listener."""
    async with AsyncExitStack() as stack:
        sockets: list[RawSocket] = []

        async def fill(part: int) -> None:
            for number in range(part, TOTAL - 50, 20):
                headers = coming_from(f"10.{number // PER_ADDRESS // 250}.{number // PER_ADDRESS % 250}.1")
                sockets.append(await stack.enter_async_context(connected(venue.url, "/ws/trades", headers=headers)))

        async with trio.open_nursery() as nursery:
            for part in range(20):
                nursery.start_soon(fill, part)
        assert len(sockets) == TOTAL - 50
        async with connected(venue.url, token=token_of(alice), headers=coming_from("203.0.113.1")) as socket:
            for _ in range(20):
                order = (await socket.ask("place", **ORDER))["order"]
                await socket.ask("cancel", order_id=order["id"])
            bob = make_user(venue, "bob", {"BTC": "1"})
            await socket.ask("place", **ORDER)
            traded = bob.place(symbol="BTC/USDT", side="sell", quantity="0.1", price="100")["trades"][0]
            bob.http.close()
            for listener in sockets:
                assert (await listener.next("trade_executed"))["trade_id"] == traded["id"]
        with pytest.raises(Refused) as refused:
            await fill_up(venue, stack)
        assert refused.value.body["error"]["details"] == {"field": "connections_max", "maximum": TOTAL}
        assert refused.value.status == 429
    socket = await connect_when_let_in(venue, "203.0.113.2")
    await socket.ask("ping")
    await trio.aclose_forcefully(socket.stream)


async def fill_up(venue: Engine, stack: AsyncExitStack) -> None:
    """Connect from ever new addresses. Raises Refused."""
    for number in range(100):
        await stack.enter_async_context(connected(venue.url, headers=coming_from(f"203.0.114.{number}")))


@pytest.mark.parametrize(
    ("origins", "is_allowed"),
    [
        ([], True),
        ([ALLOWED], True),
        (["http://{host}"], True),
        (["https://{host}"], True),
        (["https://evil.example"], False),
        (["https://trade.example.evil.example"], False),
        (["http://trade.example"], False),
        (["https://trade.example:8443"], False),
        (["null"], False),
        ([""], False),
        (["http://["], False),
        (["file://"], False),
        ([ALLOWED, "https://evil.example"], False),
    ],
)
async def test_origin_has_to_be_allowed(venue: Engine, origins: list[str], is_allowed: bool) -> None:
    """Pages of our own and of configured origins may connect, and programs, which send none; others are 403."""
    host = venue.url.removeprefix("http://")
    headers = [("Origin", origin.format(host=host)) for origin in origins]
    if is_allowed:
        async with connected(venue.url, headers=headers) as socket:
            await socket.ask("ping")
        return
    for path in ("/ws/stream", "/ws/markets/BTC-USDT"):
        with pytest.raises(Refused) as refused:
            await connect(venue.url, path, headers=headers)
        assert (refused.value.status, refused.value.code) == (403, "FORBIDDEN")
        assert refused.value.body["error"]["details"]["field"] == "Origin"


async def test_allowed_origin_still_needs_its_token(venue: Engine) -> None:
    """An allowed page gets no private channel for being allowed, and no cookie counts as a token."""
    headers = [("Origin", ALLOWED), ("Cookie", "access_token=x; session=y")]
    async with connected(venue.url, headers=headers) as socket:
        assert (await socket.refusal("subscribe", channels=["orders"]))["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /ws/stream", {}, 404),
        ("GET /ws/nothing", {}, 404),
        ("GET /ws/stream", {"Upgrade": "websocket"}, 404),
        ("GET /ws/stream", {"Upgrade": "websocket", "Connection": "Upgrade"}, 400),
        ("GET /ws/stream", {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "short"}, 400),
        (
            "GET /ws/stream",
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "8",
            },
            400,
        ),
        (
            "POST /ws/stream",
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                "Content-Length": "0",
            },
            404,
        ),
        ("POST /ws/stream", {"Content-Length": "0"}, 404),
    ],
)
async def test_other_requests_for_streams_are_answered_in_the_envelope(
    venue: Engine, request_line: str, headers: dict[str, str], status: int
) -> None:
    """What asks for a stream but is no handshake is an HTTP answer in the envelope, and the server goes on."""
    host, _, port = venue.url.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        lines = [f"{request_line} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        with trio.fail_after(WAIT_S):
            answered, answer_headers, rest = await read_head(stream)
            body = await read_body(stream, answer_headers, rest)
        assert answered == status, body
        assert answer_headers["content-type"] == "application/json"
    async with connected(venue.url) as socket:
        await socket.ask("ping")


async def test_proxies_that_are_not_trusted_name_nobody(venue: Engine) -> None:
    """Of a chain of proxies only what the trusted one saw counts: nobody gets room by writing other addresses."""
    async with AsyncExitStack() as stack:
        for number in range(PER_ADDRESS):
            headers = coming_from(f"10.9.9.{number}, 192.0.2.77")
            await stack.enter_async_context(connected(venue.url, headers=headers))
        with pytest.raises(Refused, match="429"):
            await connect(venue.url, headers=coming_from("10.9.9.200, 192.0.2.77"))
