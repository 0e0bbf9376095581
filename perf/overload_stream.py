"""Orders over WebSocket connections at rates of their own, whether or not they are answered, for ``perf.overload``.

What a socket does not take waits here; a latency is from the time when an order was due.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from perf.overload_client import LEAD_S, TIMEOUT_S, rates
from perf.stream_clients import Client, masked


@dataclass(frozen=True)
class StreamLoad:
    """A connection: whose it is, and how many orders a second it sends."""

    token: str
    rate_per_s: float


class Answer(msgspec.Struct):
    """What is read of an answer."""

    type: str
    id: int | str | None = None
    code: str = ""


_decode: Final = msgspec.json.Decoder(Answer).decode


class Placer(Client):
    """One connection that places orders."""

    def __init__(self, port: int, load: StreamLoad, place: dict[str, Any]) -> None:
        super().__init__(port, "/ws/stream", {}, [])
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.load = load
        self.sent = 0
        self.unsent = b""
        self.answers: Counter[str] = Counter()
        self.latencies_s: dict[str, list[float]] = {"answered": [], "refused": []}
        self.began_s = 0.0
        self._heard = 0
        self._place = json.dumps({"op": "place", **place})[1:]
        self.send({"op": "auth", "id": "auth", "access_token": load.token})
        while not self.answers["auth"]:
            self.receive()
        self.answers.clear()
        self.socket.setblocking(False)

    @property
    def waits(self) -> int:
        """Orders that have no answer."""
        return self.sent - self._heard

    def send_due(self, now_s: float, end_s: float) -> None:
        """Send what is due, as far as the socket takes it."""
        due = int((min(now_s, end_s) - self.began_s) * self.load.rate_per_s)
        frames = [masked(f'{{"id": {number}, {self._place}'.encode()) for number in range(self.sent, due)]
        self.sent += len(frames)
        self.unsent += b"".join(frames)
        if self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return

    def take(self, opcode: int, payload: bytes) -> None:
        """Take an answer."""
        if opcode == 9:
            self.socket.send(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)
        elif opcode == 8:
            self.answers["closed"] += 1
        elif opcode == 1:
            answer = _decode(payload)
            if isinstance(answer.id, str):
                self.answers[answer.id] += 1
            elif answer.id is not None:
                self._heard += 1
                self._note(answer, (answer.id + 1) / self.load.rate_per_s)

    def _note(self, answer: Answer, due_s: float) -> None:
        if due_s < LEAD_S:
            return
        kind = "answered" if answer.type == "ack" else "refused"
        self.answers[answer.code or "ack"] += 1
        self.latencies_s[kind].append(time.perf_counter() - self.began_s - due_s)


def run_streams(port: int, loads: list[StreamLoad], seconds: float, place: dict[str, Any]) -> list[dict[str, Any]]:
    """Drive connections side by side; returns the figures of each, as ``perf.overload_client`` gives them."""
    placers = [Placer(port, load, place) for load in loads]
    selector = selectors.DefaultSelector()
    for placer in placers:
        selector.register(placer.socket, selectors.EVENT_READ, placer)
        placer.began_s = time.perf_counter()
    end_s = time.perf_counter() + seconds
    while (now_s := time.perf_counter()) < end_s + TIMEOUT_S:
        for placer in placers:
            placer.send_due(now_s, end_s)
        if now_s > end_s and not any(placer.waits for placer in placers):
            break
        for key, _ in selector.select(0.001):
            if not key.data.receive():
                selector.unregister(key.data.socket)
                key.data.answers["closed"] += 1
    rows = [_summary(placer, seconds - LEAD_S) for placer in placers]
    for placer in placers:
        placer.socket.close()
    return rows


def _summary(placer: Placer, measured_s: float) -> dict[str, Any]:
    if placer.waits:
        placer.answers["timed out"] += placer.waits
    figures: dict[str, Any] = {"offered_per_s": placer.load.rate_per_s, "answers": dict(placer.answers)}
    return figures | rates(placer.latencies_s, measured_s)
