"""Requests of a session: subscribe, unsubscribe, auth, ping, and orders as over HTTP. Each is answered once, by its id.

Orders go to the engine in the order in which they were read, and are answered as they are done, maybe in another.

Rule 1: a wrong request changes nothing and is answered with the field and the bound. Rule 2: who insists on wrong
requests, or sends more than it may, is told so and then closed.
It refuses to know connections.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from tradeengine.core.times import format_ms
from tradeengine.web import placing, schemas, trading
from tradeengine.web.access import Access, refuse_unless
from tradeengine.web.errors import ApiError, invalid_field, overloaded
from tradeengine.web.fences import parts_of_all, refuse_if_partly_done
from tradeengine.web.front import ANSWER_GRACE_S
from tradeengine.web.gateway import NoRoom, OutcomeUnknown, Waiting
from tradeengine.web.paging import parse_id
from tradeengine.web.schemas_orders import CancelAllAfter
from tradeengine.web.streams.channels import BALANCES, ORDERS, ChannelName, parse_channel
from tradeengine.web.streams.messages import Ack, Failure, encode
from tradeengine.web.streams.private import check_cursor
from tradeengine.web.streams.requests import (
    Nothing,
    OrderNamed,
    RequestId,
    Subscribe,
    Unsubscribe,
    read_request,
    take_id,
    take_order_id,
)
from tradeengine.web.streams.session import ABUSE, TRY_AGAIN, Caller
from tradeengine.web.streams.signing_in import SigningIn, check_standing
from tradeengine.web.streams.wire import Message
from tradeengine.web.validation import read_body
from tradeengine.web.views import Records

if TYPE_CHECKING:
    from tradeengine.web.front import Front
    from tradeengine.web.streams.hub import Hub
    from tradeengine.web.streams.session import Session

PENDING_MAX: Final = 512
"""Orders of one session on their way."""
ORDERS_KNOWN_MAX: Final = 10_000
NS_PER_MS: Final = 10**6

_log = structlog.get_logger()


class Operations:
    """Carries out what sessions ask for."""

    def __init__(self, front: Front, hub: Hub) -> None:
        self._front = front
        self._hub = hub
        self.signing_in = SigningIn(front, hub)
        self._handlers: dict[str, Callable[[Session, RequestId, dict[str, Any]], Awaitable[None]]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "auth": self._authenticate,
            "ping": self._ping,
            "place": self._place,
            "amend": self._amend,
            "cancel": self._cancel,
            "cancel_all_after": self._cancel_all_after,
        }

    async def begin(self, session: Session, wanted: Subscribe) -> None:
        """Subscribe to what a path stands for; what is wrong with it is answered, and ends the session."""
        try:
            await self.subscribe(session, None, wanted)
        except ApiError as error:
            self._refuse(session, None, error)
            session.end(TRY_AGAIN, error.code)

    async def take(self, session: Session, content: str | bytes, *, fixed: bool) -> None:
        """Carry out one request, or answer what is wrong with it. fixed: on a path that takes only few."""
        request_id: RequestId = None
        try:
            raw = read_request(content, binary=session.binary)
            request_id = take_id(raw)
            # Not before the id is known: who waits for an answer must be able to tell that this is it.
            self._check_rate(session)
            if session.caller is not None:
                await self._front.api_keys.renew(session.caller.identity)
            await self._handler(raw, _FIXED if fixed else tuple(self._handlers))(session, request_id, raw)
        except ApiError as error:
            self._refuse(session, request_id, error)
            objection = self._hub.object_to(session.caller) if session.caller is not None else None
            if objection is not None:
                # Here already: whoever places many orders a second would else be taken for abusive before anyone looks.
                session.end(objection.close_code, objection.reason)
            elif error.code in _STRIKING and session.strike():
                session.end(ABUSE, "too many wrong requests")
        except Exception as error:
            _log.error("fault in a stream's request", exc_info=error)
            self._refuse(session, request_id, ApiError("INTERNAL", "The server made a mistake with this request."))
        self._hub.flush()

    async def subscribe(self, session: Session, request_id: RequestId, wanted: Subscribe) -> None:
        """Begin to listen: the answer first, then what each channel begins with.

        Raises ApiError: then nothing was subscribed to.
        """
        before, had_orders = set(session.channels), session.orders is not None
        try:
            await self._subscribe_to(session, request_id, wanted)
        except ApiError:
            for key in set(session.channels) - before:
                self._hub.leave(session, key)
            if not had_orders:
                self._hub.private.leave_orders(session)
            raise

    async def _subscribe_to(self, session: Session, request_id: RequestId, wanted: Subscribe) -> None:
        # However often a channel is named, and in whatever ways, it is one.
        names = dict.fromkeys(parse_channel(text, self._front.symbol) for text in wanted.channels)
        public = [name for name in names if isinstance(name, ChannelName)]
        private = {name for name in names if isinstance(name, str)}
        self._check(session, wanted, public, private)
        if wanted.batch is not None:
            session.batch = wanted.batch
        begin = await self._hub.join(session, public)
        cursor = balances = None
        if BALANCES in private and not session.wants_balances:
            await self._front.history.wait_folded()
        if ORDERS in private and session.orders is None:
            cursor = await self._hub.private.join_orders(session, self._caller(session, Access.READ).account_id)
        # From here on nothing waits, so that nothing comes between the answer and what each channel begins with.
        if BALANCES in private and not session.wants_balances:
            balances = self._hub.private.begin_balances(session, self._caller(session, Access.READ).account_id)
        data: dict[str, Any] = {"channels": _listens_to(session)}
        if cursor is not None:
            data["cursor"] = cursor
        self._acknowledge(session, request_id, data)
        if balances is not None:
            self._hub.give(session, balances)
        await begin()
        if cursor is not None:
            self._hub.flush()
            await self._hub.private.begin_orders(session, cursor, wanted.since)

    def _caller(self, session: Session, needed: Access) -> Caller:
        """Give who the session belongs to, if they may do what is ``needed``. Raises ApiError."""
        caller = session.caller
        if caller is None:
            raise ApiError("UNAUTHORIZED", 'This needs a token: {"op": "auth", "access_token": "…"} first.')
        check_standing(self._hub, caller)
        refuse_unless(needed, caller.identity)
        return caller

    def _check_rate(self, session: Session) -> None:
        if not session.may_ask():
            maximum = self._hub.limits.messages_per_s_max
            message = f"This connection may send {maximum} messages a second; it sent more."
            raise ApiError("RATE_LIMITED", message, {"field": "messages_per_s_max", "maximum": maximum})

    def _handler(
        self, raw: dict[str, Any], allowed: tuple[str, ...]
    ) -> Callable[[Session, RequestId, dict[str, Any]], Awaitable[None]]:
        op = raw.pop("op", None)
        if not isinstance(op, str) or op not in allowed:
            raise invalid_field("op", f"op must be one of: {', '.join(allowed)}.", allowed=list(allowed))
        return self._handlers[op]

    def _check(self, session: Session, wanted: Subscribe, public: list[ChannelName], private: set[str]) -> None:
        """See that a subscription is allowed, before anything of it is done."""
        if not wanted.channels:
            raise invalid_field("channels", "channels must name at least one channel.")
        maximum = self._hub.limits.subscriptions_max
        if len({*session.channels, *(name.key for name in public)}) > maximum:
            raise ApiError(
                "LIMIT_EXCEEDED",
                f"One connection may listen to {maximum} channels.",
                {"field": "channels", "maximum": maximum},
            )
        if private:
            self._caller(session, Access.READ)
        if wanted.since is not None:
            if ORDERS not in private:
                raise invalid_field("since", "since goes with the channel orders.")
            if session.orders is not None:
                raise invalid_field("since", "This connection listens to orders already; unsubscribe first.")
            check_cursor(wanted.since)

    async def _subscribe(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        await self.subscribe(session, request_id, read_body(raw, Subscribe))

    async def _unsubscribe(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        wanted = read_body(raw, Unsubscribe)
        for name in [parse_channel(text, self._front.symbol) for text in wanted.channels]:
            if isinstance(name, ChannelName):
                self._hub.leave(session, name.key)
            elif name == ORDERS:
                self._hub.private.leave_orders(session)
            else:
                self._hub.private.leave_balances(session)
        self._acknowledge(session, request_id, {"channels": _listens_to(session)})

    async def _authenticate(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        await self.signing_in.by_message(session, raw)
        caller = self._caller(session, Access.PUBLIC)
        expires_at = format_ms(int(caller.expires_s * 1000)) if math.isfinite(caller.expires_s) else None
        data = {"user": caller.identity.name, "expires_at": expires_at}
        self._acknowledge(session, request_id, data)
        waiting, session.after_sign_in = session.after_sign_in, None
        if waiting is not None:
            await self.subscribe(session, None, waiting)

    async def _ping(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        read_body(raw, Nothing)
        self._acknowledge(session, request_id, {"time": format_ms(time.time_ns() // NS_PER_MS)})

    async def _place(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        caller = self._paying(session)
        wanted = read_body(raw, schemas.PlaceOrder)
        spec = self._front.symbol(wanted.symbol)
        command = placing.place_command(wanted, spec, caller.account_id, time.time_ns(), self._front.command_timeout_ms)
        placing.note_second_factor(command, caller.identity.two_factor)

        def answer(events: Records) -> trading.Outcome | None:
            outcome = trading.placed(self._front, command, events)
            if outcome is not None:
                _remember(session, int(outcome.data.order.id), spec.symbol_id)
            return outcome

        later = partial(trading.read_back, self._front, command)
        details = {"client_order_id": placing.client_order_id_of(command)}
        self._send(session, request_id, command, answer, later, details)

    async def _amend(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        caller = self._paying(session)
        order_id = take_order_id(raw)
        wanted = read_body(raw, schemas.AmendOrder)
        symbol_id = session.order_symbols.get(order_id)
        if symbol_id is None:
            symbol_id = trading.found(await self._front.history.order(caller.account_id, order_id)).symbol_id
        command = placing.amend_command(
            wanted,
            self._front.symbol_by_id(symbol_id),
            caller.account_id,
            order_id,
            time.time_ns(),
            self._front.command_timeout_ms,
        )
        placing.note_second_factor(command, caller.identity.two_factor)
        self._send_change(session, request_id, command, order_id, wanted)

    async def _cancel(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        caller = self._paying(session, cancels=True)
        order_id = parse_id(read_body(raw, OrderNamed).order_id, "ORDER_NOT_FOUND")
        command = placing.cancel_command(caller.account_id, order_id, time.time_ns(), self._front.command_timeout_ms)
        self._send_change(session, request_id, command, order_id)

    def _paying(self, session: Session, *, cancels: bool = False) -> Caller:
        """Give who the session belongs to, after they have paid for one order or cancel. Raises ApiError."""
        caller = self._caller(session, Access.TRADE)
        if not cancels and session.socket.is_behind:
            raise overloaded()
        self._front.request_limits.charge_user(caller.identity.name, 1, cancels=cancels)
        return caller

    async def _cancel_all_after(self, session: Session, request_id: RequestId, raw: dict[str, Any]) -> None:
        caller = self._paying(session, cancels=True)
        timeout_ms = read_body(raw, CancelAllAfter).timeout_ms
        command = placing.timer_command(caller.account_id, timeout_ms, time.time_ns(), self._front.command_timeout_ms)

        parts, fenced = parts_of_all(self._front)

        def answer(events: Records) -> trading.TimerOutcome:
            outcome = trading.timer_set(timeout_ms, events)
            refuse_if_partly_done(self._front, fenced)
            return outcome

        self._send(session, request_id, command, answer, None, {}, parts=parts)

    def _send_change(
        self,
        session: Session,
        request_id: RequestId,
        command: placing.Command,
        order_id: int,
        amend: schemas.AmendOrder | None = None,
    ) -> None:
        account_id = self._caller(session, Access.TRADE).account_id
        self._send(
            session,
            request_id,
            command,
            lambda events: trading.changed(self._front, events, order_id, amend),
            lambda events: trading.looked_up(self._front, account_id, events, order_id),
            {"order_id": str(order_id)},
        )

    def _send(
        self,
        session: Session,
        request_id: RequestId,
        command: placing.Command,
        answer: Callable[[Records], trading.Outcome | trading.TimerOutcome | None],
        answer_later: Callable[[Records], Awaitable[trading.Outcome]] | None,
        details: dict[str, str],
        parts: int = 1,
    ) -> None:
        """Send a command and see to its answer: at once from its events, or, when these do not say it, later."""

        def done(waiting: Waiting) -> None:
            session.pending -= 1
            try:
                events = waiting.events()
                outcome = answer(events)
            except OutcomeUnknown:
                self._refuse(session, request_id, self._front.outcome_unknown(details))
            except ApiError as error:
                self._refuse(session, request_id, error)
            else:
                if outcome is None:
                    assert answer_later is not None
                    self._hub.nursery.start_soon(self._answer_later, session, request_id, answer_later, events)
                else:
                    self._acknowledge(session, request_id, outcome.data)

        self._front.refuse_when_stopping()
        if session.pending >= PENDING_MAX:
            raise overloaded()
        timeout_s = self._front.command_timeout_ms / 1000 + ANSWER_GRACE_S
        try:
            self._front.gateway.send(command, done, timeout_s, parts)
        except NoRoom:
            raise overloaded() from None
        session.pending += 1

    async def _answer_later(
        self,
        session: Session,
        request_id: RequestId,
        answer: Callable[[Records], Awaitable[trading.Outcome]],
        events: Records,
    ) -> None:
        try:
            outcome = await answer(events)
        except ApiError as error:
            self._refuse(session, request_id, error)
        else:
            self._acknowledge(session, request_id, outcome.data)
        self._hub.flush()

    def _acknowledge(self, session: Session, request_id: RequestId, data: Any) -> None:
        self._hub.give(session, Message(encode(Ack(id=request_id, data=data))))

    def _refuse(self, session: Session, request_id: RequestId, error: ApiError) -> None:
        failure = Failure(id=request_id, code=error.code, message=error.message, details=error.details)
        self._hub.give(session, Message(encode(failure)))


_FIXED: Final = ("auth", "ping")
_STRIKING: Final = frozenset({"INVALID_REQUEST", "RATE_LIMITED", "UNAUTHORIZED"})


def _listens_to(session: Session) -> list[str]:
    private = [ORDERS] * (session.orders is not None) + [BALANCES] * session.wants_balances
    return [*session.channels.values(), *private]


def _remember(session: Session, order_id: int, symbol_id: int) -> None:
    known = session.order_symbols
    known[order_id] = symbol_id
    if len(known) > ORDERS_KNOWN_MAX:
        del known[next(iter(known))]
