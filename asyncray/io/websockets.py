"""A WebSocket between a node and the head, as a carrier of numbered frames: one frame in each binary message.

The machines write without waiting, and a WebSocket's ``send_bytes`` waits: so frames wait in a queue for a task that
sends them. The queue needs no bound of its own, because its bodies are those that the link keeps until they are
acknowledged, and the link gives up a connection on which nothing comes for some seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import aiohttp

from asyncray.io.link_streams import FrameTaker
from asyncray.wire.frames import ProtocolViolation
from asyncray.wire.link_frames import frame_of, header

CLOSE_DEADLINE = 1.0
"""Seconds that the other side gets for its part of the end of a WebSocket."""


class MessageSocket(Protocol):
    """A WebSocket of aiohttp, on either side."""

    async def send_bytes(self, data: bytes) -> None: ...
    async def receive(self) -> aiohttp.WSMessage: ...
    async def close(self) -> bool: ...


class WebSocketCarrier:
    """One end of a WebSocket.

    Args:
        received: takes each frame.
        closed: called once when the connection has ended, with a reason, or None for a plain end.
    """

    def __init__(
        self, socket: MessageSocket, received: FrameTaker, closed: Callable[[WebSocketCarrier, str | None], None]
    ) -> None:
        self._socket = socket
        self._received = received
        self._closed = closed
        # Frames that were not sent yet.
        self._unsent: deque[bytes] = deque()
        # Set when there is something for the sending task: a frame, or the end.
        self._wake = asyncio.Event()
        # Set when either side ends the connection: input of the other side is ignored from then on.
        self._ending = asyncio.Event()
        # The reason that ``closed`` gets.
        self._why: str | None = None

    def __repr__(self) -> str:
        return f"<WebSocketCarrier {'closing' if self._ending.is_set() else 'open'} {len(self._unsent)} frames unsent>"

    async def run(self) -> None:
        """Serves the connection until it has ended. A side that does not read cannot hold up the end."""
        create = asyncio.get_running_loop().create_task
        working = [create(self._send()), create(self._receive())]
        ending = create(self._ending.wait())
        try:
            await ending
            await asyncio.wait(working, timeout=CLOSE_DEADLINE)
        finally:
            for task in (*working, ending):
                task.cancel()
            self._closed(self, self._why)

    async def _receive(self) -> None:
        try:
            while (message := await self._socket.receive()).type is aiohttp.WSMsgType.BINARY:
                if not self._ending.is_set():
                    self._received(self, *frame_of(message.data))
        except (OSError, ProtocolViolation) as error:
            self.abort(str(error))
        finally:
            self._end()

    async def _send(self) -> None:
        try:
            while not self._ending.is_set() or self._unsent:
                if self._unsent:
                    await self._socket.send_bytes(self._unsent.popleft())
                else:
                    self._wake.clear()
                    await self._wake.wait()
            await self._socket.close()
        except OSError as error:
            self.abort(str(error))
        finally:
            self._end()

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        """Writes a frame; drops it if the connection has ended."""
        if not self._ending.is_set():
            self._unsent.append(header(body, number, acknowledged) + body)
            self._wake.set()

    def close(self) -> None:
        """Ends the connection when all frames are written. Ignores input from now on."""
        self._end()

    def abort(self, why: str | None = None) -> None:
        """Ends the connection at once. ``closed`` gets the reason."""
        self._why = self._why or why
        self._unsent.clear()
        self._end()

    def _end(self) -> None:
        self._ending.set()
        self._wake.set()

    def drain_input(self) -> None:
        """Does nothing: messages arrive in order, and the end of the connection after all of them."""
