"""What a caller owns."""

from __future__ import annotations

from quart import Blueprint, Response

from tradeengine.web import schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.envelope import success
from tradeengine.web.front import current_front, read_page
from tradeengine.web.openapi import describe
from tradeengine.web.views import balance_views

blueprint = Blueprint("account", __name__)


@blueprint.get("/balances")
@describe(tags="account", answers={200: schemas.BalancesAnswer}, access=Access.READ)
async def list_balances() -> Response:
    """List own balances, one per asset: everything that was answered before this call is in them."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    await front.history.wait_folded()
    units = read_page(front.pages.balances, account_id)["units"]
    return success(balance_views(units, front.pages.directory().assets.values()))
