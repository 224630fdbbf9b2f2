"""A connection between two daemons: the handshake, then numbered frames, on an event loop.

Promises: no byte of a stranger reaches a decoder, and a handshake that is not finished within its deadline ends the
connection. The stream does not know what frames mean, nor what to do when they stop: it hands them on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

from asyncray.config import READ_SIZE
from asyncray.wire.frames import ProtocolViolation
from asyncray.wire.handshake import DialerHandshake, Handshake, HandshakeError
from asyncray.wire.link_frames import LARGEST_BODY, LinkDecoder, header

HANDSHAKE_DEADLINE = 3.0
"""Seconds until the other side must have proved that it belongs to the cluster."""

FrameTaker = Callable[[Any, int, int, int, Sequence[Any]], None]
"""Takes a frame: the connection, number, acknowledged number, size in bytes, messages."""


class LinkStream(asyncio.Protocol):
    """One end of a connection.

    Args:
        handshake: that of the side which this end is.
        shaken: called once when the other side has proved that it belongs to the cluster.
        received: takes each frame.
        closed: called once when the connection has ended, with a reason, or None for a plain end. Frames that the other
            side sent before its end may not have been read yet: see ``drain_input``.
        came: called once when the connection exists, with an other side that has proved nothing.
    """

    def __init__(
        self,
        handshake: Handshake,
        shaken: Callable[[LinkStream], None],
        received: FrameTaker,
        closed: Callable[[LinkStream, str | None], None],
        came: Callable[[LinkStream], None] = lambda stream: None,
    ) -> None:
        # It knows who the other side is.
        self.handshake = handshake
        self._shaken = shaken
        self._received = received
        self._closed = closed
        self._came = came
        # None until the handshake is done: no decoder exists for strangers.
        self._decoder: LinkDecoder | None = None
        # Ends a handshake that takes too long.
        self._timer: asyncio.TimerHandle | None = None
        # The reason that ``closed`` gets.
        self._why: str | None = None
        # True once this side has closed or aborted the connection: input of the other is ignored from then on.
        self._closing = False
        # The IP address of the other side.
        self.address = ""
        # None before the connection is made and after it is lost.
        self.transport: asyncio.Transport | None = None
        # A duplicate of the socket's: the loop closes its own descriptor when a write fails, even with unread input.
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<LinkStream {'open' if self.transport else 'closed'} {self.handshake}>"

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        """Writes a frame; drops it if the connection has ended."""
        if self.transport is not None and not self._closing:
            self.transport.writelines((header(body, number, acknowledged), body))

    def close(self) -> None:
        """Ends the connection when all frames are written. Ignores input from now on."""
        self._closing = True
        if self.transport is not None:
            self.transport.close()

    def abort(self, why: str | None = None) -> None:
        """Ends the connection at once. ``closed`` gets the reason."""
        self._closing = True
        self._why = self._why or why
        if self.transport is not None:
            self.transport.abort()

    def drain_input(self) -> None:
        """Reads at once all that the other side has written, and hands it on."""
        while self._descriptor is not None and not self._closing and self._decoder is not None:
            try:
                data = os.read(self._descriptor, READ_SIZE)
            except OSError:
                return  # no more input
            if not data:
                return
            self.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        try:
            self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        except OSError as error:
            self._closing = True
            self._why = f"a connection needs another descriptor: {error.strerror}"
        if not self._closing:
            self._came(self)
        self.transport = cast(asyncio.Transport, transport)
        if self._closing:
            # Not at once: the caller hands the socket to uvloop's transport after this call, which must not be closed.
            loop.call_soon(self.transport.abort)
            return
        self._timer = loop.call_later(HANDSHAKE_DEADLINE, self.abort, "the handshake took too long")
        if isinstance(self.handshake, DialerHandshake):
            self.transport.write(self.handshake.start())

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            if self._decoder is None:
                data = self._shake_hands(data)
            if self._decoder is not None:
                for number, acknowledged, size, messages in self._decoder.feed(data):
                    self._received(self, number, acknowledged, size, messages)
        except (HandshakeError, ProtocolViolation) as error:
            self.abort(str(error))

    def _shake_hands(self, data: bytes) -> bytes:
        """Goes on with the handshake. Returns the bytes that came behind it."""
        answer = self.handshake.feed(data)
        if answer and self.transport is not None:
            self.transport.write(answer)
        if self.handshake.done:
            self._stop_timer()
            self._shaken(self)
            self._decoder = None if self._closing else LinkDecoder(LARGEST_BODY)
        return self.handshake.rest

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._stop_timer()
        self._closed(self, self._why or (None if exc is None else str(exc)))
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
