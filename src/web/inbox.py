"""The inbox: the one task of a front that reads rings. Answers to commands go to gateways, the feed to the hub.

While nobody waits for an answer and nobody listens to streams, nothing is read and the front sleeps, however busy the
engine is.
It refuses to know what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from tradeengine.ipc.doorbell import Doorbell
    from tradeengine.web.gateway import Gateway
    from tradeengine.web.streams.hub import Hub

WAIT_S_MAX: Final = 0.1
FEED_PAUSE_S: Final = 0.002
"""After messages were passed on, and while nobody waits for an answer: those that come next go out together."""


class Inbox:
    """Reads for gateways and a hub, which call ``wake`` when there is something to read for."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._work = trio.Event()

    def wake(self) -> None:
        """Begin to read, should nothing have been read until now."""
        self._work.set()

    async def run(self, gateways: Sequence[Gateway], hub: Hub) -> None:
        """Read until cancelled."""
        while True:
            if not (hub.listens or any(gateway.waits for gateway in gateways)):
                self._work = trio.Event()
                await self._work.wait()
            passed = 0
            for gateway in gateways:
                passed += gateway.scan() if gateway.waits else 0
                gateway.expire()
            told = hub.scan() if hub.listens else 0
            hub.flush()
            if passed + told == 0:
                rung_for_us = await self._doorbell.wait_trio(WAIT_S_MAX, _news(gateways, hub))
                if not rung_for_us:
                    await self._pause(gateways)
            elif told:
                await self._pause(gateways)
            else:
                await trio.lowlevel.checkpoint()

    async def _pause(self, gateways: Sequence[Gateway]) -> None:
        """Let messages gather while nobody waits for an answer.

        The bell rings for events too, which matter to nobody then; without a pause a busy engine would wake a front
        that has one quiet client thousands of times a second.
        """
        if any(gateway.waits for gateway in gateways):
            await trio.lowlevel.checkpoint()
            return
        self._work = trio.Event()
        with trio.move_on_after(FEED_PAUSE_S):
            await self._work.wait()


def _news(gateways: Sequence[Gateway], hub: Hub) -> Callable[[], bool]:
    """Say whether there is anything to read."""

    def is_there() -> bool:
        if any(gateway.waits and gateway.has_events() for gateway in gateways):
            return True
        return hub.listens and hub.has_messages()

    return is_there
