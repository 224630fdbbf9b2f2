"""The connections of a server that have proved nothing yet: counted by address, and ended after a deadline.

It stands in front of another server, such as the head's HTTP server, which accepts any number of connections and lets
them stay for as long as they send nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from asyncray.io.strangers import Strangers

PROOF_DEADLINE = 10.0
"""Seconds for which a connection may stay without a proof."""


class UnprovenConnections:
    """Admits connections to a server.

    Args:
        strangers: counts them.
        is_member: returns True for an address of a member.
    """

    def __init__(self, strangers: Strangers, is_member: Callable[[str], bool]) -> None:
        self._strangers = strangers
        self._is_member = is_member
        # Connections without a proof, with their addresses and the timers that end them.
        self._waiting: dict[asyncio.BaseTransport, tuple[str, asyncio.TimerHandle]] = {}

    def __repr__(self) -> str:
        return f"<UnprovenConnections {len(self._waiting)}>"

    def guard(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Returns a factory of protocols for a server, which makes the protocols of another one."""
        return lambda: _Guarded(make, self)

    def admit(self, transport: asyncio.Transport) -> bool:
        """A connection came. Returns False if it must end."""
        address = (transport.get_extra_info("peername") or ("",))[0]
        if not self._strangers.came(address, is_member=self._is_member(address)):
            return False
        timer = asyncio.get_running_loop().call_later(PROOF_DEADLINE, transport.abort)
        self._waiting[transport] = address, timer
        return True

    def proven(self, transport: asyncio.BaseTransport | None) -> None:
        """A connection has proved that it may stay, or has ended."""
        found = None if transport is None else self._waiting.pop(transport, None)
        if found is not None:
            address, timer = found
            timer.cancel()
            self._strangers.went(address)


class _Guarded(asyncio.Protocol):
    """Passes the events of an admitted connection to the protocol that it is for."""

    def __init__(self, make: Callable[[], asyncio.Protocol], connections: UnprovenConnections) -> None:
        self._make = make
        self._connections = connections
        self._transport: asyncio.BaseTransport | None = None
        # None unless the connection is admitted.
        self._inner: asyncio.Protocol | None = None

    def __repr__(self) -> str:
        return f"<_Guarded {self._inner}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)
        if self._connections.admit(made):
            self._inner = self._make()
            self._inner.connection_made(made)
        else:
            # Not at once: the caller hands the socket to uvloop's transport after this call, which must not be closed.
            asyncio.get_running_loop().call_soon(made.abort)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.proven(self._transport)
        if self._inner is not None:
            self._inner.connection_lost(exc)
