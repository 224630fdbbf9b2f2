"""A network between simulated hosts: connections with delays, breaks and cuts, from one seed and one clock.

The network does not look into frames. A connection has two ends; a frame that one end writes arrives at the other in
order, after a random delay. It may break: then each end learns of that at its own time, and frames under way are lost.
Two hosts may be cut off from each other: their frames to one another vanish, and neither learns anything. A connection
on which a frame vanished carries nothing more in that direction, as TCP does.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

CONNECT_TIMEOUT = 1.0
"""Seconds after which a dial fails that no host answers."""


class Clock:
    """One heap of events for the whole cluster."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Events of the same time happen in the order in which they were entered."""
        heapq.heappush(self._events, (time, next(self._order), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end


class Endpoint(Protocol):
    """A host, as the network sees it."""

    alive: bool
    name: str

    def arrived(self, connection: int, frame: Any) -> None: ...
    def closed(self, connection: int) -> None: ...


class Connection:
    """One connection. Ends are 0, which dialled, and 1."""

    def __init__(self, number: int, ends: tuple[Endpoint, Endpoint]) -> None:
        self.number = number
        self.ends = ends
        self.open = [True, True]
        # The arrival of the last frame towards each end: no frame overtakes another.
        self.last_arrival = [0.0, 0.0]
        # Each break begins a new age. Frames of an earlier age are lost.
        self.age = 0
        # True for an end if a frame from it has vanished.
        self.torn = [False, False]

    def side(self, host: Endpoint) -> int:
        return self.ends.index(host)


class Net:
    """All connections."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.connections: dict[int, Connection] = {}
        self.cuts: set[frozenset[str]] = set()
        self._count = 0
        # Name of a dead host -> the time from which its port refuses connections.
        self._refuses: dict[str, float] = {}

    def delay(self) -> float:
        # Most frames are quick, a few are slow.
        return self.clock.random.choice((0.0001, 0.0002, 0.0005, 0.002, 0.03))

    def is_cut(self, one: Endpoint, other: Endpoint) -> bool:
        return frozenset((one.name, other.name)) in self.cuts

    def dial(self, host: Endpoint, target: Endpoint, done: Callable[[int | None, bool], None]) -> None:
        """Connects. ``done`` gets the connection or None, and True if the target refused it."""

        def ends() -> None:
            if not host.alive:
                return
            if self.is_cut(host, target):
                done(None, False)
            elif not target.alive:
                done(None, self.clock.now >= self._refuses.get(target.name, 0.0))
            else:
                self._count += 1
                self.connections[self._count] = Connection(self._count, (host, target))
                done(self._count, False)

        self.clock.after(CONNECT_TIMEOUT if self.is_cut(host, target) else 2 * self.delay(), ends)

    def write(self, host: Endpoint, number: int, frame: Any) -> None:
        connection = self.connections[number]
        side = connection.side(host)
        other = connection.ends[1 - side]
        if not connection.open[side]:
            return
        if self.is_cut(host, other):
            connection.torn[side] = True
        if connection.torn[side]:
            return
        age = connection.age
        arrival = max(self.clock.now + self.delay(), connection.last_arrival[1 - side])
        connection.last_arrival[1 - side] = arrival

        def arrive() -> None:
            if connection.age == age and connection.open[1 - side] and other.alive:
                other.arrived(number, frame)

        self.clock.at(arrival, arrive)

    def close(self, host: Endpoint, number: int) -> None:
        """A host closes its end in order: the other end reads all earlier frames, and then the end."""
        connection = self.connections[number]
        side = connection.side(host)
        if not connection.open[side]:
            return
        connection.open[side] = False
        other = connection.ends[1 - side]
        if connection.torn[side] or self.is_cut(host, other):
            return
        arrival = max(self.clock.now + self.delay(), connection.last_arrival[1 - side])
        self.clock.at(arrival, lambda: self._learns(connection, 1 - side))

    def _learns(self, connection: Connection, side: int) -> None:
        if connection.open[side]:
            connection.open[side] = False
            if connection.ends[side].alive:
                connection.ends[side].closed(connection.number)

    def reset(self, connection: Connection, *, both: bool) -> None:
        """The network breaks the connection: frames under way are lost."""
        connection.age += 1
        connection.torn = [True, True]
        sides = [0, 1] if both else [self.clock.random.choice((0, 1))]
        for side in sides:
            self.clock.after(self.delay(), lambda side=side: self._learns(connection, side))  # type: ignore[misc]

    def died(self, host: Endpoint) -> None:
        """A signal killed a host's daemon: the system closes its connections, and frames under way may arrive.

        The system closes one socket after the other, so the port may still take connections for a moment.
        """
        self._refuses[host.name] = self.clock.now + self.clock.random.choice((0.0, 0.1))
        for connection in self.connections.values():
            if host in connection.ends:
                self.close(host, connection.number)

    def live(self) -> list[Connection]:
        return [connection for connection in self.connections.values() if any(connection.open)]
