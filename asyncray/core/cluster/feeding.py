"""Feeding: gives tasks of this node to other nodes.

The home keeps the queues, and feeds other nodes in small windows (``task_lines``). A node that ends its tasks faster
gets more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.locality import Locality
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.placing import Placing
from asyncray.core.cluster.task_arguments import TaskArguments
from asyncray.core.cluster.task_lines import AHEAD_MICROSECONDS, TaskLine, TaskLines, units
from asyncray.core.leases import Shape
from asyncray.core.machine import NodeMachine
from asyncray.core.placements import Bundle
from asyncray.core.records import HERE, Task
from asyncray.core.scheduler import SHORTEST_TASK
from asyncray.core.states import QUEUED
from asyncray.messages import FAULT

SHORT_MICROSECONDS = 10_000.0
"""Tasks that take less stay at home while it has room, because moving costs more than waiting."""

MOVES_WITHIN = 0.1
"""Seconds after which a lease for short tasks that has finished none keeps no task at home any more."""

_LOOKS = 64
"""One flush looks at this many shapes without a lease at most, because thousands may wait."""


class RouteConstructor(Protocol):
    """``Homes.route_constructor``."""

    def __call__(self, task: Task, *, waits: bool = False) -> bool | None: ...


class Feeding:
    """Decides which tasks of this node go to other nodes, and when."""

    def __init__(
        self,
        machine: NodeMachine,
        away: AwayTasks,
        placing: Placing,
        peer: Callable[[bytes], Peer],
    ) -> None:
        self._clock = machine.clock
        self._work = machine.work
        self._scheduler = machine.scheduler
        self._away = away
        self._placing = placing
        self.lines = TaskLines(placing, peer)
        self.locality: Locality | None = None
        # Brings arguments here for tasks that stay.
        self.arguments: TaskArguments | None = None
        # Decides where an actor starts: ``Homes.route_constructor``. ``ClusterMachine`` sets it.
        self.constructors: RouteConstructor
        # Lines with a queue of their own.
        self._filled: dict[TaskLine, None] = {}
        # Shapes that have got no lease here since the last flush.
        self._parked: dict[Shape, None] = {}
        # Shapes for which no other node has room: looked at again when the view, the slots or the debits have changed.
        self._waiting: dict[Shape, None] = {}
        # Tasks with a placement for which there is no node at present.
        self.homeless: dict[Task, None] = {}
        # Tasks that no node will ever run, and why.
        self._hopeless: list[tuple[Task, str]] = []
        # A shape was held back in this round or has got tasks since, and whether the next round holds none back.
        self._held = False
        self._lets_go = False
        # The view or the slots of other nodes have changed since the last flush.
        self._changed = False
        machine.scheduler.shapes.others = self
        machine.destinations.cluster = lambda where, demand: machine.resources
        self._views = machine.group_views
        machine.group_views.listeners.append(lambda row: self._look_for_homes())

    def __repr__(self) -> str:
        return f"<Feeding {len(self._filled)} lines, {self._away}>"

    # Placing ----------------------------------------------------------------------------------------------------------

    def holds_back(self, shape: Shape) -> bool:
        """True if the next task of a shape should not get a new lease here."""
        if shape.lives or not shape.demand or self._lets_go:
            return False
        task = shape.peek()
        if task is None or task.is_guest or shape.where is not HERE:
            return False
        mean = task.template.mean
        if mean is not None and mean < SHORT_MICROSECONDS:
            return False
        if not self._placing.is_better_elsewhere(shape.demand):
            return False
        self._held = True
        self._parked[shape] = None
        return True

    def forget(self, task: Task) -> None:
        """A queued task will not run: lines skip it when its turn comes."""
        self.homeless.pop(task, None)

    def parked(self, shape: Shape) -> None:
        """A shape has tasks and no lease here."""
        self._parked[shape] = None

    def route(self, task: Task) -> bool:
        """A task with a placement or arguments is ready. Returns True if this node must not queue it, or not yet."""
        arguments = self.arguments
        if arguments is not None and arguments.are_here(task):
            return False
        if self._route_away(task) or (task.template.where is HERE and self._route_to_arguments(task)):
            return True
        # A task that this node can never run waits for another one, which brings the arguments there.
        feasible = task.is_guest or self._scheduler.shapes.shape_of(task).account.feasible(task.template.demand)
        return feasible and arguments is not None and arguments.bring(task)

    def _route_to_arguments(self, task: Task) -> bool:
        """Sends a task to the node that has most of its large arguments, if that has a free place for it."""
        node = None if self.locality is None or task.is_guest else self.locality.best(task)
        demand = task.template.demand
        member = None if node is None else self._placing.candidate(node, demand)
        if member is None or task.is_constructor:
            return False
        line = self.lines.to(member, self._scheduler.shapes.shape_of(task))
        slots = len(line.sent) + self._placing.room(line.peer.id, demand) if line.slots is None else line.slots
        if slots <= len(line.sent) + len(line.queue) or line.peer.link.congested:
            return False
        line.queue.append(task)
        self._filled[line] = None
        return True

    def _route_away(self, task: Task) -> bool:
        if task.is_guest:
            return False
        if task.is_constructor:
            away = self.constructors(task)
            if away is None:
                self.homeless[task] = None
            return away is not False
        template = task.template
        if template.where is HERE:
            return False
        found = self._placing.choose(template.where, template.demand)
        if isinstance(found, str):
            self._hopeless.append((task, found))
        elif found is None:
            self.homeless[task] = None
        elif found.facts["node"] == self._placing.node:
            return False
        else:
            line = self.lines.to(found, self._scheduler.shapes.shape_of(task))
            if isinstance(template.where, Bundle) and self._is_old(line, template.where):
                self.homeless[task] = None
            else:
                line.queue.append(task)
                self._filled[line] = None
        return True

    def _is_old(self, line: TaskLine, where: Bundle) -> bool:
        """True if a task has come back from there, because the present row of its group is too old."""
        return line.misled_by is not None and line.misled_by is self._views.rows.get(where.group)

    def view_changed(self) -> None:
        """Members have joined or ended, or their rows have changed."""
        self._changed = True
        self._look_for_homes()

    def _look_for_homes(self) -> None:
        """Nodes or bundles have appeared: tasks that had no node may have one now."""
        homeless, self.homeless = self.homeless, {}
        for task in homeless:
            if task.state == QUEUED:
                self._scheduler.shapes.enqueue(task)

    # Feeding ----------------------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """All events of a batch have been handled, and the node has taken what it can: sends what is left.

        Returns: True if tasks are left that were held back here, or have come back: the node should take them now.
        """
        while self._hopeless:
            task, why = self._hopeless.pop()
            if task.state == QUEUED:
                self._work.finish(task, FAULT, ["TaskUnschedulableError", {"message": f"{task.name}: {why}."}])
        for line in list(self._filled):
            self._feed_own(line)
        if self._placing.is_alone:
            self._held = False
            return False
        shapes = self._scheduler.shapes
        for shape in list(shapes.active):
            if shape.count:
                self._feed(shape)
        self._feed_parked()
        for line in list(self._filled):
            self._move_on(line)
        held, self._held = self._held, False
        return held

    def let_go(self, run: Callable[[], None]) -> None:
        """Runs a round of the scheduler that holds nothing back."""
        self._lets_go = True
        try:
            run()
        finally:
            self._lets_go = False

    def _feed_parked(self) -> None:
        parked, self._parked = self._parked, {}
        if self._placing.expire_debits() or self._changed or self._away.changed:
            again = list(self._waiting)[:_LOOKS]
            self._changed = len(again) < len(self._waiting)
            self._away.changed = False
            for shape in again:
                del self._waiting[shape]
                parked[shape] = None
        for shape in parked:
            if not self._feed(shape):
                self._waiting[shape] = None

    def _feed(self, shape: Shape) -> bool:
        """Sends tasks of a shape that this node will not take soon. Returns False if more could be sent."""
        task = shape.own_task()
        if task is None:
            return True
        if shape.lives:
            return shape.account.fits(shape.demand) or self._feed_actors(shape)
        excess = shape.count - self._kept_here(shape, task)
        if shape.where is not HERE:
            return excess <= 0 or self._feed_placed(shape, excess)
        line = self.lines.best(shape) if excess > 0 else None
        if line is None:
            return excess <= 0
        shapes = self._scheduler.shapes
        if shape in shapes.parking:
            shapes.unpark(shape)
        while line is not None:
            room = min(self.lines.room(line), excess)
            excess -= room
            while room > 0 and (task := shape.own_task()) is not None:
                shape.remove(task)
                self._give(task, line)
                room -= 1
            line = self.lines.best(shape) if excess > 0 and not room else None
        shapes.close(shape)
        return shape.own_task() is None

    def _feed_placed(self, shape: Shape, excess: int) -> bool:
        """Sends tasks with a placement, which has led them here, to other nodes that have room."""
        shapes, node = self._scheduler.shapes, self._placing.node
        while excess > 0 and (task := shape.own_task()) is not None:
            found = self._placing.move_to(shape.where, shape.demand, node, {})
            if found is None:
                return False
            if shape in shapes.parking:
                shapes.unpark(shape)
            shape.remove(task)
            self._give(task, self.lines.to(found, shape))
            excess -= 1
            shapes.close(shape)
        return shape.own_task() is None

    def _feed_actors(self, shape: Shape) -> bool:
        """Gives actors for which this node has no room to others that have. Returns False if some are left."""
        task, shapes = shape.own_task(), self._scheduler.shapes
        while task is not None and self.constructors(task, waits=True):
            if shape in shapes.parking:
                shapes.unpark(shape)
            shape.remove(task)
            task = shape.own_task()
        if shape not in shapes.parking:
            shapes.close(shape)
        return task is None

    def _kept_here(self, shape: Shape, task: Task) -> int:
        """How many tasks of a shape the leases here will take within a moment, or others that are about to start."""
        mean = task.template.mean
        if not shape.account.feasible(shape.demand):
            return 0
        if mean is None or mean >= SHORT_MICROSECONDS:
            return units(shape) if not self._held else 0
        ahead = int(AHEAD_MICROSECONDS / (mean + SHORTEST_TASK)) + 1
        # A lease whose task waits, or takes far longer than the others did, takes no task within a moment.
        now = self._clock.now
        moving = sum(not lease.blocked and now - lease.finished_at < MOVES_WITHIN for lease in shape.leases)
        return (moving + units(shape)) * ahead

    def _feed_own(self, line: TaskLine) -> None:
        room = self.lines.room(line)
        while line.queue and room > 0 and not line.peer.link.congested:
            task = line.queue.popleft()
            if task.state == QUEUED:
                self._give(task, line)
                room -= 1
        if not line.queue:
            del self._filled[line]

    def _move_on(self, line: TaskLine) -> None:
        """Tasks wait for room at a node: gives them to others that have room, or to this one."""
        where, demand = line.shape.where, line.shape.demand
        taken: Counter[str] = Counter()
        while line.queue:
            task = line.queue[0]
            found = None
            if task.state == QUEUED:
                found = self._placing.move_to(where, demand, line.peer.id, {self._placing.node: taken})
                if found is None:
                    return
            line.queue.popleft()
            if found is None:
                continue
            if found.facts["node"] != self._placing.node:
                self._give(task, self.lines.to(found, line.shape))
            else:
                taken.update(dict(demand))
                self._held = True
                if self.arguments is None or not self.arguments.bring(task):
                    self._scheduler.shapes.enqueue(task, stays=True)
        del self._filled[line]

    def _give(self, task: Task, line: TaskLine) -> None:
        self._away.send(task, line)
        self.lines.need_tick = True
        self._placing.debit(line.peer.id, line.shape.demand)

    def slots_came(self, peer: Peer, message: Any) -> None:
        """SLOTS: another node says how many tasks of a shape it can run side by side."""
        _, number, slots = message
        template = self._work.functions.templates.get(number)
        shape = None if template is None else template.shape
        if shape is not None:
            self.lines.slots_are(peer, shape, slots)
            self._changed = self.lines.need_tick = True

    # Time and losses --------------------------------------------------------------------------------------------------

    @property
    def needs_fast_tick(self) -> bool:
        """True while tasks wait at other nodes."""
        return self.lines.need_tick

    def lost(self, peer: Peer, why: str) -> None:
        """Another node has ended: its tasks run again, or fail."""
        lines = self.lines.pop(peer)
        self._away.lost(peer, why, lines)
        for line in lines:
            self._filled.pop(line, None)
            for task in line.queue:
                if task.state == QUEUED:
                    self._scheduler.shapes.enqueue(task)

    def check(self) -> None:
        """Raises AssertionError if the books about tasks elsewhere contradict each other."""
        self._away.check(self.lines)
        for line in self._filled:
            assert line.queue, f"{line} has no queue"
