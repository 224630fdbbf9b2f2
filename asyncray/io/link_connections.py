"""The connections of the links of one machine: which carrier belongs to which party, under which number.

A *carrier* is a connection that carries numbered frames: a TCP stream between daemons, or a WebSocket to the head. The
machine knows a connection by its number, which is never used again. Nothing is decided here: frames go to the link of
the party and, if they count, to the machine; what the machine has to say is packed, numbered by the link, and written.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asyncray.cluster_messages import VIEW
from asyncray.wire.frames import pack
from asyncray.wire.link_frames import LINK_FRAME_LIMIT, bodies

log = logging.getLogger("asyncray.node")


class Carrier(Protocol):
    """A connection that carries numbered frames."""

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        """Writes a frame; drops it if the connection has ended."""

    def close(self) -> None:
        """Ends the connection when all frames are written."""

    def abort(self, why: str | None = None) -> None:
        """Ends the connection at once."""

    def drain_input(self) -> None:
        """Hands on at once what the other side has written."""


class NumberedLink(Protocol):
    """The link of a party: see ``asyncray.core.cluster.links``."""

    received: int

    @property
    def connection(self) -> int | None: ...
    def push(self, body: Any, size: int, now: float) -> int: ...
    def take(self, connection: int, number: int, acknowledged: int, size: int, now: float) -> bool: ...
    def control(self, connection: int, message: Any, acknowledged: int, now: float) -> None: ...


class LinkedParty(Protocol):
    """A party at the other end of a link."""

    out: list[Any]

    @property
    def link(self) -> NumberedLink: ...


class LinkConnections:
    """The connections of a machine's links.

    Args:
        clock: returns seconds on a steady clock.
        received: takes a batch of messages of a party.
        disconnected: learns that a connection has ended which the machine still has: party and number.
        changed: called after each event that the machine got from here.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        received: Callable[[Any, Sequence[Any]], None],
        disconnected: Callable[[Any, int], None],
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._received = received
        self._disconnected = disconnected
        self._changed = changed
        self._numbers = itertools.count(1)
        # Connections that the machine has, by number, with their parties.
        self._carriers: dict[int, tuple[Carrier, LinkedParty]] = {}
        # The same the other way round.
        self._connections: dict[Carrier, int] = {}
        # The last message that was packed alone, and its bodies.
        self._last: tuple[Any, Sequence[bytes]] = (None, ())

    def __repr__(self) -> str:
        return f"<LinkConnections {len(self._carriers)}>"

    # Events -----------------------------------------------------------------------------------------------------------

    def add(self, carrier: Carrier, party: LinkedParty) -> int:
        """A connection of a party exists: returns its number."""
        number = next(self._numbers)
        self._carriers[number] = carrier, party
        self._connections[carrier] = number
        return number

    def arrived(self, carrier: Carrier, number: int, acknowledged: int, size: int, messages: Sequence[Any]) -> None:
        """A frame came."""
        connection = self._connections.get(carrier)
        if connection is None:
            return  # the machine has closed it
        party = self._carriers[connection][1]
        link, now = party.link, self._clock()
        try:
            if number:
                if link.take(connection, number, acknowledged, size, now):
                    self._received(party, messages)
            else:
                for message in messages:
                    link.control(connection, message, acknowledged, now)
        except Exception:  # the frame is invalid: its connection ends, not the node
            log.exception("%s sent an invalid message", party)
            carrier.abort("it sent an invalid message")
        self._changed()

    def ended(self, carrier: Carrier, why: str | None) -> None:
        """A connection has ended: reads what the other side wrote before."""
        if carrier in self._connections:
            carrier.drain_input()
        connection = self._connections.pop(carrier, None)
        if connection is not None:
            party = self._carriers.pop(connection)[1]
            if why is not None:
                log.info("a connection to %s has ended: %s", party, why)
            self._disconnected(party, connection)
            self._changed()

    # Commands ---------------------------------------------------------------------------------------------------------

    def write(self, party: LinkedParty) -> None:
        """Numbers the messages for a party, and writes them if it has a connection."""
        messages, party.out = party.out, []
        if not messages:
            return  # it was buried in this turn
        link = party.link
        now = self._clock()
        for body in self._packed(messages):
            number = link.push(body, len(body), now)
            # While the node ends, the machine may have a connection that is closed here.
            if link.connection in self._carriers:
                self._carriers[link.connection][0].write(body, number, link.received)

    def _packed(self, messages: Sequence[Any]) -> Sequence[bytes]:
        """The bodies for a batch. A message that goes to many parties alone, as a view does, is packed once."""
        if len(messages) > 1:
            return bodies(messages)
        message, packed = self._last
        if messages[0] is not message:
            packed = bodies(messages)
            # A large one goes to one party only, and would stay in memory. A view may name thousands of members.
            keeps = messages[0][0] == VIEW or len(packed[0]) <= LINK_FRAME_LIMIT
            self._last = (messages[0], packed) if keeps else (None, ())
        return packed

    def send_control(self, connection: int, message: tuple[Any, ...]) -> None:
        """Writes a message that is not numbered."""
        found = self._carriers.get(connection)
        if found is not None:
            carrier, party = found
            carrier.write(pack([message]), 0, party.link.received)

    def send_again(self, connection: int, frames: Sequence[tuple[int, bytes]]) -> None:
        """Writes frames that have their numbers."""
        found = self._carriers.get(connection)
        if found is not None:
            carrier, party = found
            for number, body in frames:
                carrier.write(body, number, party.link.received)

    def close(self, connection: int) -> None:
        """Ends a connection that the machine has forgotten."""
        found = self._carriers.pop(connection, None)
        if found is not None:
            del self._connections[found[0]]
            found[0].close()

    def drain(self, party: LinkedParty) -> None:
        """Hands on at once what a party has written before its end."""
        for carrier, owner in list(self._carriers.values()):
            if owner is party:
                carrier.drain_input()

    def close_all(self) -> None:
        """Ends all connections."""
        for connection in list(self._carriers):
            self.close(connection)
