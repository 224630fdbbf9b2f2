"""Pulls: decides which large objects of other nodes come here, and when there is room for them.

A *bundle* is a set of objects that are needed together: those of one SUBSCRIBE of a process, or the arguments of a
task. There are two classes, and reads of processes go before arguments. A bundle waits until all of its objects are
located. Then it is *admitted* as a whole, in order, if there is room for everything that is not here: free memory and
copies that can be dropped, without what admitted bundles were promised. ``receiving`` brings the objects.

Nothing waits for ever, because:

1. A bundle claims everything at once, so no two bundles that are half complete wait for each other.
2. Arguments leave a fifth of the store free (``RESERVE``), so running tasks can store results, and they give way to
   claims of processes that wait.
3. If a read does not fit, queued tasks give up the copies of their arguments, and bring them again later.
4. If a bundle does not fit although nothing else is on its way, it is admitted alone: its claims wait in the store as
   those of a process that puts a value, and end with room or with ``ObjectStoreFullError``. Arguments wait first for
   the ends of tasks that run.
5. Room is taken here before a source is sought, and a source needs no room. So no cycle crosses nodes.

A bundle waits for values as a process does, so it is a party: the object table pushes values to it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from asyncray.config import ALIGNMENT
from asyncray.core.cluster.cached_copies import CachedCopies
from asyncray.core.cluster.receiving import Receiving
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, Client, ObjectEntry, Party, Task
from asyncray.core.states import QUEUED, SENT
from asyncray.core.store import Store
from asyncray.messages import FAULT, SHARED, UNRESOLVED, VALUE

READS: Final = 0
"""The class of bundles that processes wait for."""
ARGUMENTS: Final = 1

RESERVE = 5
"""One part in so many of the store is never claimed for arguments."""


class Arguments(Protocol):
    """Learns what happens to the arguments of tasks: ``Work``."""

    def arguments_here(self, task: Task) -> None:
        """All arguments of the task are here, or one is an error."""

    def arguments_failed(self, task: Task, kind: int, payload: Any) -> None:
        """There is no room for the arguments of the task."""

    def wait_for_arguments(self, task: Task) -> None:
        """The task is queued and has to wait for its arguments again."""


class PullBundle(Party):
    """Objects that are needed together. ``Pulls`` writes it.

    Args:
        client: the process that reads them. None: they are the arguments of ``task``.
    """

    __slots__ = ("absent", "admitted", "client", "entries", "located", "task", "unresolved")

    is_node = True

    def __init__(self, number: int, client: Client | None, task: Task | None) -> None:
        super().__init__(number)
        self.client = client
        self.task = task
        # Objects that the process has not got yet, or all arguments that came from other nodes or will come.
        self.entries: dict[ObjectEntry, None] = {}
        # How many of these have no value yet.
        self.unresolved = 0
        # All objects were added and are resolved.
        self.located = False
        # There is room for all objects.
        self.admitted = False
        # Objects that are not here yet. Empty unless the bundle is admitted.
        self.absent: dict[ObjectEntry, None] = {}

    def __repr__(self) -> str:
        state = f"waits for {len(self.absent)}" if self.admitted else "located" if self.located else "not located"
        return f"<PullBundle {self.number} of {self.client or self.task}, {len(self.entries)} objects, {state}>"

    @property
    def place(self) -> int:
        """Its class."""
        return READS if self.task is None else ARGUMENTS


class Pulls:
    """The bundles of one node.

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
        # Set once: it needs this object, too.
        self.receiving: Receiving
        # Bundles that are located and wait for admission, by class, in order.
        self._queues: tuple[dict[PullBundle, None], dict[PullBundle, None]] = ({}, {})
        # Admitted bundles that wait for bytes.
        self._active: dict[PullBundle, None] = {}
        # The one among these that was admitted without enough room.
        self._alone: PullBundle | None = None
        # Object -> all bundles that need it.
        self._needing: dict[ObjectEntry, dict[PullBundle, None]] = {}
        # Process or task -> its bundles.
        self._of_client: dict[Client, dict[PullBundle, None]] = {}
        self._of_task: dict[Task, PullBundle] = {}
        # Objects whose claims would wait in the store, although there seemed to be room. ``Receiving`` writes it.
        self.crowded: dict[ObjectEntry, None] = {}
        # Bytes in use when that last happened. While there are as many, nothing more fits. None: it did not happen.
        self._crowded_at: int | None = None
        # Something happened that may let a bundle in.
        self._changed = False
        # A task was admitted whose arguments are all here.
        self._is_ready = False
        # Bytes in use, claims waiting and views ended when the queues were last looked at.
        self._seen = (0, 0, 0)

    def __repr__(self) -> str:
        reads, arguments = map(len, self._queues)
        return f"<Pulls {reads} reads and {arguments} tasks wait for room, {len(self._active)} bundles for bytes>"

    # Reads ------------------------------------------------------------------------------------------------------------

    def begin_read(self, client: Client) -> PullBundle:
        """A process asks for objects: ``expect`` and ``push`` add them, and ``end_read`` closes the list."""
        bundle = PullBundle(self._outbox.new_party_number(), client, None)
        bundle.alive = client.alive
        self._of_client.setdefault(client, {})[bundle] = None
        return bundle

    def expect(self, entry: ObjectEntry, bundle: PullBundle) -> bool:
        """The process wants an object that has no value yet. Returns False if it waits for it already."""
        if any(other.client is bundle.client for other in self._needing.get(entry, ())):
            return False
        self._add(bundle, entry)
        bundle.unresolved += 1
        return True

    def push(self, entry: ObjectEntry, bundle: PullBundle) -> None:
        """An object of the bundle has a value. It may be elsewhere, or be a copy that can be dropped."""
        if not bundle.alive:
            return
        waited = entry in bundle.entries
        if waited:
            bundle.unresolved -= 1
        if not self._is_elsewhere(entry) and entry not in self._copies:
            self._deliver(entry, bundle)
        elif not waited and self.expect(entry, bundle):
            bundle.unresolved -= 1
        if waited:
            self._consider(bundle)

    def end_read(self, bundle: PullBundle) -> None:
        """All objects of the bundle are known."""
        bundle.located = True
        self._consider(bundle)

    def _consider(self, bundle: PullBundle) -> None:
        if not bundle.located or bundle.unresolved or bundle.admitted:
            return
        if not bundle.entries:
            self._end(bundle)
        elif self._lacking(bundle):
            self._queues[bundle.place][bundle] = None
            self._changed = True
        else:
            self._queues[bundle.place].pop(bundle, None)
            self._let_in(bundle)

    def _deliver(self, entry: ObjectEntry, bundle: PullBundle) -> None:
        client = bundle.client
        assert client is not None
        self._copies.used(entry)
        value = self._objects.value_for(entry, client)
        self._outbox.send(client, (VALUE, entry.id, entry.kind, value))
        self._remove(bundle, entry)

    def client_disconnected(self, client: Client) -> None:
        """Ends the reads of a process that ended."""
        for bundle in list(self._of_client.get(client, ())):
            self._end(bundle)

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
        bundle = self._of_task[task] = PullBundle(self._outbox.new_party_number(), None, task)
        bundle.located = True
        for entry in entries:
            self._add(bundle, entry)
        self._consider(bundle)
        return not bundle.admitted or bool(bundle.absent)

    def brings(self, task: Task) -> bool:
        """Returns True if arguments of the task are not here yet."""
        return task in self._of_task and not self.brought(task)

    def brought(self, task: Task) -> bool:
        """Returns True if the task has a bundle, and all of it is here."""
        bundle = self._of_task.get(task)
        return bundle is not None and bundle.admitted and not bundle.absent

    def ended(self, task: Task) -> None:
        """The task has ended, or is sent to another node: it needs its arguments here no more."""
        bundle = self._of_task.get(task)
        if bundle is not None:
            self._end(bundle)

    # Members of bundles -----------------------------------------------------------------------------------------------

    def _is_elsewhere(self, entry: ObjectEntry) -> bool:
        return entry.kind == SHARED and entry.block is None and not self._copies.attach(entry)

    def _add(self, bundle: PullBundle, entry: ObjectEntry) -> None:
        bundle.entries[entry] = None
        self._needing.setdefault(entry, {})[bundle] = None

    def _remove(self, bundle: PullBundle, entry: ObjectEntry) -> None:
        """The bundle needs this object no more."""
        if entry not in bundle.entries:
            return
        del bundle.entries[entry]
        needing = self._needing[entry]
        del needing[bundle]
        if not needing:
            del self._needing[entry]
        if bundle.admitted:
            self._want_no_more(bundle, entry)
            if not bundle.absent:
                self._active.pop(bundle, None)
        if bundle.located and bundle.alive and not bundle.entries:
            self._end(bundle)

    def _want_no_more(self, bundle: PullBundle, entry: ObjectEntry) -> None:
        bundle.absent.pop(entry, None)
        wanted = self._copies.wanted
        wanted[entry.id] -= 1
        if not wanted[entry.id]:
            del wanted[entry.id]
            self._changed = True
            if entry.id in self.receiving.pulls:
                self.receiving.cancel(entry)

    def _end(self, bundle: PullBundle) -> None:
        """The bundle is complete, or not needed any more."""
        bundle.alive = False
        self._changed = True
        for queue in (*self._queues, self._active):
            queue.pop(bundle, None)
        if self._alone is bundle:
            self._alone = None
        if bundle.task is not None:
            self._of_task.pop(bundle.task, None)
        elif bundle.client is not None:
            bundles = self._of_client.get(bundle.client, {})
            bundles.pop(bundle, None)
            if not bundles:
                self._of_client.pop(bundle.client, None)
        for entry in list(bundle.entries):
            self._remove(bundle, entry)

    # Admission --------------------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """All events of a batch have been handled: admits bundles as far as there is room.

        Returns: True if tasks have become ready.
        """
        store = self._store
        if self.crowded:
            crowded, self.crowded = self.crowded, {}
            for bundle in {bundle: None for entry in crowded for bundle in self._needing.get(entry, ())}:
                self._turn_away(bundle)
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

    def _others_wait(self, alone: PullBundle) -> bool:
        """Returns True if processes wait for room, and perhaps behind the claims of this bundle."""
        pulls = self.receiving.pulls
        own = sum(1 for entry in alone.absent if entry.id in pulls and pulls[entry.id].claim is not None)
        return self._store.waiting > own

    def _admit(self) -> None:
        for place, queue in enumerate(self._queues):
            while queue:
                bundle = next(iter(queue))
                patient = False
                while not self._fits(bundle):
                    if place == READS and self._turn_task_away():
                        continue
                    if not self._may_go_alone(place):
                        return  # arguments must not take the room that a read waits for
                    patient = True
                    break
                del queue[bundle]
                self._let_in(bundle, patient=patient)
                if bundle.task is not None and bundle.alive and not bundle.absent:
                    self._is_ready = True
                    self._arguments.arguments_here(bundle.task)  # others have brought them meanwhile

    def _may_go_alone(self, place: int) -> bool:
        """Returns True if nothing else promises that the next bundle of a class will fit later."""
        if self._active:
            return False
        return place == READS or not (self._store.waiting or any(map(_may_end, self._of_task)))

    def _lacking(self, bundle: PullBundle) -> list[ObjectEntry]:
        """Returns the objects of the bundle that are not here and that no admitted bundle brings."""
        pulls = self.receiving.pulls
        return [entry for entry in bundle.entries if self._is_elsewhere(entry) and entry.id not in pulls]

    def _fits(self, bundle: PullBundle) -> bool:
        size = sum(_aligned(entry.payload[1]) for entry in self._lacking(bundle))
        if not size:
            return True
        if self._store.waiting or self._crowded_at is not None:
            return False
        allocator = self._store.allocator
        size += allocator.used + self.receiving.unclaimed - allocator.capacity
        if bundle.place == ARGUMENTS:
            size += allocator.capacity // RESERVE
        return size <= 0 or self._copies.has_evictable(size, bundle.entries)

    def _let_in(self, bundle: PullBundle, *, patient: bool = False) -> None:
        """Admits a bundle."""
        bundle.admitted = True
        wanted = self._copies.wanted
        for entry in bundle.entries:
            wanted[entry.id] = wanted.get(entry.id, 0) + 1
        bundle.absent = {entry: None for entry in bundle.entries if self._is_elsewhere(entry)}
        if bundle.absent:
            self._active[bundle] = None
            if patient:
                self._alone = bundle
        for entry in list(bundle.entries):
            # An object may end the bundle: the store refuses it at once.
            if entry in bundle.absent:
                if entry.id not in self.receiving.pulls:
                    self.receiving.begin(entry, patient=patient)
            elif bundle.client is not None and entry in bundle.entries:
                self._deliver(entry, bundle)

    def _turn_away(self, bundle: PullBundle) -> None:
        """Takes the admission back: the bundle waits again, before all others of its class."""
        if not bundle.admitted:
            return
        self._active.pop(bundle, None)
        if self._alone is bundle:
            self._alone = None
        for entry in bundle.entries:
            self._want_no_more(bundle, entry)
        bundle.admitted = False
        queue = self._queues[bundle.place]
        waiting = dict(queue)
        queue.clear()
        queue.update({bundle: None, **waiting})

    def _turn_task_away(self) -> bool:
        """Makes the copies of a queued task's arguments free to be dropped. Returns False if there is no such task."""
        for task in reversed(self._of_task):
            bundle = self._of_task[task]
            if task.state == QUEUED and task.actor is None and bundle.admitted and not bundle.absent:
                self._turn_away(bundle)
                self._arguments.wait_for_arguments(task)
                return True
        return False

    # How pulls end ----------------------------------------------------------------------------------------------------

    def arrived(self, entry: ObjectEntry, block: Block) -> None:
        """All bytes of an object are here."""
        self._copies.add(entry, block)
        for bundle in list(self._needing.get(entry, ())):
            if bundle.admitted:
                self._here(bundle, entry)

    def _here(self, bundle: PullBundle, entry: ObjectEntry) -> None:
        bundle.absent.pop(entry, None)
        if bundle.client is not None:
            self._deliver(entry, bundle)
        elif not bundle.absent:
            self._active.pop(bundle, None)
            self._changed = True
            if self._alone is bundle:
                self._alone = None
            assert bundle.task is not None
            self._arguments.arguments_here(bundle.task)

    def no_room(self, entry: ObjectEntry, why: str) -> None:
        """The store has no room for an object."""
        fault = ["ObjectStoreFullError", {"message": why}]
        self._is_ready = True  # the end of a task may make others ready
        for bundle in list(self._needing.get(entry, ())):
            if not bundle.admitted:
                continue
            if bundle.client is not None:
                self._outbox.send(bundle.client, (VALUE, entry.id, FAULT, fault))
                self._remove(bundle, entry)
            elif bundle.task is not None:
                self._end(bundle)
                self._arguments.arguments_failed(bundle.task, FAULT, fault)

    def lost(self, entry: ObjectEntry) -> None:
        """The value of an object has become an error."""
        if entry.id in self.receiving.pulls:
            self.receiving.cancel(entry)
        for bundle in list(self._needing.get(entry, ())):
            if bundle.client is not None:
                self._deliver(entry, bundle)
            elif bundle.task is not None:
                self._end(bundle)
                self._arguments.arguments_here(bundle.task)

    def freed(self, entry: ObjectEntry) -> None:
        """The entry is removed: nothing needs the object any more."""
        for bundle in list(self._needing.get(entry, ())):
            if entry.kind == UNRESOLVED:
                bundle.unresolved -= 1
            self._remove(bundle, entry)
            self._consider(bundle)
        self._copies.released(entry)

    # Checks -----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError if the tables contradict each other, or a bundle waits that could be let in."""
        wanted: dict[bytes, int] = {}
        for entry, bundles in self._needing.items():
            for bundle in bundles:
                assert entry in bundle.entries and bundle.alive, f"{bundle} does not need {entry}"
                if bundle.admitted:
                    wanted[entry.id] = wanted.get(entry.id, 0) + 1
        assert wanted == self._copies.wanted, f"{wanted} and {self._copies.wanted}"
        for bundle in (*self._of_task.values(), *(bundle for found in self._of_client.values() for bundle in found)):
            unresolved = sum(1 for entry in bundle.entries if entry.kind == UNRESOLVED)
            assert bundle.unresolved == unresolved, f"{bundle} counts {bundle.unresolved} and not {unresolved}"
            assert (bundle in self._active) == bool(bundle.absent), f"{bundle} is active"
            assert not bundle.absent or bundle.admitted, f"{bundle} is not admitted"
            assert all(entry.id in self.receiving.pulls for entry in bundle.absent), f"{bundle} waits for nothing"
            waits = bundle.located and not bundle.unresolved and not bundle.admitted
            assert (bundle in self._queues[bundle.place]) == waits, f"{bundle} is in the wrong queue"
        for pull in self.receiving.pulls.values():
            assert pull.entry.id in wanted, f"{pull} comes for nothing"


def _may_end(task: Task) -> bool:
    """Returns True if a task runs and waits for nothing: then it will give its arguments back."""
    return task.state == SENT and not (task.lease is not None and task.lease.blocked)


def _aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
