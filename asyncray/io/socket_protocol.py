"""One end of a connection on an event loop: its transport, its end, and the input that is left behind.

A peer may write and end at once. The loop closes its own descriptor when a write fails, even with unread input; so this
class keeps a duplicate until the end of the connection was reported, and ``drain_input`` reads from it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from asyncray.config import READ_SIZE

DECRYPT = "asyncray.decrypt"
"""Name of the extra information of a transport with TLS: a function from encrypted bytes to those inside."""


class SocketProtocol(asyncio.Protocol):
    """The part of a protocol that does not depend on what the bytes mean. A subclass writes and reads."""

    def __init__(self) -> None:
        # The reason for the end of the connection.
        self._why: str | None = None
        # True once this side has closed or aborted the connection: input of the peer is ignored from then on.
        self._closing = False
        # None before the connection is made and after it is lost.
        self.transport: asyncio.Transport | None = None
        # A duplicate of the socket's.
        self._descriptor: int | None = None
        # Decrypts its input. None without TLS.
        self._decrypt: Callable[[bytes], bytes] | None = None

    def ended(self, why: str | None) -> None:
        """The connection has ended, for a reason, or None for a plain end. Unread input may be left."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the connection when all sent bytes are written. Ignores input from now on."""
        self._closing = True
        if self.transport is not None:
            self.transport.close()

    def abort(self, why: str | None = None) -> None:
        """Ends the connection at once, for a reason."""
        self._closing = True
        self._why = self._why or why
        if self.transport is not None:
            self.transport.abort()

    def drain_input(self) -> None:
        """Reads at once all input of a peer that has ended, and takes it as ``data_received`` does."""
        while self._descriptor is not None and not self._closing:
            try:
                data = os.read(self._descriptor, READ_SIZE)
            except OSError:
                return  # no more input
            if not data:
                return
            self.data_received(data if self._decrypt is None else self._decrypt(data))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._decrypt = transport.get_extra_info(DECRYPT)
        try:
            self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        except OSError as error:
            self._closing = True
            self._why = f"a connection needs another descriptor: {error.strerror}"
        if self._closing:
            # Not at once: the caller hands the socket to uvloop's transport after this call, which must not be closed.
            asyncio.get_running_loop().call_soon(self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.ended(self._why or (None if exc is None else str(exc)))
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
