"""Holders: the owner's side of large objects, with the nodes that have copies and those that fetch them.

A version is the attempt of the task that made the value, or 0 for memory that this node made. One node has the primary
copy: it keeps it until FREE. All others may drop theirs at any time. An own object whose memory is here needs no
primary copy elsewhere; an own object without memory here is *elsewhere*, and has ``[version, bytes]`` as its payload.

A node that wants the bytes seeks a source (SEEK) once it has room for them. It gets one node with a complete copy, so
no transfer waits for another. A large object is fetched from each of its holders by two nodes at a time at most; others
wait here, and each that is done is a holder more. So 2n nodes are served in about log2(n) rounds. Each assignment ends
by exactly one of HOLDING, SOURCE_FAILED and UNHOLD of the seeker, or by the seeker's loss: otherwise the owner would
count it for ever (scenario H18).

When the primary copy is lost, another complete copy becomes the primary one at once (PROMOTE), so that no node drops it
(scenario H14). If there is none, and no node is about to have one, the object is lost, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from asyncray.cluster_messages import (
    FREE,
    HOLDING,
    PROMOTE,
    SEEK,
    SOURCE,
    SOURCE_FAILED,
    VALUE_OF,
    ObjectMessage,
    Versions,
)
from asyncray.core.cluster.peers import Peer
from asyncray.core.objects import Objects, lose
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, ObjectEntry, Task
from asyncray.core.states import FINISHED
from asyncray.ids import return_id
from asyncray.messages import FAULT, SHARED, UNRESOLVED

OWN_VERSION = 0
"""The version of memory that this node made: by a put, or by a task that ran here."""

LARGE = 8 << 20
"""Bytes from which on each holder serves at most ``AT_ONCE`` nodes at a time."""

AT_ONCE = 2


class Locals(Protocol):
    """Learns what happens to own objects of which this node fetches or keeps memory: ``Pulls``."""

    def sourced(self, object_id: bytes, number: int, node: bytes) -> None:
        """A source was found for a pull of this node."""

    def keep(self, entry: ObjectEntry) -> None:
        """The memory here must stay: no other node has the primary copy."""

    def lost(self, entry: ObjectEntry) -> None:
        """The value is an error now."""


class Copies:
    """An own object that other nodes have, or seek. ``Holders`` writes it."""

    __slots__ = ("assigned", "doubtful", "entry", "holders", "last_end", "seekers", "size", "version")

    def __init__(self, entry: ObjectEntry, version: int, size: int) -> None:
        self.entry = entry
        self.version = version
        self.size = size
        # Node with a complete copy -> True if it is the primary one.
        self.holders: dict[bytes, bool] = {}
        # Node that waits for a source -> the number of its SEEK, in the order in which they came.
        self.seekers: dict[bytes, int] = {}
        # Node that fetches -> the number of its SEEK, and the source, until its answer.
        self.assigned: dict[bytes, tuple[int, bytes]] = {}
        # Nodes with the primary copy from which a seeker could not fetch, because it learned of their loss before this
        # node.
        self.doubtful: dict[bytes, None] = {}
        # How the last copy was lost, for people.
        self.last_end = ""

    def __repr__(self) -> str:
        waiting = f"{len(self.assigned)} fetch, {len(self.seekers)} wait"
        return f"<Copies of {self.entry.id.hex()} version {self.version} at {len(self.holders)} nodes, {waiting}>"


class Holders:
    """The copies of own objects.

    Args:
        node: the ID of this node.
        peer: returns the record of another node.
        describe: returns how a node ended, for people.
    """

    def __init__(
        self,
        outbox: Outbox,
        objects: Objects,
        node: bytes,
        peer: Callable[[bytes], Peer],
        describe: Callable[[bytes], str],
    ) -> None:
        self._outbox = outbox
        self._objects = objects
        self._node = node
        self._peer = peer
        self._describe = describe
        # By object. An own object that is elsewhere is always in it.
        self._table: dict[bytes, Copies] = {}
        # ``Pulls`` enters itself.
        self.locals: Locals | None = None
        # Where the next choice among equally busy holders begins.
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Holders of {len(self._table)} objects>"

    # Facts ------------------------------------------------------------------------------------------------------------

    def result(self, entry: ObjectEntry, node: bytes, version: int, size: int) -> None:
        """Another node has made the value of an own object and has the primary copy. The caller resolves the entry."""
        assert entry.id not in self._table, f"{self._table[entry.id]} has a value"
        copies = self._table[entry.id] = Copies(entry, version, size)
        copies.holders[node] = True

    def results(self, task: Task, node: bytes, version: int, values: Sequence[Any]) -> None:
        """A task of this node has ended at another node, which has large values of it.

        If nobody needs the values any more, the other node may free them.
        """
        wanted = task.state != FINISHED and len(task.returns) == len(values)
        unwanted = []
        for index, (kind, payload, _) in enumerate(values):
            if kind != SHARED:
                continue
            if wanted:
                self.result(task.returns[index], node, version, payload[1])
            else:
                unwanted.append((return_id(task.id, index), version))
        if unwanted:
            self._outbox.send(self._peer(node), (FREE, unwanted))

    def version_of(self, entry: ObjectEntry) -> int:
        """Returns the version of an own object."""
        copies = self._table.get(entry.id)
        return OWN_VERSION if copies is None else copies.version

    def own_block(self, object_id: bytes, version: int) -> Block | None:
        """Returns the memory of an own object if it has this version and is here."""
        entry = self._objects.table.get(object_id)
        if entry is None or entry.far is not None or self.version_of(entry) != version:
            return None
        return entry.block

    def elsewhere(self, entry: ObjectEntry) -> bool:
        """Returns True if another node keeps the primary copy of an own object."""
        copies = self._table.get(entry.id)
        return copies is not None and any(copies.holders.values())

    def nodes(self, entry: ObjectEntry) -> Iterable[bytes]:
        """Returns the other nodes with complete copies of an own object."""
        copies = self._table.get(entry.id)
        return () if copies is None else copies.holders

    # Seekers ----------------------------------------------------------------------------------------------------------

    def receive(self, node: bytes, message: ObjectMessage) -> None:
        """Another node, or this one, has copies of own objects, or wants one."""
        if message[0] == SEEK:
            self._seek_came(node, *message[1:])
        elif message[0] == SOURCE_FAILED:
            self._source_failed(node, *message[1:])
        elif message[0] == HOLDING:
            self._holding(node, message[1])
        else:
            self._unhold(node, message[1])

    def _seek_came(self, node: bytes, object_id: bytes, version: int, number: int) -> None:
        """SEEK: a node has room for an object and wants a source."""
        entry = self._objects.table.get(object_id)
        if entry is None:
            fault = self._objects.dead_refs.fault(object_id)
            self._outbox.send(self._peer(node), (VALUE_OF, object_id, FAULT, fault, None))
        elif entry.kind == SHARED and self.version_of(entry) == version:
            self._seek(entry, node, number)
        else:
            # The object was lost, or is made again. If it has no value now, the answer follows later.
            self._objects.subscribe(self._peer(node), [object_id])

    def _seek(self, entry: ObjectEntry, seeker: bytes, number: int) -> None:
        copies = self._table.get(entry.id)
        if copies is None:
            assert entry.block is not None, f"{entry} is nowhere"
            copies = self._table[entry.id] = Copies(entry, OWN_VERSION, entry.block.allocation.size)
        copies.seekers[seeker] = number
        self._assign(copies)

    def _assign(self, copies: Copies) -> None:
        """Names sources to those that wait, as far as there are free ones."""
        while copies.seekers:
            source = self._source(copies)
            if source is None:
                return
            self._turn += 1
            seeker = next(iter(copies.seekers))
            number = copies.seekers.pop(seeker)
            copies.assigned[seeker] = number, source
            if seeker != self._node:
                self._outbox.send(self._peer(seeker), (SOURCE, copies.entry.id, copies.version, number, source))
            elif self.locals is not None:
                self.locals.sourced(copies.entry.id, number, source)

    def _source(self, copies: Copies) -> bytes | None:
        """Returns the least busy holder, or None if all are busy."""
        busy = Counter(source for _, source in copies.assigned.values())
        found = [node for node in copies.holders if node not in copies.doubtful]
        if copies.entry.block is not None:
            found.append(self._node)
        if not found:
            return None
        start = self._turn % len(found)
        source = min(found[start:] + found[:start], key=lambda node: busy[node])
        return None if copies.size >= LARGE and busy[source] >= AT_ONCE else source

    def _source_failed(self, seeker: bytes, object_id: bytes, version: int, number: int, node: bytes) -> None:
        """SOURCE_FAILED: the node that was named does not have the object, or is lost."""
        copies = self._table.get(object_id)
        if copies is None or copies.version != version:
            return
        if copies.assigned.get(seeker) != (number, node):
            return
        del copies.assigned[seeker]
        copies.seekers[seeker] = number
        if copies.holders.get(node):
            # It is lost, and this node does not know that yet. Or it had dropped the copy before PROMOTE came, and its
            # UNHOLD is under way.
            copies.doubtful[node] = None
        else:
            copies.holders.pop(node, None)
        self._settle(copies)

    # Copies that come and go ------------------------------------------------------------------------------------------

    def _holding(self, node: bytes, versions: Versions) -> None:
        """HOLDING: a node has complete copies. Copies that nothing needs any more are freed again (R14)."""
        stale = []
        for object_id, version in versions:
            copies = self._table.get(object_id)
            if copies is None or copies.version != version:
                stale.append((object_id, version))
                continue
            copies.seekers.pop(node, None)
            copies.assigned.pop(node, None)
            if node != self._node:
                copies.holders.setdefault(node, False)
            self._settle(copies)
        if stale:
            self._outbox.send(self._peer(node), (FREE, stale))

    def _unhold(self, node: bytes, versions: Versions) -> None:
        """UNHOLD: a node has no copies of these objects, and fetches none."""
        for object_id, version in versions:
            copies = self._table.get(object_id)
            if copies is not None and copies.version == version:
                self._leave(copies, node, f"{self._describe(node)} has dropped it")

    def _leave(self, copies: Copies, node: bytes, why: str) -> None:
        copies.seekers.pop(node, None)
        copies.assigned.pop(node, None)
        copies.doubtful.pop(node, None)
        if copies.holders.pop(node, None) is not None:
            copies.last_end = why
        self._settle(copies)

    def node_lost(self, node: bytes) -> None:
        """A node is lost or has left, and with it its copies."""
        for copies in list(self._table.values()):
            if node in copies.holders or node in copies.seekers or node in copies.assigned:
                self._leave(copies, node, self._describe(node))

    def _settle(self, copies: Copies) -> None:
        """Makes another copy the primary one if there is none, and names sources to those that wait."""
        entry = copies.entry
        if entry.id not in self._table:
            return
        if not any(copies.holders.values()):
            if entry.block is not None:
                if self.locals is not None:
                    self.locals.keep(entry)
            elif copies.holders:
                node = next(iter(copies.holders))
                copies.holders[node] = True
                self._outbox.send(self._peer(node), (PROMOTE, [(entry.id, copies.version)]))
            elif not copies.assigned:
                self._lose(copies)
                return
        self._assign(copies)
        alone = not (copies.holders or copies.seekers or copies.assigned)
        if alone and entry.block is not None and copies.version == OWN_VERSION:
            del self._table[entry.id]

    # Ends -------------------------------------------------------------------------------------------------------------

    def _lose(self, copies: Copies) -> None:
        entry = copies.entry
        del self._table[entry.id]
        number = entry.id.hex()
        message = f"All copies of the object {number} are lost. The last one: {copies.last_end}."
        lose(entry, FAULT, ["ObjectLostError", {"object_id": number, "message": message}])
        self._end_seekers(copies)
        if self.locals is not None:
            self.locals.lost(entry)

    def _end_seekers(self, copies: Copies) -> None:
        entry = copies.entry
        kind, payload = entry.kind, entry.payload
        if kind in (UNRESOLVED, SHARED):
            kind, payload = FAULT, self._objects.dead_refs.fault(entry.id)
        for seeker in copies.seekers:
            if seeker != self._node:
                self._outbox.send(self._peer(seeker), (VALUE_OF, entry.id, kind, payload, None))

    def freed(self, entry: ObjectEntry) -> None:
        """Nothing needs an own object any more: frees all copies."""
        copies = self._table.pop(entry.id, None)
        if copies is None:
            return
        for node in copies.holders:
            self._outbox.send(self._peer(node), (FREE, [(entry.id, copies.version)]))
        self._end_seekers(copies)

    def check(self) -> None:
        """Raises AssertionError if the records contradict each other, or an object is nowhere."""
        for object_id, copies in self._table.items():
            entry = copies.entry
            assert self._objects.table[object_id] is entry and entry.far is None, f"{copies} of no own object"
            assert entry.kind == SHARED, f"{copies} of {entry}"
            primaries = sum(copies.holders.values())
            assert primaries <= 1, f"{copies} has {primaries} primary copies"
            assert primaries or entry.block is not None or copies.assigned, f"{copies} has no primary copy"
            assert not copies.seekers.keys() & copies.assigned.keys(), f"{copies} seeks and fetches"
            assert copies.doubtful.keys() <= copies.holders.keys(), f"{copies} doubts others"
            busy = Counter(source for _, source in copies.assigned.values())
            assert copies.size < LARGE or all(count <= AT_ONCE for count in busy.values()), f"{copies} {busy}"
            free = self._source(copies) if copies.seekers else None
            assert free is None, f"{copies} lets a node wait although one is free"
        for entry in self._objects.table.values():
            if entry.kind == SHARED and entry.block is None and entry.far is None:
                assert entry.id in self._table, f"{entry} is nowhere"
