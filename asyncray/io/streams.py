"""The daemon's side of a stream: bytes to batches of messages, on an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from asyncray.messages import Message
from asyncray.wire.frames import Decoder, ProtocolViolation, encode_all

_READ_SIZE = 256 * 1024
_FULL = 64 * 1024 * 1024
"""Bytes that a peer may leave unread before the stream counts as full: some frames of a busy moment."""


class MessageStream(asyncio.Protocol):
    """A connection that carries frames.

    Writing never waits: what a peer has not read yet is kept (``backlog``). Whoever sends more than what the peer asked
    for must look at that first.

    Args:
        limit: the largest frame to accept, in bytes.
        received: takes a batch of messages.
        closed: called once when the connection has ended, with a reason, or None for a plain end. What the peer said
            before may not have been read: see ``hear_out``.
        drained: called when the peer has read most of what made the stream full.
    """

    def __init__(
        self,
        limit: int,
        received: Callable[[MessageStream, list[Message]], None],
        closed: Callable[[MessageStream, str | None], None],
        drained: Callable[[MessageStream], None] | None = None,
    ) -> None:
        self._decoder = Decoder(limit)
        self._received = received
        self._closed = closed
        self._drained = drained
        # True while the peer has left more than ``_FULL`` bytes unread: the sender should wait for ``drained``.
        self.is_full = False
        self._why: str | None = None
        self._over = False  # closed by us: nothing of the peer matters any more
        self.transport: asyncio.Transport | None = None
        self._descriptor: int | None = None  # of our own: the loop closes its one when writing fails, read or not

    def __repr__(self) -> str:
        return f"<MessageStream {'open' if self.transport else 'closed'}>"

    def set_limit(self, limit: int) -> None:
        """The peer is known now: larger frames may come."""
        self._decoder.limit = limit

    def send(self, messages: list[Message]) -> None:
        """Writes a batch; drops it if the connection has ended."""
        if self.transport is not None and not self._over:
            for frame in encode_all(messages):
                self.transport.write(frame)

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the peer has not read yet, the system's own buffers apart."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def close(self) -> None:
        """Ends the connection when what was sent is written. What comes meanwhile is not read."""
        self._over = True
        if self.transport is not None:
            self.transport.close()

    def abort(self, why: str | None = None) -> None:
        """Ends the connection at once, for a reason that ``closed`` is told."""
        self._over = True
        self._why = self._why or why
        if self.transport is not None:
            self.transport.abort()

    def hear_out(self) -> None:
        """Takes in, now, what the peer has sent and nobody has read yet. For a peer that has ended."""
        while self._descriptor is not None and not self._over:
            try:
                data = os.read(self._descriptor, _READ_SIZE)
            except OSError:
                return  # there is no more
            if not data:
                return
            self.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_FULL, low=_FULL // 2)
        try:
            self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        except OSError as error:
            self._over = True
            self._why = f"a connection needs another descriptor: {error.strerror}"
        if self._over:
            # Soon, for who makes the connection hands its socket to uvloop's transport after this: not to a closed one.
            asyncio.get_running_loop().call_soon(self.transport.abort)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._drained is not None and not self._over:
            self._drained(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            messages = self._decoder.feed(data)
        except ProtocolViolation as error:
            self.abort(str(error))
            return
        if messages:
            self._received(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._closed(self, self._why or (None if exc is None else str(exc)))
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
