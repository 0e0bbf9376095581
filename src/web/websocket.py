"""WebSocket connections as Hypercorn has them, with what a server of many streams needs besides.

It parses and closes as Hypercorn does, but differs in four things. Messages are never compressed: that costs every
client a quarter of a megabyte. A message that is too large, in however many pieces, is not kept while the rest of it
comes in. What breaks the protocol is answered by a close frame that says so. And frames that were made once for many
clients are written as they are, at once when the kernel has room: the application finds the connection in its scope,
as ``state["socket"]``.
It refuses to know what messages mean.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import trio
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from tradeengine.web.refusals import CONNECTION_STATE, refusal

SOCKET_STATE: Final = "socket"
LINGER_S: Final = 1.0
EVENTS_AT_ONCE: Final = 32
ANSWER_TURNS: Final = 4
"""Turns for answers to what came just before a client's close: nothing may follow the close frame."""
UNREAD_BYTES_MAX: Final = 1 << 14
"""Beside the piece that was read last: about a hundred orders."""


class Transport(Protocol):
    """The connection below, as the server knows it. Nothing else goes out between the pieces of what it was given."""

    def write_now(self, data: bytes) -> bool:
        """Write without waiting; returns whether all of it is out. What is not goes out with ``drain``."""

    async def drain(self) -> None:
        """Wait until everything is out, or the client is gone."""

    def unread_bytes(self) -> int:
        """Say how much the client has sent that was not read yet."""

    async def see_off(self) -> None:
        """Say that nothing more comes, and wait for a moment until the client has sent all that it wants to send."""

    async def abort(self) -> None:
        """Drop the connection, whatever is under way."""


class ClientSocket(WSStream):
    """One WebSocket connection."""

    transport: Transport
    silent_pings: int = 0
    """Pings sent since the client was last heard."""
    _answered: trio.Event
    """Set when the handshake was."""

    async def handle(self, event: Event) -> None:
        """Take what the connection brings."""
        if isinstance(event, Request):
            self._answered = trio.Event()
            event.state[SOCKET_STATE] = self
            self.transport = event.state[CONNECTION_STATE]
        elif isinstance(event, Data):
            self.silent_pings = 0
            if self.app_put is not None and not self.handshake.accepted:
                # A client that speaks before it is answered is heard afterwards, unless it was refused.
                await self._answered.wait()
                if not self.handshake.accepted:
                    return
        await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """Pass on what the application says."""
        try:
            if message is None and self.state == ASGIWebsocketState.HTTPCLOSED:
                # A connection that closes with unread bytes is reset, and the refusal of the handshake is lost.
                await self.transport.see_off()
            await super().app_send(message)
        finally:
            if self.state != ASGIWebsocketState.HANDSHAKE or message is None:
                self._answered.set()

    @property
    def is_behind(self) -> bool:
        """Whether the client sends more than is read: what comes then waits for long, and is better refused."""
        return self.transport.unread_bytes() > UNREAD_BYTES_MAX

    def write_now(self, frames: bytes) -> bool:
        """Write frames without waiting; returns whether all of them are out. What is not goes out with ``drain``."""
        return self.closed or self.transport.write_now(frames)

    async def drain(self) -> None:
        """Wait until the client has taken everything, or is gone."""
        await self.transport.drain()

    async def ping(self) -> None:
        """Send a ping."""
        self.silent_pings += 1
        await self._send_wsproto_event(Ping())

    async def abort(self) -> None:
        """Drop the connection."""
        await self.transport.abort()

    async def _send_error_response(self, status_code: int) -> None:
        await self._send_whole(*refusal(status_code))
        if self.app_put is None:
            # No application was asked, so none will end the connection.
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer a handshake where the application does not."""
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None
        await super()._accept(message)

    async def _handle_events(self) -> None:
        for number, event in enumerate(self.connection.events(), 1):
            if number % EVENTS_AT_ONCE == 0:
                # Thousands of tiny frames fit into one read: others have their turn between them.
                await trio.lowlevel.checkpoint()
            if isinstance(event, Message):
                if not await self._take(event):
                    return
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._end(event)
                return

    async def _take(self, event: Message[Any]) -> bool:
        """Take a piece of a message; returns whether to go on."""
        if self.state == ASGIWebsocketState.CLOSED:
            return True  # we have said goodbye: what still comes is thrown away
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            self.buffer.clear()
            await self._end(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG, reason="message too large"))
            return False
        if event.message_finished:
            assert self.app_put is not None
            await self.app_put(self.buffer.to_message())
            self.buffer.clear()
        return True

    async def _end(self, event: CloseConnection) -> None:
        """Answer the client's close, or close because of what it sent."""
        if self.connection.state == ConnectionState.REMOTE_CLOSING:
            for _ in range(ANSWER_TURNS):
                await trio.lowlevel.checkpoint()
            await self._send_wsproto_event(event.response())
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif self.state == ASGIWebsocketState.CLOSED:
            await self.send(StreamClosed(stream_id=self.stream_id))
        else:
            self.state = ASGIWebsocketState.CLOSED
            await self._send_wsproto_event(event)
            self.task_group.spawn(self._linger)

    async def _linger(self) -> None:
        """Read on for a moment: a connection that closes with unread bytes is reset, and the close frame is lost."""
        await trio.sleep(LINGER_S)
        if not self.closed:
            await self.send(StreamClosed(stream_id=self.stream_id))
