"""From a request to a command, by itself: what no order of types, times and prices makes is told by field and bound."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.risk_world import symbol_spec

from tradeengine.core.records import CommandFlag, CommandKind
from tradeengine.web import placing
from tradeengine.web.errors import ApiError
from tradeengine.web.schemas import PlaceOrder
from tradeengine.web.schemas_orders import TIMEOUT_MS_MAX, TIMEOUT_MS_MIN

NOW_NS = 1_790_000_000_000_000_000
ACCOUNT = 16


def test_second_factor_goes_with_the_command_and_beside_its_flags() -> None:
    """A caller who has signed in with a second factor says so in the command; other flags stay, others say nothing."""
    wanted = {"symbol": "AAA/QQQ", "side": "buy", "type": "limit", "price": "3", "quantity": "1", "post_only": True}
    request = msgspec.convert(wanted, PlaceOrder)
    command = placing.place_command(request, symbol_spec(), ACCOUNT, NOW_NS, 100)
    placing.note_second_factor(command, two_factor=False)
    assert command["flags"] == CommandFlag.POST_ONLY
    placing.note_second_factor(command, two_factor=True)
    assert command["flags"] == CommandFlag.POST_ONLY | CommandFlag.TWO_FACTOR


@pytest.mark.parametrize("timeout_ms", [-1, 1, TIMEOUT_MS_MIN - 1, TIMEOUT_MS_MAX + 1])
def test_timer_has_bounds(timeout_ms: int) -> None:
    """A timer of no allowed length is refused with both bounds; 0 takes it away, the bounds themselves are taken."""
    with pytest.raises(ApiError) as caught:
        placing.timer_command(ACCOUNT, timeout_ms, NOW_NS, 100)
    assert caught.value.code == "NUMBER_OUT_OF_RANGE"
    assert (caught.value.details["minimum"], caught.value.details["maximum"]) == (TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
    for allowed_ms in (0, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX):
        command = placing.timer_command(ACCOUNT, allowed_ms, NOW_NS, 100)
        assert command["kind"][0] == CommandKind.CANCEL_ALL_AFTER
        assert command["expires_at_ns"][0] == allowed_ms * 10**6


@pytest.mark.parametrize("amount", ["0", "0.00"])
def test_buy_for_nothing_is_refused(amount: str) -> None:
    """An amount to spend must be more than 0: no amount would otherwise mean that a quantity was given."""
    wanted = {"symbol": "AAA/QQQ", "side": "buy", "type": "market", "quote_quantity": amount}
    with pytest.raises(ApiError) as caught:
        placing.place_command(msgspec.convert(wanted, PlaceOrder), symbol_spec(), ACCOUNT, NOW_NS, 100)
    assert (caught.value.code, caught.value.details["field"]) == ("NUMBER_OUT_OF_RANGE", "quote_quantity")
