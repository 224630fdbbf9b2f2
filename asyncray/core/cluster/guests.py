"""Guests: tasks of other nodes that run here.

A guest comes with the values of its arguments, waits in the queue of its shape beside the tasks of this node, and goes
home by exactly one message: RESULT when it has ended, or BACK if it did not start. Its home decides about retries, so a
guest whose process dies is not tried again here. A guest is never sent on.

The refs that come with a guest are covered until that message (``covers``). If code here still needs one of them whose
owner is a third node, a flag in the message announces DONE_WITH. The refs inside a result are kept for the home until
it sends CLAIMED.

A home learns how many of its tasks can run here side by side: its *slots*. Each home that has guests in a shape gets an
equal share of what the shape has: its leases and the room for more. A lease whose task waits for objects counts as
well, and so does the CPU that it lends: otherwise the children of that task would find no slot. Such a lease is a slot
of the home of its guest alone. Otherwise a recursion that alternates between two nodes would stop, because half of the
slots belong to the home of its first task. A guest that waits for its large arguments takes no slot, so others
run meanwhile. As many of these as a home has slots may wait in addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from asyncray.cluster_messages import BACK, DONE_WITH, RESULT, SLOTS
from asyncray.cluster_words import MAY_HAVE_STARTED, NEVER_FITS, NO_BUNDLE, OVER, WANTED_BACK
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.far_values import FarValues
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.known_templates import KnownTemplates
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.task_arguments import TaskArguments
from asyncray.core.leases import Shape
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Guest, ObjectEntry, Party, Task
from asyncray.core.scheduler import UNKNOWN
from asyncray.core.states import FINAL, FINISHED, PENDING, QUEUED, SENT, WAITING, WITHDRAWN
from asyncray.exceptions import ActorDiedError
from asyncray.ids import return_id
from asyncray.messages import FAULT, RETURN_QUEUED, SHARED, Value

_UNLIMITED = 1 << 20

_LOOKS = 32
"""How many shapes a flush looks at, in turn, beside those whose guests came or went: thousands may have guests."""


class _Visit:
    """The guests of one home in one shape."""

    __slots__ = ("count", "number", "told")

    def __init__(self, number: int) -> None:
        # A template of the shape, by the number of the home.
        self.number = number
        self.count = 0
        # The slots that the home knows of.
        self.told = -1


class Guests:
    """The tasks of other nodes on this one."""

    def __init__(
        self,
        machine: NodeMachine,
        imports: Imports,
        templates: KnownTemplates,
        values: FarValues,
        arguments: TaskArguments,
    ) -> None:
        self._outbox = machine.outbox
        self._objects = machine.objects
        self._work = machine.work
        self._scheduler = machine.scheduler
        self._cancelling = machine.cancelling
        self._imports = imports
        self._values = values
        self._arguments = arguments
        self._templates = templates
        # Home -> its guests, by attempt.
        self.table: dict[Party, dict[int, Guest]] = {}
        # Home -> attempt -> the objects inside a result, until the home has claimed them.
        self._claims: dict[Party, dict[int, tuple[ObjectEntry, ...]]] = {}
        # Shape -> home -> its guests there.
        self._visits: dict[Shape, dict[Party, _Visit]] = {}
        # Shapes whose guests came or went since the last flush.
        self._news: dict[Shape, None] = {}
        # The numbers that decided about slots at the last flush, and how many shapes no flush has looked at since.
        self._seen: tuple[object, ...] = ()
        self._unlooked = 0
        # Objects inside results for lost homes, until their graces have ended.
        self._graces: dict[Party, list[tuple[ObjectEntry, ...]]] = {}
        # Ends a guest actor whose constructor has not begun. ``GuestActors`` sets it.
        self.withdraw: Callable[[Guest], None]
        machine.work.guests = self

    def __repr__(self) -> str:
        return f"<Guests {sum(map(len, self.table.values()))} of {len(self.table)} homes>"

    # Arrival ----------------------------------------------------------------------------------------------------------

    def task(self, peer: Peer, message: Any) -> None:
        """TASK: runs a task of another node."""
        _, attempt, task_id, number, kind, payload, values, nested, name, depth, again = message
        guest = self.welcome(peer, attempt, task_id, number)
        if guest is None:
            return
        guest.kind, guest.payload, guest.given_name, guest.depth = kind, payload, name, depth
        guest.retries = int(again)
        self._count(guest, self._scheduler.shapes.shape_of(guest), number)
        self.take_arguments(guest, values, nested)
        self._work.welcome(guest)

    def welcome(self, peer: Peer, attempt: int, task_id: bytes, number: int) -> Guest | None:
        """Makes the record of a task of another node. None: it cannot run here, and has gone back."""
        found = self._templates.find(peer, number)
        if found is None:
            self._outbox.send(peer, (BACK, attempt, OVER, False))
            return None
        visitor, template = found
        shapes = self._scheduler.shapes
        account = shapes.accounts.get(template.where) or shapes.elsewhere(template.where, template.demand)
        if not account.feasible(template.demand):
            self._outbox.send(peer, (BACK, attempt, NEVER_FITS, False))
            return None
        if account.obstacle and account.fault is None:
            # The bundle is not here (any more): the home has an old row of its group.
            self._outbox.send(peer, (BACK, attempt, NO_BUNDLE, False))
            return None
        guest = Guest(task_id, template, visitor, peer, attempt)
        guest.returns = tuple(
            ObjectEntry(return_id(task_id, index), visitor, guest) for index in range(max(1, template.returns))
        )
        self.table.setdefault(peer, {})[attempt] = guest
        return guest

    def take_arguments(self, guest: Guest, values: Sequence[Any] | None, nested: Sequence[bytes] | None) -> None:
        """Enters the objects that came with a guest."""
        if not values and not nested:
            return
        values, nested = values or (), nested or ()
        home, attempt = guest.home, guest.attempt
        cover = guest.cover = Cover(home, partial(self._outbox.send, home, (DONE_WITH, attempt)))
        names = [object_id for object_id, *_ in values]
        self._imports.learn(cover, names)
        self._imports.learn(cover, nested)
        guest.dependencies = self._objects.use_all(names)
        guest.nested = self._objects.use_all(nested)
        for object_id, kind, payload, contained in values:
            self._values.know(object_id, kind, payload, contained)

    def _count(self, guest: Guest, shape: Shape, number: int) -> None:
        visits = self._visits.setdefault(shape, {})
        visit = visits.get(guest.home)
        if visit is None:
            visit = visits[guest.home] = _Visit(number)
        visit.number = number
        if not visit.count:
            visit.told = -1  # the home may have forgotten it
        visit.count += 1
        self._news[shape] = None

    # Ends -------------------------------------------------------------------------------------------------------------

    def ended(self, guest: Task, values: Sequence[Value]) -> None:
        """The guest has run, has failed or was cancelled: its home gets the values."""
        assert isinstance(guest, Guest)
        home, attempt = guest.home, guest.attempt
        sent: list[Value] = []
        contained: list[bytes] = []
        for index, (kind, payload, refs) in enumerate(values):
            if kind == SHARED and not home.alive:
                self._work.store.drop_copy(guest.returns[index].id, attempt)
            sent.append((kind, [attempt, payload[2]] if kind == SHARED else payload, refs))
            contained += refs or ()
        if contained and home.alive:
            self._claims.setdefault(home, {})[attempt] = self._objects.use_all(contained)
        later = self._leave(guest)
        if home.alive and guest.how == WITHDRAWN:
            self._outbox.send(home, (BACK, attempt, WANTED_BACK, later))
        elif home.alive:
            mean = int(guest.template.mean or 0)
            self._outbox.send(home, (RESULT, attempt, mean, sent, guest.how, later))

    def _leave(self, guest: Guest) -> bool:
        """Ends the guest's uses. Returns True if refs that came with it are still needed here."""
        home = guest.home
        table = self.table.get(home)
        if table is not None:
            table.pop(guest.attempt, None)
        shape = guest.template.shape
        visit = None if shape is None else self._visits.get(shape, {}).get(home)
        if shape is not None and visit is not None:
            visit.count -= 1
            self._news[shape] = None
        if guest.dependencies:
            self._arguments.ended(guest)
            self._objects.unuse_all(guest.dependencies)
        if guest.nested:
            self._objects.unuse_all(guest.nested)
        # A lost home waits for no message. ``Imports`` ends its covers.
        return guest.cover is not None and home.alive and self._imports.end(guest.cover)

    def send_back(self, guest: Guest, why: int) -> None:
        """The guest has not started, and will not."""
        job = guest.template.job
        del job.tasks[guest.id]
        if guest.state == QUEUED and guest.actor is None:
            self._scheduler.shapes.forget(guest)
        guest.state = FINISHED
        later = self._leave(guest)
        self._outbox.send(guest.home, (BACK, guest.attempt, why, later))
        guest.template.users -= 1
        self._work.functions.settle(guest.template)

    def claimed(self, peer: Peer, message: Any) -> None:
        """CLAIMED: the home keeps the objects inside a result itself, or does not need them."""
        _, attempt = message
        self._objects.unuse_all(self._claims[peer].pop(attempt))

    # Wishes of homes --------------------------------------------------------------------------------------------------

    def take_back(self, peer: Peer, message: Any) -> None:
        """TAKE_BACK: the home knows free places for some of its tasks that wait here."""
        _, attempts, count = message
        table = self.table.get(peer, {})
        guests = [table[attempt] for attempt in attempts if attempt in table]
        waiting = [guest for guest in guests if _has_not_begun(guest)]
        for guest in waiting[:count]:
            if guest.is_constructor:
                self.withdraw(guest)
            else:
                self.send_back(guest, MAY_HAVE_STARTED if guest.estimate == UNKNOWN else WANTED_BACK)
        if len(waiting) >= count:
            return
        # Others were sent ahead to workers: they come back to the queue, and the home asks again.
        for worker in {guest.worker: None for guest in guests if guest.state == SENT and guest.worker is not None}:
            if len(worker.inflight) > 1 and worker.client is not None:
                self._outbox.send(worker.client, (RETURN_QUEUED,))

    def cancel(self, peer: Peer, message: Any) -> None:
        """CANCEL_TASK: the home wants a task to stop. Its end is reported as any other."""
        _, attempt, force, recursive = message
        guest = self.table.get(peer, {}).get(attempt)
        if guest is not None:
            self._cancelling.cancel(guest.id, force=force, recursive=recursive)

    def flush(self) -> None:
        """All events of a batch have been handled: tells homes whose slots have changed."""
        visits = self._visits
        news, self._news = self._news, {}
        if not visits:
            return
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._unlooked = len(visits)
        looks = list(islice(visits, _LOOKS))
        if len(visits) > _LOOKS:
            for shape in looks:
                visits[shape] = visits.pop(shape)
        self._unlooked = max(0, self._unlooked - len(looks))
        nested = self._nested_blocked() if self._scheduler.hosts else {}
        for shape in dict.fromkeys([*news, *looks]):
            if shape in visits:
                self._tell(shape, visits[shape], nested.get(shape, ()))

    def _state(self) -> tuple[object, ...]:
        """Returns the numbers that decide about the slots of most shapes."""
        scheduler = self._scheduler
        available = dict(scheduler.resources.available)
        return available, len(scheduler.blocked_workers), len(scheduler.hosts), len(self._arguments.guests_waiting)

    @property
    def needs_fast_tick(self) -> bool:
        """True while homes may not know their slots: there are more shapes than one flush looks at."""
        return self._unlooked > 0

    def _tell(self, shape: Shape, visits: dict[Party, _Visit], nested: Sequence[Task]) -> None:
        """Tells the homes that have guests in a shape how many slots they have, if that has changed."""
        if not shape.templates:
            del self._visits[shape]
            return
        homes = sum(1 for visit in visits.values() if visit.count)
        if not homes:
            return
        blocked = self._blocked(shape, nested) if homes > 1 else {}
        share = -(-(self._slots(shape) + len(nested) - sum(blocked.values())) // homes)
        waiting = self._arguments.guests_counted
        for home, visit in visits.items():
            if visit.count and self._templates.find(home, visit.number) is None:
                self._rename(visit, home, shape)
            own = share + blocked.get(home, 0)
            slots = own + min(own, waiting.get((shape, home), 0))
            if visit.count and slots != visit.told:
                visit.told = slots
                self._outbox.send(home, (SLOTS, visit.number, slots))

    def _rename(self, visit: _Visit, home: Party, shape: Shape) -> None:
        """The home has forgotten the template that named the shape, and may have dropped the last SLOTS."""
        number = self._templates.number_of(home, shape)
        if number is not None:
            visit.number = number
            visit.told = -1

    def _slots(self, shape: Shape) -> int:
        """How many tasks of a shape could be here at once, beside nested ones that wait for objects."""
        free = shape.account.room
        room = min((max(0, free(name)) // amount for name, amount in shape.demand), default=_UNLIMITED)
        if shape.free_of_charge:
            room = max(0, self._scheduler.most_free - shape.serving)
        elif room and not shape.account.fits(shape.demand):
            room = 0  # the halves of two devices make no device
        return len(shape.leases) + room

    def _nested_blocked(self) -> Mapping[Shape, Sequence[Task]]:
        """The nested tasks that wait for objects, by shape."""
        found: dict[Shape, list[Task]] = {}
        for worker in self._scheduler.hosts:
            for task in worker.nested.values():
                if task.template.shape is not None and task.lease and task.lease.blocked:
                    found.setdefault(task.template.shape, []).append(task)
        return found

    def _blocked(self, shape: Shape, nested: Sequence[Task]) -> Mapping[Party, int]:
        """How many guests of each home, of those that run in a shape, wait for objects."""
        counts: Counter[Party] = Counter()
        for worker in self._scheduler.blocked_workers:
            lease = worker.lease
            first = next(iter(worker.inflight.values()), None)
            if lease is not None and lease.shape is shape and isinstance(first, Guest):
                counts[first.home] += 1
        for task in nested:
            if isinstance(task, Guest):
                counts[task.home] += 1
        return counts

    # Losses -----------------------------------------------------------------------------------------------------------

    def home_lost(self, peer: Peer) -> None:
        """A home is lost: its tasks end here, and no message reports that."""
        for guest in list(self.table.get(peer, {}).values()):
            made = guest.constructed_actor
            if made is not None:
                fault = made.fault("ActorDiedError", ActorDiedError.OWNER_DIED)
                self._work.actors.kill(made, fault, "its home is lost")
            elif guest.state == SENT:
                self._cancelling.cancel(guest.id, force=False, recursive=True)
            elif guest.state in (QUEUED, WAITING):
                self._work.finish(guest, FAULT, guest.cancelled_fault())
        for guest in list(self.table.pop(peer, {}).values()):
            # Code that cannot be interrupted runs on. Its uses end now: the covers of a lost node end at once.
            self._arguments.ended(guest)
            self._objects.unuse_all(guest.dependencies)
            self._objects.unuse_all(guest.nested)
            guest.dependencies = guest.nested = ()
        claims = self._claims.pop(peer, None)
        if claims:
            self._graces[peer] = list(claims.values())
        for shape, visits in self._visits.items():
            if visits.pop(peer, None) is not None:
                self._news[shape] = None

    def grace_over(self, peer: Peer) -> None:
        """No node needs anything of a lost node any more: what its results contained is freed."""
        for contained in self._graces.pop(peer, ()):
            self._objects.unuse_all(contained)

    def check(self) -> None:
        """Raises AssertionError if the books about guests contradict each other."""
        for home, table in self.table.items():
            assert home.alive, f"{home} is lost and has guests"
            for attempt, guest in table.items():
                assert guest.attempt == attempt, f"{guest} is under attempt {attempt}"
                assert guest.state != FINISHED or guest.is_constructor, f"{guest} has finished and is in the books"
                assert guest.how == FINAL, f"{guest} has ended"
        for guest in self._arguments.guests_waiting:
            assert guest.state == WAITING and self._arguments.brings(guest), f"{guest} does not wait for arguments"
        for shape, visits in self._visits.items():
            for home, visit in visits.items():
                here = [g for g in self.table.get(home, {}).values() if g.template.shape is shape]
                assert all(guest.actor is None for guest in here), f"{here} are in {shape}"
                assert visit.count == len(here), f"{home} has {here} in {shape}, not {visit.count}"


def _has_not_begun(guest: Guest) -> bool:
    made = guest.constructed_actor
    return guest.state == QUEUED if made is None else made.state == PENDING
