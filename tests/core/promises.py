"""Objects that a simulated process promises and puts later, as ``asyncray.runtime.late_puts`` does.

A process asks for room, promises the object, and goes on. When the room is granted or refused the promise is *due*:
some time later the process seals the value, puts it inline, or puts an error in its place. Until then it keeps the refs
inside the value. A process that dies leaves its promises to the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.messages import FAULT, PLAIN, PROMISE, PUT, SEAL, Received
from tests.core.programs import Content

if TYPE_CHECKING:
    from tests.core.processes import Process

BROKEN = ["ObjectStoreFullError", {"message": "the promise is broken"}]


class Promises:
    """The promises of one process that are not kept yet."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.values: dict[bytes, Content] = {}  # by the object's ID
        self.due: dict[bytes, list[Any] | None] = {}  # where the object may be written; None: nowhere

    def make(self, ref: bytes, content: Content, size: int) -> None:
        process = self._process
        for inner in (*content.refs, *content.handles):
            process.hold(inner)
        self.values[ref] = content
        process.allocate(size, partial(self.due.__setitem__, ref))
        process.world.promised[ref] = process, content
        process.send((PROMISE, ref), [ref])

    def keep(self) -> None:
        """Keeps or breaks the oldest promise that is due. The size of its room decides which."""
        process = self._process
        ref = next(iter(self.due))
        place, content = self.due.pop(ref), self.values.pop(ref)
        nested = [*content.refs, *content.handles]
        if place is not None and place[2] % 5 > 1:
            process.write(place, content)
            process.send((SEAL, ref, *place[:2], nested or None))
        else:
            if place is not None:
                process.abandon(place)
            if place is not None and place[2] % 5:
                process.send((PUT, ref, PLAIN, content, nested or None))
            else:
                process.world.broken.add(ref)
                process.send((PUT, ref, FAULT, BROKEN, None))
        for inner in nested:
            process.drop(inner)

    def heard(self, wire: Iterable[Received]) -> set[bytes]:
        """The promises that the daemon must know of while these messages of the process are still on their way."""
        known = set(self.values)
        for message in reversed([*wire]):
            if message[0] in (PUT, SEAL) and message[1] in self._process.world.promised:
                known.add(message[1])
            elif message[0] == PROMISE:
                known.discard(message[1])
        return known
