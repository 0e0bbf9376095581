"""A wallet service over HTTP: one request per call, and answers that are believed only when they fit.

Rule 1: the id is the idempotency key, in the body and in the header ``Idempotency-Key``. Nothing is repeated here:
whether and when is for the caller to say, who has the id.
Rule 2: an answer counts as made when it is 200 or 201, of the right form, and repeats what was asked for; one that
repeats something else, or that differs from the answer which the same request got before, is ANSWER_CHANGED.
Rule 3: a refusal counts when it is 400, 409, 413 or 422 in the envelope's form. Everything else is Unavailable.
Rule 4: a call ends within its time, and takes no more memory than ``ANSWER_BYTES_MAX``, whatever the service does.
It refuses to know trades, outboxes and circuit breakers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
import trio

from tradeengine.core.money import NumberError, parse_decimal
from tradeengine.wallet.port import (
    Balance,
    BalancePage,
    Direction,
    Holding,
    Leg,
    Progress,
    RefusalCode,
    Refused,
    Transfer,
    Unavailable,
)

ANSWERS_KEPT: Final = 10_000
"""Answers that are remembered, to notice when the same request is answered differently."""
ANSWER_BYTES_MAX: Final = 1 << 20
_TEXT_MAX: Final = 300
_REFUSALS: Final = frozenset({400, 409, 413, 422})
_CODES: Final = {
    code.value: code for code in RefusalCode if code not in {RefusalCode.ANSWER_CHANGED, RefusalCode.STUCK}
}
_JSON: Final = {"Content-Type": "application/json"}

Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class _Response:
    """What came, whole."""

    status: int
    content: bytes
    retry_after: str


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Failure(msgspec.Struct, frozen=True):
    success: bool
    error: _Error


class _Meta(msgspec.Struct, frozen=True):
    next_cursor: str | None = None


class _Single(msgspec.Struct, frozen=True):
    """What was made, of one user."""

    id: str
    user: str
    asset: str
    amount: str
    number: int | str | None = None
    made_at: str | None = None


class _Legs(msgspec.Struct, frozen=True):
    """A transfer that was made."""

    id: str
    legs: list[Leg]
    number: int | str | None = None
    made_at: str | None = None


class _SingleAnswer(msgspec.Struct, frozen=True):
    success: bool
    data: _Single


class _LegsAnswer(msgspec.Struct, frozen=True):
    success: bool
    data: _Legs


class _BalancesAnswer(msgspec.Struct, frozen=True):
    success: bool
    data: list[Balance]
    meta: _Meta


class HttpWallet:
    """The port over HTTP, for a wallet that makes whole transfers; and the single calls for one that does not."""

    def __init__(self, client: httpx2.AsyncClient, url: str, timeout_s: float) -> None:
        """client: with the secret and its limits. url: where the service is, without ``/v1``. timeout_s: of a call."""
        self._client = client
        self._timeout_s = timeout_s
        self._url = url.rstrip("/")
        self._answers: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    async def transfer(self, transfer: Transfer, progress: Progress) -> None:  # noqa: ARG002 - one request is whole
        """Make a transfer in one request."""
        body = msgspec.json.encode({"id": transfer.id, "legs": transfer.legs})
        answer = (await self._post("transfers", transfer.id, body, _LegsAnswer)).data
        if answer.id != transfer.id or not _same_legs(answer.legs, transfer.legs):
            _changed("transfers", transfer.id, "it repeats another transfer")
        self._compare("transfers", transfer.id, body, answer)

    async def reserve(self, holding: Holding) -> None:
        """Move available money to reserved."""
        await self.post_single("reservations", holding.reference, holding.user, holding.asset, holding.amount)

    async def release(self, holding: Holding) -> None:
        """Move reserved money to available."""
        await self.post_single("releases", holding.reference, holding.user, holding.asset, holding.amount)

    async def move(self, id_: str, leg: Leg) -> None:
        """Make one debit or credit by itself. Raises as the port says."""
        path = "debits" if leg.direction is Direction.DEBIT else "credits"
        await self.post_single(path, id_, leg.user, leg.asset, leg.amount)

    async def deposit(self, id_: str, user: str, asset: str, amount: str) -> None:
        """Let money arrive from outside, where the service offers that: for tests and demonstrations."""
        await self.post_single("deposits", id_, user, asset, amount)

    async def balances(self, user: str | None = None, cursor: str | None = None, limit: int = 1000) -> BalancePage:
        """List balances."""
        asked = {"user": user, "cursor": cursor, "limit": str(limit)}
        response = await self._send(
            "GET", "/v1/balances", params={name: value for name, value in asked.items() if value is not None}
        )
        answer = _read(response, _BalancesAnswer)
        return BalancePage(tuple(answer.data), answer.meta.next_cursor)

    async def health(self) -> None:
        """Ask whether the service takes requests."""
        response = await self._send("GET", "/health")
        if response.status != 200:
            raise Unavailable(f"the wallet's health is answered {response.status}")

    async def post_single(self, path: str, id_: str, user: str, asset: str, amount: str) -> None:
        """Make one entry of one user's. Raises as the port says."""
        body = msgspec.json.encode({"id": id_, "user": user, "asset": asset, "amount": amount})
        answer = (await self._post(path, id_, body, _SingleAnswer)).data
        same = (answer.id, answer.user, answer.asset) == (id_, user, asset) and _same_amount(answer.amount, amount)
        if not same:
            _changed(path, id_, "it repeats something else")
        self._compare(path, id_, body, answer)

    async def _post(self, path: str, id_: str, body: bytes, shape: type[Shape]) -> Shape:
        headers = {**_JSON, "Idempotency-Key": quote(id_, safe="!#$&'()*+,-./:;=?@_~")}
        response = await self._send("POST", f"/v1/{path}", content=body, headers=headers)
        try:
            return _read(response, shape)
        except Refused as refusal:
            if (path, body) in self._answers:
                _changed(path, id_, f"it was made before, and is refused now: {refusal.message}")
            raise

    async def _send(self, method: str, path: str, **request: Any) -> _Response:
        try:
            with trio.fail_after(self._timeout_s):
                async with self._client.stream(method, self._url + path, **request) as response:
                    return _Response(
                        response.status_code, await _bounded(response), response.headers.get("Retry-After", "")
                    )
        except trio.TooSlowError as error:
            raise Unavailable(f"{method} {path}: no whole answer within {self._timeout_s} s") from error
        except httpx2.TimeoutException as error:
            raise Unavailable(f"{method} {path}: no answer in time ({type(error).__name__})") from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error

    def _compare(self, path: str, id_: str, body: bytes, answer: _Single | _Legs) -> None:
        """Compare with the answer that the same request got before, if it did."""
        receipt = f"number {answer.number} at {answer.made_at}"
        earlier = self._answers.setdefault((path, body), receipt)
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        if earlier != receipt:
            _changed(path, id_, f"{receipt}, before it was {earlier}")


@asynccontextmanager
async def open_http(url: str, secret: str, *, timeout_s: float, connections_max: int) -> AsyncIterator[HttpWallet]:
    """Open a connection pool to a wallet service. Nothing is sent before the first call.

    url: ``http://`` or ``https://`` and host, with a port and a path if need be. secret: "" is enough to ask for its
    health. timeout_s: for a whole call, the wait for a connection included. connections_max: calls at once; more wait.
    """
    limits = httpx2.Limits(max_connections=connections_max, max_keepalive_connections=connections_max)
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {secret}"} if secret else {})}
    # trust_env: a proxy that someone's shell names is not for this.
    async with httpx2.AsyncClient(headers=headers, timeout=timeout_s, limits=limits, trust_env=False) as client:
        yield HttpWallet(client, url, timeout_s)


async def _bounded(response: httpx2.Response) -> bytes:
    """Read a body. Raises Unavailable when it is too large."""
    content = bytearray()
    with trio.CancelScope() as reading:
        async for part in response.aiter_raw():
            content += part
            if len(content) > ANSWER_BYTES_MAX:
                # Who would just leave the loop would leave the library's own generators unfinished.
                reading.cancel()
    if len(content) > ANSWER_BYTES_MAX:
        raise Unavailable(f"the wallet's answer is larger than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _read(response: _Response, shape: type[Shape]) -> Shape:
    """Read an answer of the right form, or raise what it means."""
    status = response.status
    if status in {200, 201}:
        try:
            answer = msgspec.json.decode(response.content, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(f"the wallet's answer cannot be understood: {error}") from error
        if getattr(answer, "success", False) is not True:
            raise Unavailable(f"the wallet's answer is {status} and no success")
        return answer
    if status in _REFUSALS:
        _refuse(response)
    raise Unavailable(f"the wallet answered {status}: {_shown(response)}", retry_after_s=_retry_after_s(response))


def _refuse(response: _Response) -> NoReturn:
    try:
        error = msgspec.json.decode(response.content, type=_Failure).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unavailable(f"the wallet answered {response.status} without saying why: {_shown(response)}") from None
    code = _CODES.get(error.code, RefusalCode.INVALID)
    raise Refused(
        code, error.message[:_TEXT_MAX] if error.code in _CODES else f"{error.code}: {error.message}"[:_TEXT_MAX]
    )


def _changed(path: str, id_: str, how: str) -> NoReturn:
    raise Refused(RefusalCode.ANSWER_CHANGED, f"the wallet's answer to {path} {id_} is not what it must be: {how}")


def _same_legs(given: list[Leg], asked: tuple[Leg, ...]) -> bool:
    return len(given) == len(asked) and all(
        (left.user, left.asset, left.direction) == (right.user, right.asset, right.direction)
        and _same_amount(left.amount, right.amount)
        for left, right in zip(given, asked, strict=True)
    )


def _same_amount(left: str, right: str) -> bool:
    try:
        return left == right or parse_decimal(left) == parse_decimal(right)
    except NumberError:
        return False


def _shown(response: _Response) -> str:
    """Give the beginning of a body, fit for a log line."""
    return " ".join(response.content[:_TEXT_MAX].decode("utf-8", "replace").split())


def _retry_after_s(response: _Response) -> float | None:
    text = response.retry_after
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= len("86400") else None
