"""PostgreSQL from a trio program: synchronous queries in worker threads, on a few connections that are kept.

Rule 1: at most ``size`` queries run at a time, each bounded by the server's statement timeout.
Rule 2: a connection that failed is closed; a read is tried once more on a fresh one, because a restarted server leaves
dead connections behind.
It refuses to know SQL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
import trio

from tradeengine.web.errors import ApiError

P = ParamSpec("P")
Result = TypeVar("Result")
Connection = psycopg.Connection[Any]


class Database:
    """A few connections to one database."""

    def __init__(self, dsn: str, *, size: int, statement_timeout_ms: int, connect_timeout_s: int) -> None:
        self._dsn = dsn
        self._options = f"-c statement_timeout={statement_timeout_ms}"
        self._connect_timeout_s = connect_timeout_s
        self._limiter = trio.CapacityLimiter(size)
        self._idle: deque[Connection] = deque()

    async def run(
        self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Run ``query(connection, …)`` in a worker thread. Raises ApiError DATABASE_UNAVAILABLE."""

        def work() -> Result:
            try:
                return self._attempt(lambda connection: query(connection, *args, **kwargs))
            except psycopg.OperationalError:
                return self._attempt(lambda connection: query(connection, *args, **kwargs), fresh=True)

        try:
            # A query ends by its own timeout; a caller who goes away must not leave a connection half used.
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except psycopg.OperationalError as error:
            raise ApiError(
                "DATABASE_UNAVAILABLE", "The database does not answer; try again.", {"reason": type(error).__name__}
            ) from error

    def close(self) -> None:
        """Close the connections that are idle; call it when no query runs any more."""
        while self._idle:
            self._idle.pop().close()

    def _attempt(self, query: Callable[[Connection], Result], *, fresh: bool = False) -> Result:
        connection = self._connect() if fresh else self._take()
        try:
            result = query(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Connection:
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=self._connect_timeout_s,
            options=self._options,
            application_name="tradeengine-front",
        )
