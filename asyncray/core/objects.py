"""The object table of a node: the value or place of every object, and its reference counts.

The node makes an entry when a task is submitted or a value put, resolves it, and frees it when no process holds a ref
(``held`` for its maker, ``borrowers`` for others) and no pending task and no other object uses it (``uses``). An entry
is resolved once, and once more each time that its value is lost and a task makes it again (``unresolve``). A process
reports refs in the order in which it made and dropped them, and a process that finds a ref in a value reports it before
it gives back the object that contained the value. So a reachable object has a holder at every moment, and a message
that names an object which is not in the table is a case for ``dead_refs``.

The table never looks into values. It does not run tasks: ``resolve`` returns the tasks that waited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from asyncray.core.dead_refs import DeadRefs
from asyncray.core.lives import Seat
from asyncray.core.object_table import NOTHING_MADE, ObjectTable
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, Client, ObjectEntry, Party, Task
from asyncray.core.store import Store
from asyncray.core.unread import Unread
from asyncray.ids import CLIENT_SIZE, dropped_id, return_id
from asyncray.messages import ERRORS, FAULT, PLAIN, SHARED, UNRESOLVED, VALUE


class OtherNodes(Protocol):
    """Objects of other nodes, for a node that belongs to a cluster."""

    def open(self, object_id: bytes) -> ObjectEntry | None:
        """Makes an entry for an object of another node. None: the ID is that of an own object, which has ended."""

    def keeps(self, entry: ObjectEntry) -> bool:
        """True if the entry must stay, although nothing on this node needs it."""

    def freed(self, entry: ObjectEntry) -> None:
        """The entry is removed."""

    def settle(self) -> None:
        """Reports the entries that were removed to their owners."""


class ValuesElsewhere(Protocol):
    """Learns of values that cross nodes: ``FarValues``, on a node that belongs to a cluster."""

    def want(self, entry: ObjectEntry) -> None:
        """A process or a task of this node waits for the value of an object of another node."""

    def begin_read(self, party: Party) -> Party:
        """A process or another node wants some objects. Returns the party that waits for them in its place."""

    def expect(self, entry: ObjectEntry, party: Party) -> bool:
        """The party wants an object that has no value yet. Returns False if it waits for it already."""

    def end_read(self, party: Party) -> None:
        """The party has named all objects that it wants now."""

    def push(self, entry: ObjectEntry, party: Party) -> None:
        """Sends a value to a party that is no process, or a value that is elsewhere to a process."""

    def freed(self, entry: ObjectEntry) -> None:
        """An entry of another node's object, or of a value in shared memory, is removed."""

    def client_disconnected(self, client: Client) -> None:
        """A process ended."""


def check_new(object_id: bytes, maker: Client) -> None:
    """Raises ValueError if the process may make no object with this ID: one exists, or it names another maker."""
    if object_id in maker.made:
        raise ValueError(f"{maker} makes {maker.made[object_id]} again")
    if object_id[:CLIENT_SIZE] != maker.id:
        raise ValueError(f"{maker} makes {object_id.hex()}, whose ID names another maker")


class Objects:
    """The object table."""

    def __init__(self, outbox: Outbox, store: Store, unread: Unread, dead_refs: DeadRefs) -> None:
        self._outbox = outbox
        self._store = store
        self.unread = unread
        self.dead_refs = dead_refs
        self.table = ObjectTable()
        # Actors without a handle. ``release`` appends them, the node takes them out.
        self.ended_lives: list[Seat] = []
        # None on a node that belongs to no cluster.
        self.other_nodes: OtherNodes | None = None
        self.values_elsewhere: ValuesElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Objects {len(self.table)}>"

    def find(self, object_id: bytes, what: str, party: Party | None = None) -> ObjectEntry | None:
        """Returns the entry of a ref, or None if the ref is dead. The arguments are those of ``DeadRefs.add``.

        ``use_all``, ``hold`` and ``drop`` do the same without a call for each ref.
        """
        return self.table.get(object_id) or self._missing(object_id, what, party)

    def _missing(self, object_id: bytes, what: str, party: Party | None = None) -> ObjectEntry | None:
        """An object is not in the table: it is another node's, or the ref is dead."""
        entry = None if self.other_nodes is None else self.other_nodes.open(object_id)
        if entry is None:
            self.dead_refs.add(object_id, what, party)
        return entry

    def expect(self, object_id: bytes, maker: Client, task: Task | None) -> ObjectEntry:
        """Makes an unresolved entry, held by its maker. Without a task it is a promise of its maker."""
        entry = ObjectEntry(object_id, maker, task)
        made = maker.made
        if made:  # the hot path, as ``ObjectTable.enter`` without a call
            made[object_id] = entry
        else:
            self.table.enter(entry)
        return entry

    def use_all(self, object_ids: Iterable[bytes]) -> tuple[ObjectEntry, ...]:
        """Counts one more use of each object and returns the entries, without those of dead refs."""
        found = []
        makers = self.table.makers
        for object_id in object_ids:
            entry = makers.get(object_id[:CLIENT_SIZE], NOTHING_MADE).get(object_id)
            if entry is None:
                entry = self._missing(object_id, "an argument, a value or a function contains")
                if entry is None:
                    continue
            entry.uses += 1
            found.append(entry)
        return tuple(found)

    def unuse_all(self, entries: Sequence[ObjectEntry]) -> None:
        """Takes back ``use_all``."""
        for entry in entries:
            entry.uses -= 1
            if not entry.uses and not entry.held:
                self.release(entry)

    def resolve(self, entry: ObjectEntry, kind: int, payload: Any, contained: Sequence[bytes] | None) -> Sequence[Task]:
        """The value is known: sends it to its maker and to those that wait, and returns the dependent tasks."""
        if entry.kind != UNRESOLVED:
            raise AssertionError(f"{entry} was resolved twice")
        entry.kind = kind
        entry.payload = payload
        entry.task = None
        if contained:
            entry.contained += self.use_all(contained)
        if entry.held:
            maker = entry.maker
            if kind == PLAIN and maker.alive:  # the hot path
                self._outbox.send(maker, (VALUE, entry.id, kind, payload))
            else:
                self._push(entry, maker)
        if entry.waiting is not None:
            for party in entry.waiting:
                self._push(entry, party)
            entry.waiting = None
            if kind in ERRORS:
                self.unread.read(entry.id)
        dependents = entry.dependents or ()
        entry.dependents = None
        if not entry.held and not entry.uses:
            self.release(entry)
        return dependents

    def resolve_new(
        self,
        object_id: bytes,
        maker: Client,
        kind: int,
        payload: Any,
        contained: Sequence[bytes] | None,
        block: Block | None = None,
    ) -> None:
        """Enters a value that a client has put. The client has the value already, and pins it in shared memory.

        Raises:
            ValueError: see ``check_new``.
        """
        check_new(object_id, maker)
        entry = self.expect(object_id, maker, None)
        entry.kind = kind
        entry.payload = payload
        entry.block = block
        if block is not None:
            self._store.pin(block, maker)
        if contained:
            entry.contained = self.use_all(contained)

    def unresolve(self, task: Task, lost: Sequence[ObjectEntry]) -> None:
        """Values that a task returned are lost, and it makes them again: these objects are pending as before.

        Its other return values stay. In their places ``task.returns`` gets entries that are freed once resolved. Refs
        inside a lost value stay in use until the entry goes, because a process may still have that value.
        """
        for entry in lost:
            if entry.kind == UNRESOLVED or entry.kind in ERRORS:
                raise AssertionError(f"{entry} has no value to lose")
            if entry.block is not None:
                assert not entry.block.pins, f"{entry} cannot be lost while its memory is pinned"
                self._store.object_freed(entry.block)
                entry.block = None
            entry.kind = UNRESOLVED
            entry.payload = None
            entry.task = task
        wanted = {entry.id: entry for entry in lost}
        returns = [wanted.get(return_id(task.id, index)) for index in range(task.template.returns)]
        task.returns = tuple(entry or self._expect_unwanted(task, index) for index, entry in enumerate(returns))

    def _expect_unwanted(self, task: Task, index: int) -> ObjectEntry:
        object_id = dropped_id(task.id, index)
        entry = self.expect(object_id, task.submitter, task)
        entry.held = False
        return entry

    def value_for(self, entry: ObjectEntry, party: Party) -> Any:
        """Returns the payload to send to a party, and pins a value in shared memory for that party."""
        if entry.kind == SHARED and entry.block is not None:
            self._store.pin(entry.block, party)
        return entry.payload

    def _push(self, entry: ObjectEntry, party: Party) -> None:
        elsewhere = entry.kind == SHARED and entry.block is None and self.values_elsewhere is not None
        if party.is_node or elsewhere:
            assert self.values_elsewhere is not None
            self.values_elsewhere.push(entry, party)
        elif party.alive:
            self._outbox.send(party, (VALUE, entry.id, entry.kind, self.value_for(entry, party)))

    def subscribe(self, client: Party, object_ids: Iterable[bytes], *, fetch: bool = True) -> None:
        """Sends each value to the client as soon as it is resolved; for a lost object, sends the error.

        Args:
            fetch: values that are on other nodes come here. Otherwise the client learns of them by AWAY.
        """
        others = self.values_elsewhere
        party = client if others is None or not fetch else others.begin_read(client)
        for object_id in object_ids:
            entry = self.find(object_id, "waits for", client)
            if entry is None:
                self._outbox.send(client, (VALUE, object_id, FAULT, self.dead_refs.fault(object_id)))
            elif entry.kind != UNRESOLVED:
                self._push(entry, party)
                if entry.kind in ERRORS:
                    self.unread.read(object_id)
            elif others is None or others.expect(entry, party):
                if entry.waiting is None:
                    entry.waiting = [party]
                elif party not in entry.waiting:
                    entry.waiting.append(party)
        if others is not None:
            others.end_read(party)

    def read(self, object_ids: Iterable[bytes]) -> None:
        """A client waited for these objects and raised an error, of one of them or of an object before them."""
        for object_id in object_ids:
            entry = self.find(object_id, "a process raises the error of")
            if entry is None or entry.kind != UNRESOLVED:
                self.unread.read(object_id)
            elif entry.waiting is None:
                # Remember that a client waited: an error that comes later counts as read.
                entry.waiting = []

    def hold(self, party: Party, object_ids: Iterable[bytes]) -> None:
        """A party reports that it has refs to these objects."""
        makers = self.table.makers
        for object_id in object_ids:
            entry = makers.get(object_id[:CLIENT_SIZE], NOTHING_MADE).get(object_id)
            if entry is None:
                entry = self._missing(object_id, "holds", party)
                if entry is None:
                    continue
            if entry.maker is party:
                entry.held = True
                continue
            if entry.borrowers is None:
                entry.borrowers = {}
            entry.borrowers[party] = None
            party.borrowed[object_id] = None

    def drop(self, party: Party, object_ids: Iterable[bytes]) -> None:
        """A party reports that it has no refs to these objects any more."""
        makers = self.table.makers
        for object_id in object_ids:
            entry = makers.get(object_id[:CLIENT_SIZE], NOTHING_MADE).get(object_id)
            if entry is None:
                self.dead_refs.add(object_id, "drops", party)
                continue
            if entry.maker is party:
                entry.held = False
            elif entry.borrowers:
                entry.borrowers.pop(party, None)
                party.borrowed.pop(object_id, None)
            if not entry.uses:
                self.release(entry)

    def release(self, entry: ObjectEntry) -> None:
        """Frees the entry if no process, task or object needs it, and then the objects that it alone kept alive.

        Not recursive, because linked lists of objects may be long.
        """
        stack = [entry]
        while stack:
            entry = stack.pop()
            if entry.held or entry.borrowers or entry.uses:
                continue
            if entry.far is None:
                if entry.kind == UNRESOLVED:
                    continue
            elif self.other_nodes is None or self.other_nodes.keeps(entry):
                continue
            maker = entry.maker
            if maker.made.pop(entry.id, None) is None:
                continue
            if not maker.made:
                del self.table.makers[maker.id]
            if entry.contained:
                for inner in entry.contained:
                    inner.uses -= 1
                    stack.append(inner)
                entry.contained = ()
            if self.values_elsewhere is not None and (entry.far is not None or entry.kind == SHARED):
                # First, because to free memory may serve claims. It takes the memory of another node's object.
                self.values_elsewhere.freed(entry)
            if entry.block is not None:
                self._store.object_freed(entry.block)
                entry.block = None
            elif entry.kind in ERRORS:
                self.unread.freed(entry)
            if entry.actor is not None:
                self.ended_lives.append(entry.actor)
            if entry.far is not None and self.other_nodes is not None:
                self.other_nodes.freed(entry)
        if self.other_nodes is not None:
            self.other_nodes.settle()

    def client_disconnected(self, client: Client) -> None:
        """Forgets all refs of a process that ended."""
        if self.values_elsewhere is not None:
            self.values_elsewhere.client_disconnected(client)
        self.drop(client, list(client.borrowed))
        self.drop(client, [entry.id for entry in client.made.values() if entry.held])

    def check(self) -> None:
        """Raises AssertionError if entries contradict each other."""
        self.unread.check(self.table)
        assert all(self.table.makers.values()), "a process that made nothing is in the table"
        uses: dict[bytes, int] = {}
        for entry in self.table.values():
            if entry.far is not None:
                assert not entry.held, f"{entry} is another node's and is held by its maker"
                continue
            assert entry.kind == UNRESOLVED or entry.held or entry.borrowers or entry.uses, f"{entry} is kept by nobody"
            assert entry.maker.made.get(entry.id) is entry, f"{entry} is not found at its maker"
            if entry.kind == UNRESOLVED:
                assert entry.task is not None or entry.id in entry.maker.promised, f"{entry} waits for no task"
            for inner in entry.contained:
                assert inner.id in self.table, f"{entry} contains a freed object"
                uses[inner.id] = uses.get(inner.id, 0) + 1
        for object_id, count in uses.items():
            assert self.table[object_id].uses >= count, f"{self.table[object_id]} is used {count} times by objects"


def lose(entry: ObjectEntry, kind: int, payload: Any) -> None:
    """All copies of a value that is elsewhere are lost: the value is this error from now on.

    Refs inside the value stay in use until the entry goes, because a process may still have the value.
    """
    assert entry.kind == SHARED and entry.block is None, f"{entry} is not elsewhere"
    entry.kind, entry.payload = kind, payload
