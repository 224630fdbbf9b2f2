"""A connection between two daemons: the handshake, then numbered frames, on an event loop.

Promises: no byte of a stranger reaches a decoder, and a handshake that is not finished within its deadline ends the
connection. The stream does not know what frames mean, nor what to do when they stop: it hands them on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.io.socket_protocol import SocketProtocol
from asyncray.wire.frames import ProtocolViolation
from asyncray.wire.handshake import DialerHandshake, Handshake, HandshakeError
from asyncray.wire.link_frames import LARGEST_BODY, LinkDecoder, header

HANDSHAKE_DEADLINE = 3.0
"""Seconds until the other side must have proved that it belongs to the cluster."""

FrameTaker = Callable[[Any, int, int, int, Sequence[Any]], None]
"""Takes a frame: the connection, number, acknowledged number, size in bytes, messages."""


class LinkStream(SocketProtocol):
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
        super().__init__()
        # Knows who the other side is.
        self.handshake = handshake
        self._shaken = shaken
        self._received = received
        self._closed = closed
        self._came = came
        # None until the handshake is done: no decoder exists for strangers.
        self._decoder: LinkDecoder | None = None
        # Ends a handshake that takes too long.
        self._timer: asyncio.TimerHandle | None = None
        # The IP address of the other side.
        self.address = ""

    def __repr__(self) -> str:
        return f"<LinkStream {'open' if self.transport else 'closed'} {self.handshake}>"

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        """Writes a frame; drops it if the connection has ended."""
        if self.transport is not None and not self._closing:
            self.transport.writelines((header(body, number, acknowledged), body))

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """Gives the connection away, from within ``shaken``, to another protocol. Reports nothing any more.

        Returns: the transport, and the bytes that came behind the handshake.
        """
        transport, self.transport = self.transport, None
        assert transport is not None, f"{self} has no connection"
        self._closing = True
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return transport, self.handshake.rest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        self._came(self)  # may abort it
        super().connection_made(transport)
        if self._closing or self.transport is None:
            return
        loop = asyncio.get_running_loop()
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

    def ended(self, why: str | None) -> None:
        self._stop_timer()
        self._closed(self, why)
