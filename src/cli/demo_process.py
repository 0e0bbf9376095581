"""The process that the demo traders run in, from both of its ends: started beside an engine, and ended with it.

It is an ordinary user: it gets an address and tokens, neither the engine's memory nor its secret, and it has a process
group of its own. All that it is told comes by standard input, because others can read a command line.

Rule 1: standard input ends with whoever started it, however that ended; and then so does it.
Rule 2: the engine does not depend on it: if it ends by itself, it is started again, and that is said.
It refuses to know how to trade.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from tradeengine.ipc.logs import configure_logs
from tradeengine.settings import Log
from tradeengine.settings_files import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tradeengine.settings import Settings

PROGRAM: Final = (sys.executable, "-m", "tradeengine.cli.demo_process")
PAUSE_S: Final = 2.0
"""Before it is started again."""
KILL_AFTER_S: Final = 5.0
BYTES_MAX: Final = 65536

logger = structlog.get_logger()


class Told(msgspec.Struct, frozen=True):
    """A line of standard input. Of later ones only the tokens count: they are newer.

    certificate: PEM file with what the engine shows; empty: no TLS.
    """

    url: str
    tokens: list[str]
    orders_per_s: float
    certificate: str
    log: Log


async def keep_demo_traders(settings: Settings, url: str) -> None:
    """Run demo traders against the engine at that address until cancelled."""

    def tell() -> bytes:
        tokens = list(demo_tokens(settings).values())
        told = Told(url, tokens, settings.demo.orders_per_s, settings.http.tls_certificate, settings.log)
        return msgspec.json.encode(told) + b"\n"

    while True:
        try:
            status = await _run_process(tell, settings.auth.token_lifetime_s / 2)
            logger.warning("demo traders ended and are started again", exit_status=status)
        except OSError as error:
            logger.warning("demo traders cannot be started", error=str(error))
        await trio.sleep(PAUSE_S)


def demo_tokens(settings: Settings) -> dict[str, str]:
    """Issue a token for each demo trader, by name; none when they are switched off, or the secret does not count."""
    # Not at the top: the other end needs none of it.
    from tradeengine.actors.data_dir import read_secret
    from tradeengine.actors.demo_accounts import demo_names
    from tradeengine.web.auth import issue_token

    auth = settings.auth
    if "HS256" not in auth.algorithms:
        return {}
    secret = (auth.secret or read_secret(settings.data_dir)).encode()
    return {
        name: issue_token(secret, name, "user", auth.token_lifetime_s, issuer=auth.issuer, audience=auth.audience)
        for name in demo_names(settings)
    }


async def _run_process(tell: Callable[[], bytes], interval_s: float) -> int:
    """Run one process to its end, or end it when cancelled; returns its exit status."""
    process = await trio.lowlevel.open_process(
        PROGRAM,
        stdin=subprocess.PIPE,
        # Standard output is for scripts that wait for the engine.
        stdout=2,
        # Among the engine's settings may be its secret.
        env={name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)},
        # So that Ctrl-C in a terminal reaches the engine only.
        process_group=0,
    )
    assert process.stdin is not None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_telling, process.stdin, tell, interval_s)
            status = await process.wait()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(KILL_AFTER_S):
                await process.wait()
            process.kill()
            await process.wait()
    return status


async def _keep_telling(pipe: trio.abc.SendStream, tell: Callable[[], bytes], interval_s: float) -> None:
    # Of a process that has ended, the exit status says more.
    with suppress(trio.BrokenResourceError):
        while True:
            await pipe.send_all(tell())
            await trio.sleep(interval_s)


async def main() -> int:
    """Trade as the first line says until standard input ends; returns the exit status."""
    # Not at the top: the other end needs none of it.
    import stamina

    from tradeengine.cli.demo import run_traders
    from tradeengine.client import ClientError

    # What the client repeats is not worth a line.
    stamina.instrumentation.set_on_retry_hooks([])
    status = 0
    async with aclosing(_hear()) as lines:
        told = await anext(lines, None)
        if told is None:
            return status
        configure_logs(told.log, "demo")
        newest = list(told.tokens)
        tokens = [partial(lambda place: newest[place], place) for place in range(len(newest))]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_traders, told.url, tokens, told.orders_per_s, trust(told.certificate))
                async for later in lines:
                    newest[:] = later.tokens
                nursery.cancel_scope.cancel()
        except* ClientError as failures:
            logger.warning("demo traders cannot go on", error=str(_first(failures)))
            status = 1
    return status


async def _hear() -> AsyncGenerator[Told]:
    """Read standard input line by line, to its end."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        rest = b""
        async for part in stdin:
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield msgspec.json.decode(line, type=Told)


def trust(certificate: str) -> ssl.SSLContext | None:
    """Trust this certificate, whoever issued it, by whatever name the engine is reached; none: no TLS."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Find the first failure in a group, which may hold groups."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


if __name__ == "__main__":
    sys.exit(trio.run(main))
