"""The queues of ready tasks, by shape, and the order in which they are served.

A shape is a job, a demand and a placement (``Where``), so that a shape that does not fit never blocks another. The
placement decides which account serves the demand. Within a shape deeper tasks come first: the children of a task that
waits for them come before the siblings of that task. Otherwise each parent of a flood of parents would start, block and
occupy a process.

Shapes that wait without a lease are parked (``parking``), so that a round costs what it concerns: it looks at the
shapes with leases, at those that changed, and at parked ones for which there is room now.

Invariants (``check``): a queued task is in exactly one queue; a shape with queued tasks is in ``ready``, and either
parked or in ``active``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from asyncray.core.leases import Shape
from asyncray.core.parking import Parking, Precedence
from asyncray.core.records import HERE, Job, Task, Template, Where
from asyncray.core.resources import Account, Resources
from asyncray.core.states import FINISHED, QUEUED
from asyncray.units import Demand


class NodesElsewhere(Protocol):
    """The other nodes that may run tasks of this one, for a node that belongs to a cluster."""

    def route(self, task: Task) -> bool:
        """A task with a placement or arguments is ready: True if another node will run it, or it has to wait."""

    def holds_back(self, shape: Shape) -> bool:
        """True if the next task of a shape should not get a new lease here, because another node will run it."""

    def forget(self, task: Task) -> None:
        """A queued task will not run."""

    def parked(self, shape: Shape) -> None:
        """A shape has tasks and no lease here."""


class Shapes:
    """All shapes of a node.

    Args:
        resources: the account of the node.
    """

    def __init__(self, resources: Resources) -> None:
        # Placement -> the account that serves it, as far as ``elsewhere`` need not say it.
        self.accounts: dict[Where, Account] = {HERE: resources}
        # Returns the account for any other placement and demand. ``NodeMachine`` sets it.
        self.elsewhere: Callable[[Where, Demand], Account] = _no_account
        # The node's own resources, and parts of them that are set aside.
        self.parts: dict[Resources, None] = {resources: None}
        # Shapes whose tasks cannot run: their accounts have a fault.
        self.failing: dict[Shape, None] = {}
        # Takes resources for a bundle before shapes get them; ``Bundles`` sets it. Meanwhile leases end after a slice.
        self.collect: Callable[[], None] | None = None
        # (job, demand, where its tasks wish to run, whether they are constructors) -> shape.
        self.table: dict[tuple[Job, Demand, Where, bool], Shape] = {}
        # Shapes with queued tasks.
        self.ready: dict[Shape, None] = {}
        # Ready shapes that are not parked: the next round looks at each.
        self.active: dict[Shape, None] = {}
        self.parking = Parking()
        # The last turn that a shape got.
        self._turns = 0
        # In the present round a shape waits that no lease serves, while others are served.
        self.starving = False
        # Shapes that lost a lease to the starving ones in the present round.
        self.sliced: dict[Shape, None] = {}
        # None on a node that belongs to no cluster.
        self.others: NodesElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Shapes {len(self.ready)} of {len(self.table)} ready>"

    def shape_of(self, task: Task) -> Shape:
        """Returns the shape that a task belongs to."""
        return task.template.shape or self._make_shape(task)

    def _make_shape(self, task: Task) -> Shape:
        template = task.template
        lives = task.is_constructor
        key = (template.job, template.demand, template.where, lives)
        shape = self.table.get(key)
        if shape is None:
            account = self.accounts.get(template.where) or self.elsewhere(template.where, template.demand)
            shape = self.table[key] = Shape(*key[:3], account, lives=lives)
            if account.fault is not None:
                self.failing[shape] = None
        template.shape = shape
        shape.templates += 1
        return shape

    def leave(self, template: Template) -> None:
        """The template is forgotten: no further task of it comes."""
        shape = template.shape
        if shape is not None:
            template.shape = None
            shape.templates -= 1
            self.drop_if_unused(shape)

    def drop_if_unused(self, shape: Shape) -> None:
        """Forgets a shape that no template has tasks for, and no lease serves."""
        if not shape.templates and not shape.leases and shape.peek() is None:
            self._leave_ready(shape)
            self.table.pop((shape.job, shape.demand, shape.where, shape.lives), None)
            self.failing.pop(shape, None)

    def fail(self, account: Account) -> None:
        """The account has a fault from now on: the tasks of its shapes cannot run."""
        self.failing |= {shape: None for shape in self.table.values() if shape.account is account}

    def enqueue(self, task: Task, *, first: bool = False, stays: bool = False) -> None:
        """Queues a task that is ready to run.

        Args:
            stays: this node will run it, whatever its placement.
        """
        task.state = QUEUED
        shape = task.template.shape or self._make_shape(task)
        may_leave = self.others is not None and (task.dependencies or shape.where is not HERE or shape.lives)
        if may_leave and not stays and self.others is not None and self.others.route(task):
            return
        if not shape.count and shape not in self.ready:
            self.ready[shape] = self.active[shape] = None
            self.move_back(shape)
        elif shape not in self.active and (task.depth > shape.depths[-1] or self._becomes_news(shape, task)):
            self.unpark(shape)
        shape.push(task, first=first)

    def _becomes_news(self, shape: Shape, task: Task) -> bool:
        """True if a parked shape had nothing for other nodes, and the task is something: only guests wait before it."""
        return self.others is not None and not task.is_guest and shape.own_task() is None

    def enqueue_again(self, task: Task) -> None:
        """Queues a task whose pause has ended: a retry comes before tasks that have not started yet."""
        self.enqueue(task, first=not task.is_constructor)

    def forget(self, task: Task) -> None:
        """Takes back a queued task that will not run: ``peek`` skips it when its turn comes."""
        task.state = FINISHED
        shape = task.template.shape
        if shape is not None and (shape.where is not HERE or shape.lives) and self.others is not None:
            self.others.forget(task)
        if shape is not None and shape in self.parking:
            self.unpark(shape)

    def unpark(self, shape: Shape) -> None:
        """Makes a parked shape active."""
        self.parking.remove(shape)
        self.active[shape] = None

    def _leave_ready(self, shape: Shape) -> None:
        if shape in self.ready:
            del self.ready[shape]
            if shape in self.active:
                del self.active[shape]
            else:
                self.parking.remove(shape)

    def move_back(self, shape: Shape) -> None:
        """Moves a shape behind the others of its depth: it is ready again, or got a lease."""
        self._turns += 1
        shape.turn = self._turns

    def begin_round(self, *, processes_start: bool) -> list[Shape]:
        """Returns the active shapes.

        Args:
            processes_start: False if no process could be started lately.
        """
        order = list(self.active)
        self.starving = self.collect is not None or (
            len(self.ready) > 1 and self._starves(order, processes_start=processes_start)
        )
        return order

    def _starves(self, order: Sequence[Shape], *, processes_start: bool) -> bool:
        """True if a shape waits that no lease serves, while others are served.

        The siblings of a parent do not starve while children are served and the parents wait for their children. A
        shape does not starve that lacks nothing but a process which is about to start: actors that restart again and
        again would take the process of one lease after the other, and a worker that was lost has to be started again.
        """
        served = [shape.depths[-1] for shape in order if shape.peek() is not None and shape.serving]
        if not served:
            return False
        deepest = max(served)
        return self.parking.starves(processes_start=processes_start) or any(
            shape.peek() is not None
            and not shape.serving
            and (not shape.leases or shape.depths[-1] >= deepest)
            and shape.account.feasible(shape.demand)
            and not (processes_start and shape.account.fits(shape.demand))
            for shape in order
        )

    def places(self, order: Sequence[Shape]) -> list[tuple[bool, Precedence, Shape]]:
        """Sorts active shapes for new leases: starving shapes first, then children before their parents' siblings."""
        places = [(*self._place(shape), shape) for shape in order]
        if len(places) > 1:
            places.sort(key=lambda place: place[:2])
        self.sliced.clear()
        return places

    def _place(self, shape: Shape) -> tuple[bool, Precedence]:
        depth = shape.depths[-1] if shape.depths else 0
        return self.starving and (shape in self.sliced or shape.serving > 0), (-depth, shape.turn)

    def held_back(self, shape: Shape) -> bool:
        """True if the next task of a shape should not get a new lease here, because another node will run it."""
        return self.others is not None and self.others.holds_back(shape)

    def end_turn(self, shape: Shape) -> None:
        """The round has looked at an active shape: takes it off the ready ones, or parks it, or leaves it active."""
        self.close(shape)
        if self.others is not None and shape in self.parking:
            self.others.parked(shape)

    def close(self, shape: Shape) -> None:
        """Tasks of an active shape were taken: takes it off the ready ones if it is empty, or parks it."""
        if shape.peek() is None:
            self._leave_ready(shape)
        elif not shape.leases:
            del self.active[shape]
            self.parking.park(shape)

    def check(self) -> None:
        """Raises AssertionError if the queues contradict each other."""
        failing = [shape for shape in self.table.values() if shape.account.fault is not None]
        assert {*failing} == set(self.failing), f"{failing} must fail, not {list(self.failing)}"
        for shape in self.table.values():
            queued = [task for queue in shape.queues.values() for task in queue]
            guests = sum(task.is_guest for task in queued)
            assert (shape.count, shape.guests) == (len(queued), guests), f"{shape} counts wrong"
            live = [task.id for task in queued if task.state == QUEUED]
            assert len(live) == len(set(live)), f"{shape} holds a task twice"
            assert not live or shape in self.ready, f"{shape} has work and is not served"
            assert shape.templates or shape.leases, f"{shape} is kept for nobody"
        self.parking.check()
        assert not self.sliced, "a shape was sliced in an earlier round"
        assert not any(shape in self.parking for shape in self.active), "a shape is active and parked"
        assert {*self.active, *self.parking} == set(self.ready), "a ready shape is neither active nor parked"


def _no_account(where: Where, demand: Demand) -> Account:
    raise ValueError(f"there is no account for {where}")
