"""The daemon's side of a stream: bytes to batches of messages, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from asyncray.messages import Message
from asyncray.wire.frames import Decoder, ProtocolViolation, encode


class MessageStream(asyncio.Protocol):
    """A connection that carries frames.

    Writing never waits: what a peer has not read yet is kept. That is bounded by what the peer asked for: results of
    its own tasks and values that it subscribed to.

    Args:
        limit: the largest frame to accept, in bytes.
        received: takes a batch of messages. If it raises, the connection is closed.
        closed: called once when the connection has ended, with a reason, or None for a plain end.
    """

    def __init__(
        self,
        limit: int,
        received: Callable[[MessageStream, list[Message]], None],
        closed: Callable[[MessageStream, str | None], None],
    ) -> None:
        self._decoder = Decoder(limit)
        self._received = received
        self._closed = closed
        self._why: str | None = None
        self.transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"<MessageStream {'open' if self.transport else 'closed'}>"

    def set_limit(self, limit: int) -> None:
        """The peer is known now: larger frames may come."""
        self._decoder.limit = limit

    def send(self, messages: list[Message]) -> None:
        """Writes a batch; drops it if the connection has ended."""
        if self.transport is not None:
            self.transport.write(encode(messages))

    def close(self) -> None:
        """Ends the connection when what was sent is written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
            if messages:
                self._received(self, messages)
        except ProtocolViolation as error:
            self._why = str(error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._closed(self, self._why or (None if exc is None else str(exc)))
