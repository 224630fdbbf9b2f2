"""The daemon's side of a stream: bytes to batches of messages, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from asyncray.config import STOP_DEADLINE
from asyncray.io.socket_protocol import SocketProtocol
from asyncray.messages import DISCONNECT, Received
from asyncray.wire.frames import Decoder, ProtocolViolation, encode_all

_FULL = 64 * 1024 * 1024
"""Bytes that a peer may leave unread before the stream counts as full: several frames of a busy moment."""


class MessageStream(SocketProtocol):
    """A connection that carries frames.

    Writing never waits: the stream keeps the bytes that the peer has not read yet (``backlog``). Code that sends more
    than the peer asked for must look at the backlog first.

    Args:
        limit: the largest frame to accept, in bytes.
        received: takes a batch of messages.
        closed: called once when the connection has ended, with a reason, or None for a plain end. Messages that the
            peer sent before its end may not have been read yet: see ``drain_input``.
        drained: called when the peer has read most of the bytes that made the stream full.
    """

    def __init__(
        self,
        limit: int,
        received: Callable[[MessageStream, list[Received]], None],
        closed: Callable[[MessageStream, str | None], None],
        drained: Callable[[MessageStream], None] | None = None,
    ) -> None:
        super().__init__()
        self._decoder = Decoder(limit)
        self._received = received
        self._closed = closed
        self._drained = drained
        # True while the peer has left more than ``_FULL`` bytes unread: the sender should wait for ``drained``.
        self.is_full = False

    def __repr__(self) -> str:
        return f"<MessageStream {'open' if self.transport else 'closed'}>"

    def set_limit(self, limit: int) -> None:
        """Accepts larger frames, once the peer is known."""
        self._decoder.limit = limit

    def send(self, messages: Sequence[object]) -> None:
        """Writes a batch; drops it if the connection has ended."""
        if self.transport is not None and not self._closing:
            for frame in encode_all(messages):
                self.transport.write(frame)

    def disconnect(self, why: str, *, defect: bool = False) -> None:
        """Ends the connection when the peer has got all sent bytes and the reason, or has not read them in time.

        Args:
            defect: the reason is a defect of this process, and its log says more.
        """
        try:
            self.send([(DISCONNECT, why, defect)])
        except MemoryError:
            self.abort(why)
            return
        self._why = self._why or why
        self.close()
        if self.backlog:  # the peer may never read it
            asyncio.get_running_loop().call_later(STOP_DEADLINE, self.abort)

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the peer has not read yet, without those in the system's buffers."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=_FULL, low=_FULL // 2)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._drained is not None and not self._closing:
            self._drained(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            messages = self._decoder.feed(data)
        except ProtocolViolation as error:
            self.disconnect(str(error))
            return
        except MemoryError:
            # A part of the batch is lost, so nothing that follows would make sense.
            self._decoder = Decoder(0)  # its memory is free for the next line
            self.disconnect("the node has no memory for a message of this process: MemoryError")
            return
        if messages:
            self._received(self, messages)

    def ended(self, why: str | None) -> None:
        self._closed(self, why)
