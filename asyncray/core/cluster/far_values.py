"""Far values: the values of objects that cross nodes. ``imports`` decides who keeps the objects alive.

When a process or task here first waits for another node's object, the node asks the owner (RESOLVE). The owner answers
when the object has a
value: with the value itself (VALUE_OF), or with the place of a large one (LOCATED), which ``pulls`` then brings. A task
comes with the values of its arguments, so they cost no question.

Processes of this node get values from here as far as these are elsewhere, and other nodes get those of own objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from asyncray.cluster_messages import LOCATED, RESOLVE, VALUE_OF, LocatedMessage, ValueOfMessage
from asyncray.core.cluster.cached_copies import CachedCopies
from asyncray.core.cluster.holders import Holders
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.pull_sets import PullSet
from asyncray.core.cluster.pulls import Pulls
from asyncray.core.objects import Objects, lose
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client, ObjectEntry, Party, Task
from asyncray.messages import AWAY, ERRORS, SHARED, UNRESOLVED


class Dependents(Protocol):
    """Tasks that wait for values: ``Work``."""

    def dependency_resolved(self, task: Task, entry: ObjectEntry) -> None:
        """A dependency of the task is resolved."""


class FarValues:
    """Carries values between the object table of this node and other nodes.

    Args:
        dependents: the tasks of this node.
    """

    def __init__(
        self,
        outbox: Outbox,
        objects: Objects,
        imports: Imports,
        holders: Holders,
        pulls: Pulls,
        copies: CachedCopies,
        dependents: Dependents,
    ) -> None:
        self._outbox = outbox
        self._objects = objects
        self._imports = imports
        self._holders = holders
        self._pulls = pulls
        self._copies = copies
        self._dependents = dependents
        objects.values_elsewhere = self
        imports.losses = self

    def __repr__(self) -> str:
        return f"<FarValues of {self._imports}>"

    # Readers here -----------------------------------------------------------------------------------------------------

    def want(self, entry: ObjectEntry) -> None:
        """The first process or task of this node waits for the value of an import: asks the owner."""
        far = entry.far
        assert far is not None
        if not far.watched and entry.kind == UNRESOLVED:
            far.watched = True
            self._outbox.send(far.owner, (RESOLVE, [entry.id]))

    def begin_read(self, party: Party) -> Party:
        return self._pulls.begin_read(party) if isinstance(party, Client) else party

    def expect(self, entry: ObjectEntry, party: Party) -> bool:
        if entry.far is not None:
            self.want(entry)
        return not isinstance(party, PullSet) or self._pulls.expect(entry, party)

    def end_read(self, party: Party) -> None:
        if isinstance(party, PullSet):
            self._pulls.end_read(party)

    def client_disconnected(self, client: Client) -> None:
        self._pulls.client_disconnected(client)

    def freed(self, entry: ObjectEntry) -> None:
        if entry.far is None:
            self._holders.freed(entry)
        self._pulls.freed(entry)

    # Values that go ---------------------------------------------------------------------------------------------------

    def push(self, entry: ObjectEntry, party: Party) -> None:
        if isinstance(party, PullSet):
            self._pulls.push(entry, party)
        elif isinstance(party, Peer):
            contained = [inner.id for inner in entry.contained] or None
            if entry.kind == SHARED:
                self._outbox.send(party, (LOCATED, entry.id, *self.payload_of(entry), contained))
            else:
                self._outbox.send(party, (VALUE_OF, entry.id, entry.kind, entry.payload, contained))
        elif party.alive:
            # The process may never want the value. If it does, it subscribes.
            self._outbox.send(party, (AWAY, entry.id, False))

    def payload_of(self, entry: ObjectEntry) -> Any:
        """Returns the payload of a value for another node: version and size, if it is in shared memory."""
        block = entry.block
        if entry.kind != SHARED or block is None:
            return entry.payload
        return [self._holders.version_of(entry) if entry.far is None else block.version, block.allocation.size]

    # Values that come -------------------------------------------------------------------------------------------------

    def know(self, object_id: bytes, kind: int, payload: Any, contained: Sequence[bytes] | None) -> None:
        """The value of an object has come with a task."""
        entry = self._objects.table.get(object_id)
        if entry is not None and entry.far is not None and entry.kind == UNRESOLVED:
            self._resolve(entry, kind, payload, contained)

    def value_of(self, peer: Peer, message: ValueOfMessage) -> None:
        """VALUE_OF: the value of an object of another node, or the error in its place."""
        _, object_id, kind, payload, contained = message
        entry = self._objects.table.get(object_id)
        if entry is None:
            return
        if entry.kind == UNRESOLVED:
            self._resolve(entry, kind, payload, contained)
        elif kind in ERRORS:
            self.becomes_error(entry, kind, payload)

    def located(self, peer: Peer, message: LocatedMessage) -> None:
        """LOCATED: an object of another node has a large value. This node may know an older version of it."""
        _, object_id, version, size, contained = message
        entry = self._objects.table.get(object_id)
        if entry is None:
            return
        if entry.kind == UNRESOLVED:
            self._resolve(entry, SHARED, [version, size], contained)
        elif entry.kind == SHARED and entry.block is None and entry.payload[0] != version:
            self._pulls.receiving.begin_anew(entry, version, size)

    def becomes_error(self, entry: ObjectEntry, kind: int, payload: Any) -> None:
        """Gives an object this error in place of its value. A value that is here stays."""
        if entry.kind == UNRESOLVED:
            self._resolve(entry, kind, payload, None)
        elif entry.kind == SHARED and entry.block is None:
            lose(entry, kind, payload)
            self._pulls.lost(entry)

    def _resolve(self, entry: ObjectEntry, kind: int, payload: Any, contained: Sequence[bytes] | None) -> None:
        if contained:
            self._imports.contain(entry, contained)
        if kind == SHARED:
            payload = self._copies.find(entry, payload)
        for task in self._objects.resolve(entry, kind, payload, contained):
            self._dependents.dependency_resolved(task, entry)
