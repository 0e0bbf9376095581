"""How a call travels: asked over HTTP, with a token or signed, repeated when that is safe, and read into structs.

Rule 1: an answer is a struct of ``models``; a refusal is an ``ApiError``; silence is a ``NoAnswer``.
It refuses to know which calls there are.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from tradeengine.client.credentials import Credentials, credential_headers
from tradeengine.client.envelope import refusal
from tradeengine.client.errors import NoAnswer
from tradeengine.client.fields import written
from tradeengine.client.models import Answer
from tradeengine.client.pages import Pages
from tradeengine.client.repeating import repeat

T = TypeVar("T")
_API: Final = "/api/v1"
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Transport:
    """Connections to one engine. timeout_s: for a call with all its repeats."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        timeout_s: float,
        attempt_timeout_s: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.timeout_s = timeout_s
        self.http = httpx2.AsyncClient(
            base_url=base_url,
            timeout=attempt_timeout_s,
            verify=True if ssl_context is None else ssl_context,
        )
        self._credentials = credentials

    def pages(self, kind: type[list[T]], path: str, query: Mapping[str, Any]) -> Pages[T]:
        """List what comes in pages."""

        async def fetch(cursor: str | None) -> tuple[list[T], str | None]:
            async def ask() -> Answer[list[T]]:
                return await self._ask_answer(kind, "GET", path, query={**query, "cursor": cursor})

            answer = await repeat(ask, is_repeatable=True, timeout_s=self.timeout_s)
            return answer.data, answer.meta.next_cursor

        return Pages(fetch)

    async def call(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        root: str = _API,
        is_repeatable: bool = True,
    ) -> T:
        """Ask until there is an answer that stays, or no more time; is_repeatable: twice does the same as once."""

        async def ask() -> T:
            return await self.ask(kind, method, path, query=query, body=body, root=root)

        return await repeat(ask, is_repeatable=is_repeatable, timeout_s=self.timeout_s)

    async def ask(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """Ask once."""
        return (await self._ask_answer(kind, method, path, **options)).data

    async def _ask_answer(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        root: str = _API,
    ) -> Answer[T]:
        content = None if body is None else msgspec.json.encode(body)
        request = self.http.build_request(method, root + path, params=written(query or {}), content=content)
        if content is not None:
            request.headers["Content-Type"] = "application/json"
        target = request.url.raw_path.decode("ascii")
        request.headers.update(credential_headers(self._credentials, method, target, content or b""))
        try:
            response = await self.http.send(request)
        except httpx2.TransportError as error:
            what = str(error) or type(error).__name__
            raise NoAnswer(f"{method} {path}: {what}", is_sent=not isinstance(error, _NOT_SENT)) from error
        return _read(response, kind)


def _read(response: httpx2.Response, kind: type[T]) -> Answer[T]:
    """Read an answer; raise ApiError for what is none."""
    wanted: type[Answer[T]] = Answer[kind]  # type: ignore[valid-type]
    try:
        return msgspec.json.decode(response.content, type=wanted)
    except ValueError as error:
        raise refusal(response.status_code, response.headers, response.content) from error
