"""Pulls: decides which large objects of other nodes come here, and when there is room for them.

A *pull set* is a set of objects that are needed together: those of one SUBSCRIBE of a process, or the arguments of a
task. There are two classes, and reads of processes go before arguments. A pull set waits until all of its objects are
located. Then it is *admitted* as a whole, in order, if there is room for everything that is not here: free memory and
copies that can be dropped, without what admitted pull sets were promised. ``receiving`` brings the objects.

Nothing waits for ever, because:

1. A pull set claims everything at once, so no two pull sets that are half complete wait for each other.
2. Arguments leave a fifth of the store free (``RESERVE``), so running tasks can store results, and they give way to
   claims of processes that wait.
3. If a read does not fit, queued tasks give up the copies of their arguments, and bring them again later.
4. If a pull set does not fit although nothing else is on its way, it is admitted alone: its claims wait in the store as
   those of a process that puts a value, and end with room or with ``ObjectStoreFullError``. Arguments wait first for
   the ends of tasks that run.
5. Room is taken here before a source is sought, and a source needs no room. So no cycle crosses nodes.

A pull set waits for values as a process does, so it is a party: the object table pushes values to it.
"""

from __future__ import annotations

from typing import Any, Protocol

from asyncray.config import ALIGNMENT
from asyncray.core.cluster.cached_copies import CachedCopies
from asyncray.core.cluster.pull_sets import ARGUMENTS, READS, PullSet
from asyncray.core.cluster.receiving import Receiving
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, Client, ObjectEntry, Task
from asyncray.core.states import QUEUED, SENT
from asyncray.core.store import Store
from asyncray.messages import AWAY, FAULT, SHARED, UNRESOLVED, VALUE

RESERVE = 5
"""Arguments never claim the last fifth of the store."""


class Arguments(Protocol):
    """Learns what happens to the arguments of tasks: ``Work``."""

    def arguments_here(self, task: Task) -> None:
        """All arguments of the task are here, or one is an error."""

    def arguments_failed(self, task: Task, kind: int, payload: Any) -> None:
        """There is no room for the arguments of the task."""

    def wait_for_arguments(self, task: Task) -> None:
        """The task is queued and has to wait for its arguments again."""


class Pulls:
    """The pull sets of one node.

    Args:
        arguments: learns when the arguments of tasks are here.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        objects: Objects,
        copies: CachedCopies,
        arguments: Arguments,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._objects = objects
        self._copies = copies
        self._arguments = arguments
        # Set once, after this object, which it needs.
        self.receiving: Receiving
        # Pull sets that are located and wait for admission, by class, in order.
        self._queues: tuple[dict[PullSet, None], dict[PullSet, None]] = ({}, {})
        # Admitted pull sets that wait for bytes.
        self._active: dict[PullSet, None] = {}
        # The one among these that was admitted without enough room.
        self._alone: PullSet | None = None
        # Object -> all pull sets that need it.
        self._needing: dict[ObjectEntry, dict[PullSet, None]] = {}
        # Process or task -> its pull sets.
        self._of_client: dict[Client, dict[PullSet, None]] = {}
        self._of_task: dict[Task, PullSet] = {}
        # Objects whose claims would wait in the store, although there seemed to be room. ``Receiving`` writes it.
        self.crowded: dict[ObjectEntry, None] = {}
        # Bytes in use when a claim last had to wait. While as many are in use, nothing more fits. None: none had to.
        self._crowded_at: int | None = None
        # An event has happened after which a pull set may be admitted.
        self._changed = False
        # A task whose arguments are all here was admitted.
        self._is_ready = False
        # Bytes in use, claims waiting and views ended when the queues were last looked at.
        self._seen = (0, 0, 0)

    def __repr__(self) -> str:
        reads, arguments = map(len, self._queues)
        return f"<Pulls {reads} reads and {arguments} tasks wait for room, {len(self._active)} pull_sets for bytes>"

    # Reads ------------------------------------------------------------------------------------------------------------

    def begin_read(self, client: Client) -> PullSet:
        """A process asks for objects: ``expect`` and ``push`` add them, and ``end_read`` closes the list."""
        pull_set = PullSet(self._outbox.new_party_number(), client, None)
        pull_set.alive = client.alive
        self._of_client.setdefault(client, {})[pull_set] = None
        return pull_set

    def expect(self, entry: ObjectEntry, pull_set: PullSet) -> bool:
        """The process wants an object that has no value yet. Returns False if it waits for it already."""
        for other in self._needing.get(entry, ()):
            if other.client is pull_set.client:
                if other is pull_set or not other.unresolved:
                    return False
                # The process asks again, because a later wait needs only some of the objects: the others may never
                # exist.
                self._leave(other, entry)
                break
        self._add(pull_set, entry)
        pull_set.unresolved += 1
        return True

    def _leave(self, pull_set: PullSet, entry: ObjectEntry) -> None:
        if entry.kind == UNRESOLVED:
            pull_set.unresolved -= 1
            if entry.waiting is not None:
                entry.waiting.remove(pull_set)
        self._remove(pull_set, entry)
        self._consider(pull_set)

    def push(self, entry: ObjectEntry, pull_set: PullSet) -> None:
        """An object of the pull set has a value. It may be elsewhere, or be a copy that can be dropped."""
        client = pull_set.client
        if client is None or not pull_set.alive:
            return
        waited = entry in pull_set.entries
        is_here = not self._is_elsewhere(entry) and entry not in self._copies
        if waited or (not is_here and self.expect(entry, pull_set)):
            pull_set.unresolved -= 1
            if not is_here:
                # The value may take long, and threads of the process may only want to know that it exists.
                self._outbox.send(client, (AWAY, entry.id, True))
        if is_here:
            self._deliver(entry, pull_set)
        if waited:
            self._consider(pull_set)

    def end_read(self, pull_set: PullSet) -> None:
        """All objects of the pull set are known."""
        pull_set.located = True
        self._consider(pull_set)

    def _consider(self, pull_set: PullSet) -> None:
        if not pull_set.located or pull_set.unresolved or pull_set.admitted:
            return
        if not pull_set.entries:
            self._end(pull_set)
        elif self._lacking(pull_set):
            self._queues[pull_set.place][pull_set] = None
            self._changed = True
        else:
            self._queues[pull_set.place].pop(pull_set, None)
            self._let_in(pull_set)

    def _deliver(self, entry: ObjectEntry, pull_set: PullSet) -> None:
        client = pull_set.client
        assert client is not None
        self._copies.used(entry)
        value = self._objects.value_for(entry, client)
        self._outbox.send(client, (VALUE, entry.id, entry.kind, value))
        self._remove(pull_set, entry)

    def client_disconnected(self, client: Client) -> None:
        """Ends the reads of a process that ended."""
        for pull_set in list(self._of_client.get(client, ())):
            self._end(pull_set)

    # Arguments --------------------------------------------------------------------------------------------------------

    def bring(self, task: Task) -> bool:
        """All dependencies of a task are resolved: brings those that are elsewhere.

        Returns:
            False if all are here. They stay until ``ended``. Otherwise ``Arguments.arguments_here`` follows.
        """
        if self.brought(task):
            return False
        self.ended(task)
        entries = [entry for entry in task.dependencies if self._is_elsewhere(entry) or entry in self._copies]
        if not entries:
            return False
        pull_set = self._of_task[task] = PullSet(self._outbox.new_party_number(), None, task)
        pull_set.located = True
        for entry in entries:
            self._add(pull_set, entry)
        self._consider(pull_set)
        return not pull_set.admitted or bool(pull_set.absent)

    def brings(self, task: Task) -> bool:
        """Returns True if arguments of the task are not here yet."""
        return task in self._of_task and not self.brought(task)

    def brought(self, task: Task) -> bool:
        """Returns True if the task has a pull set, and all of it is here."""
        pull_set = self._of_task.get(task)
        return pull_set is not None and pull_set.admitted and not pull_set.absent

    def ended(self, task: Task) -> None:
        """The task has ended, or is sent to another node: it needs its arguments here no more."""
        pull_set = self._of_task.get(task)
        if pull_set is not None:
            self._end(pull_set)

    # Members of pull sets ---------------------------------------------------------------------------------------------

    def _is_elsewhere(self, entry: ObjectEntry) -> bool:
        return entry.kind == SHARED and entry.block is None and not self._copies.attach(entry)

    def _add(self, pull_set: PullSet, entry: ObjectEntry) -> None:
        pull_set.entries[entry] = None
        self._needing.setdefault(entry, {})[pull_set] = None

    def _remove(self, pull_set: PullSet, entry: ObjectEntry) -> None:
        """The pull set needs this object no more."""
        if entry not in pull_set.entries:
            return
        del pull_set.entries[entry]
        needing = self._needing[entry]
        del needing[pull_set]
        if not needing:
            del self._needing[entry]
        if pull_set.admitted:
            self._want_no_more(pull_set, entry)
            if not pull_set.absent:
                self._active.pop(pull_set, None)
        if pull_set.located and pull_set.alive and not pull_set.entries:
            self._end(pull_set)

    def _want_no_more(self, pull_set: PullSet, entry: ObjectEntry) -> None:
        pull_set.absent.pop(entry, None)
        wanted = self._copies.wanted
        wanted[entry.id] -= 1
        if not wanted[entry.id]:
            del wanted[entry.id]
            self._changed = True
            if entry.id in self.receiving.pulls:
                self.receiving.cancel(entry)

    def _end(self, pull_set: PullSet) -> None:
        """The pull set is complete, or not needed any more."""
        pull_set.alive = False
        self._changed = True
        for queue in (*self._queues, self._active):
            queue.pop(pull_set, None)
        if self._alone is pull_set:
            self._alone = None
        if pull_set.task is not None:
            self._of_task.pop(pull_set.task, None)
        elif pull_set.client is not None:
            pull_sets = self._of_client.get(pull_set.client, {})
            pull_sets.pop(pull_set, None)
            if not pull_sets:
                self._of_client.pop(pull_set.client, None)
        for entry in list(pull_set.entries):
            self._remove(pull_set, entry)

    # Admission --------------------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """All events of a batch have been handled: admits pull sets as far as there is room.

        Returns: True if tasks have become ready.
        """
        store = self._store
        if self.crowded:
            crowded, self.crowded = self.crowded, {}
            for pull_set in {pull_set: None for entry in crowded for pull_set in self._needing.get(entry, ())}:
                self._turn_away(pull_set)
            self._crowded_at = store.allocator.used
        alone = self._alone
        if alone is not None and alone.place == ARGUMENTS and self._others_wait(alone):
            self._turn_away(alone)
        if store.waiting and (self._changed or store.views_ended != self._seen[2]):
            store.retry()  # copies may be free to be dropped for claims that wait
        seen = store.allocator.used, store.waiting, store.views_ended
        if self._changed or seen != self._seen or (self._queues[ARGUMENTS] and self._may_go_alone(ARGUMENTS)):
            self._changed = False
            if self._crowded_at is not None and store.allocator.used < self._crowded_at:
                self._crowded_at = None
            self._admit()
            self._seen = store.allocator.used, store.waiting, store.views_ended
        is_ready, self._is_ready = self._is_ready, False
        return is_ready

    def _others_wait(self, alone: PullSet) -> bool:
        """Returns True if processes wait for room, and perhaps behind the claims of this pull set."""
        pulls = self.receiving.pulls
        own = sum(1 for entry in alone.absent if entry.id in pulls and pulls[entry.id].claim is not None)
        return self._store.waiting > own

    def _admit(self) -> None:
        for place, queue in enumerate(self._queues):
            while queue:
                pull_set = next(iter(queue))
                patient = False
                while not self._fits(pull_set):
                    if place == READS and self._turn_task_away():
                        continue
                    if not self._may_go_alone(place):
                        return  # arguments must not take the room that a read waits for
                    patient = True
                    break
                del queue[pull_set]
                if patient and self._refuse_if_too_large(pull_set):
                    continue
                self._let_in(pull_set, patient=patient)
                if pull_set.task is not None and pull_set.alive and not pull_set.absent:
                    self._is_ready = True
                    self._arguments.arguments_here(pull_set.task)  # others have brought them meanwhile

    def _may_go_alone(self, place: int) -> bool:
        """Returns True if nothing else promises that the next pull set of a class will fit later."""
        if self._active:
            return False
        return place == READS or not (self._store.waiting or any(map(_may_end, self._of_task)))

    def _refuse_if_too_large(self, pull_set: PullSet) -> bool:
        """Ends a read of objects that are together larger than the store. Returns False for any other pull set."""
        capacity = self._store.allocator.capacity
        sizes = [entry.payload[1] if entry.block is None else entry.block.allocation.size for entry in pull_set.entries]
        if pull_set.client is None or len(sizes) == 1 or sum(map(_aligned, sizes)) <= capacity:
            return False
        why = (
            f"The {len(sizes)} objects that are read together ({sum(sizes) / 2**20:,.1f} MiB) are larger than the "
            f"object store of this node ({capacity / 2**20:,.1f} MiB): read fewer at a time, or start the node with a "
            "larger object_store_memory."
        )
        for entry in list(pull_set.entries):
            self._fail_read(entry, pull_set, pull_set.client, why)
        return True

    def _lacking(self, pull_set: PullSet) -> list[ObjectEntry]:
        """Returns the objects of the pull set that are not here and that no admitted pull set brings."""
        pulls = self.receiving.pulls
        return [entry for entry in pull_set.entries if self._is_elsewhere(entry) and entry.id not in pulls]

    def _fits(self, pull_set: PullSet) -> bool:
        size = sum(_aligned(entry.payload[1]) for entry in self._lacking(pull_set))
        if not size:
            return True
        if self._store.waiting or self._crowded_at is not None:
            return False
        allocator = self._store.allocator
        size += allocator.used + self.receiving.unclaimed - allocator.capacity
        if pull_set.place == ARGUMENTS:
            size += allocator.capacity // RESERVE
        return size <= 0 or self._copies.has_evictable(size, pull_set.entries)

    def _let_in(self, pull_set: PullSet, *, patient: bool = False) -> None:
        """Admits a pull set."""
        pull_set.admitted = True
        wanted = self._copies.wanted
        for entry in pull_set.entries:
            wanted[entry.id] = wanted.get(entry.id, 0) + 1
        pull_set.absent = {entry: None for entry in pull_set.entries if self._is_elsewhere(entry)}
        if pull_set.absent:
            self._active[pull_set] = None
            if patient:
                self._alone = pull_set
        for entry in list(pull_set.entries):
            # An object may end the pull set: the store refuses it at once.
            if entry in pull_set.absent:
                if entry.id not in self.receiving.pulls:
                    self.receiving.begin(entry, patient=patient)
            elif pull_set.client is not None and entry in pull_set.entries:
                self._deliver(entry, pull_set)

    def _turn_away(self, pull_set: PullSet) -> None:
        """Takes the admission back: the pull set waits again, before all others of its class."""
        if not pull_set.admitted:
            return
        self._active.pop(pull_set, None)
        if self._alone is pull_set:
            self._alone = None
        for entry in pull_set.entries:
            self._want_no_more(pull_set, entry)
        pull_set.admitted = False
        queue = self._queues[pull_set.place]
        waiting = dict(queue)
        queue.clear()
        queue.update({pull_set: None, **waiting})

    def _turn_task_away(self) -> bool:
        """Makes the copies of a queued task's arguments free to be dropped. Returns False if there is no such task."""
        for task in reversed(self._of_task):
            pull_set = self._of_task[task]
            if task.state == QUEUED and task.actor is None and pull_set.admitted and not pull_set.absent:
                self._turn_away(pull_set)
                self._arguments.wait_for_arguments(task)
                return True
        return False

    # Ends of pulls ----------------------------------------------------------------------------------------------------

    def arrived(self, entry: ObjectEntry, block: Block) -> None:
        """All bytes of an object are here."""
        self._copies.add(entry, block)
        for pull_set in list(self._needing.get(entry, ())):
            if pull_set.admitted:
                self._here(pull_set, entry)

    def _here(self, pull_set: PullSet, entry: ObjectEntry) -> None:
        pull_set.absent.pop(entry, None)
        if pull_set.client is not None:
            self._deliver(entry, pull_set)
        elif not pull_set.absent:
            self._active.pop(pull_set, None)
            self._changed = True
            if self._alone is pull_set:
                self._alone = None
            assert pull_set.task is not None
            self._arguments.arguments_here(pull_set.task)

    def no_room(self, entry: ObjectEntry, why: str) -> None:
        """The store has no room for an object."""
        self._is_ready = True  # the end of a task may make others ready
        for pull_set in list(self._needing.get(entry, ())):
            if not pull_set.admitted:
                continue
            if pull_set.client is not None:
                self._fail_read(entry, pull_set, pull_set.client, why)
            elif pull_set.task is not None:
                self._end(pull_set)
                fault = ["ObjectStoreFullError", {"message": why}]
                self._arguments.arguments_failed(pull_set.task, FAULT, fault)

    def _fail_read(self, entry: ObjectEntry, pull_set: PullSet, client: Client, why: str) -> None:
        fault = ["ObjectStoreFullError", {"message": why}, True]
        self._outbox.send(client, (VALUE, entry.id, FAULT, fault))
        self._remove(pull_set, entry)

    def lost(self, entry: ObjectEntry) -> None:
        """The value of an object has become an error."""
        if entry.id in self.receiving.pulls:
            self.receiving.cancel(entry)
        for pull_set in list(self._needing.get(entry, ())):
            if pull_set.client is not None:
                self._deliver(entry, pull_set)
            elif pull_set.task is not None:
                self._end(pull_set)
                self._arguments.arguments_here(pull_set.task)

    def freed(self, entry: ObjectEntry) -> None:
        """The entry is removed: nothing needs the object any more."""
        for pull_set in list(self._needing.get(entry, ())):
            if entry.kind == UNRESOLVED:
                pull_set.unresolved -= 1
            self._remove(pull_set, entry)
            self._consider(pull_set)
        self._copies.released(entry)

    # Checks -----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError if the tables contradict each other, or a pull set waits that could be let in."""
        wanted: dict[bytes, int] = {}
        for entry, pull_sets in self._needing.items():
            for pull_set in pull_sets:
                assert entry in pull_set.entries and pull_set.alive, f"{pull_set} does not need {entry}"
                if pull_set.admitted:
                    wanted[entry.id] = wanted.get(entry.id, 0) + 1
        assert wanted == self._copies.wanted, f"{wanted} and {self._copies.wanted}"
        for pull_set in (
            *self._of_task.values(),
            *(pull_set for found in self._of_client.values() for pull_set in found),
        ):
            unresolved = sum(1 for entry in pull_set.entries if entry.kind == UNRESOLVED)
            assert pull_set.unresolved == unresolved, f"{pull_set} counts {pull_set.unresolved} and not {unresolved}"
            assert (pull_set in self._active) == bool(pull_set.absent), f"{pull_set} is active"
            assert not pull_set.absent or pull_set.admitted, f"{pull_set} is not admitted"
            assert all(entry.id in self.receiving.pulls for entry in pull_set.absent), f"{pull_set} waits for nothing"
            waits = pull_set.located and not pull_set.unresolved and not pull_set.admitted
            assert (pull_set in self._queues[pull_set.place]) == waits, f"{pull_set} is in the wrong queue"
        for pull in self.receiving.pulls.values():
            assert pull.entry.id in wanted, f"{pull} comes for nothing"


def _may_end(task: Task) -> bool:
    """Returns True if a task runs and waits for nothing: then it will give its arguments back."""
    return task.state == SENT and not (task.lease is not None and task.lease.blocked)


def _aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
