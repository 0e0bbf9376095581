"""A connection whose owner stays alive while the server is silent, and which does not wait for ever.

A server that is gone breaks the connection; one that hangs (a frozen machine, a full disk's endless retry) just says
nothing, and a plain wait would hang with it. Here the owner is called several times a second meanwhile, and after a
bounded silence the wait ends as if the connection had broken. What was asked is cancelled first: the server may be well
and only slow, and a pooler in between would let it work on for nobody.
It refuses to know what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, NoReturn, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Value = TypeVar("Value")

_INTERVAL_S: Final = 0.1
_CANCEL_TIMEOUT_S: Final = 1.0


class ServerSilent(psycopg.OperationalError):
    """The server said nothing for longer than it may. The connection is of no more use."""


class PatientConnection(psycopg.Connection[Any]):
    """A synchronous connection; ``attend`` is called while it waits, and ``silence_s_max`` ends the wait."""

    attend: Callable[[], None] | None = None
    silence_s_max: float = 60.0

    @classmethod
    def open(
        cls, dsn: str, attend: Callable[[], None], *, connect_timeout_s: int, silence_s_max: float, name: str
    ) -> Self:
        """Connect in autocommit. name: as which the server shows the connection. Raises psycopg.OperationalError."""
        # A server that vanished without a word is noticed on networks too, as soon as the address itself says.
        alive = {
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": int(silence_s_max * 1000),
        }
        given = conninfo_to_dict(dsn)
        missing = {option: str(value) for option, value in alive.items() if option not in given}
        connection = cls.connect(
            make_conninfo(dsn, **missing),
            autocommit=True,
            connect_timeout=connect_timeout_s,
            application_name=name,
        )
        connection.attend = attend
        connection.silence_s_max = silence_s_max
        return connection

    def wait(
        self, gen: Generator[Any, Any, Value], interval: float = _INTERVAL_S, timeout: float | None = None
    ) -> Value:
        """Wait as psycopg does. Raises ServerSilent when the server says nothing for too long."""
        return super().wait(self._attended(gen), interval, timeout)

    def _give_up(self) -> NoReturn:
        with suppress(psycopg.Error):
            self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
        raise ServerSilent(f"the server said nothing for {self.silence_s_max:g} s")

    def _attended(self, gen: Generator[Any, Any, Value]) -> Generator[Any, Any, Value]:
        heard_s = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard_s = time.monotonic()
                elif self.attend is not None:
                    self.attend()
                    if time.monotonic() - heard_s > self.silence_s_max:
                        self._give_up()
                wanted = gen.send(ready)
        except StopIteration as end:
            value: Value = end.value
            return value
