"""Stalls: finds tasks that wait for resources which they may never get, and reports them to their driver.

A task that needs more than the node has waits, and a task that needs resources which actors hold waits for the end of
an actor. Both are legal, and both look like a program that hangs. So the driver gets a NOTICE: at once if the node does
not have the resources, and after ten seconds if only the end of an actor can free them.

That end may be near: an actor whose last handle is in a cycle of references lives until Python collects garbage, which
a program that waits does not do by itself. So the node asks the processes of the job to collect garbage, once for each
task that is stuck, before it sends the notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from asyncray.config import LOG_WARNING
from asyncray.core.leases import Shape
from asyncray.core.outbox import LogLine, Outbox
from asyncray.core.records import Job, Task, Template
from asyncray.core.resources import Account, readable
from asyncray.core.scheduler import Scheduler
from asyncray.messages import NOTICE, RUN_GC
from asyncray.units import Demand, plain

if TYPE_CHECKING:
    from asyncray.words import ShapeRow

PATIENCE = 10.0
"""Seconds that a task may wait for resources that actors hold, before the node sends a notice to its driver."""

# Seconds between two looks at the queues.
_PAUSE = 1.0


class WaitingElsewhere(Protocol):
    """The tasks of a node that other nodes could serve, or that stand in no queue here."""

    def feasible(self, demand: Demand) -> bool:
        """True if a node of the cluster could serve the demand while nothing else uses it."""

    def frees_up(self, shape: Shape) -> bool:
        """True if another node could serve a shape once all tasks have ended, beside the actors there."""

    def stuck(self) -> Iterator[tuple[Shape, Task]]:
        """Yields the shapes whose tasks wait at other nodes until an actor ends, with a task of each."""

    def rows(self) -> list[ShapeRow]:
        """Lists the tasks that no queue of this node has."""


class _Stall:
    """A shape whose first task waits for the end of an actor."""

    __slots__ = ("collected", "reported", "since", "task_id")

    def __init__(self, task_id: bytes, since: float, *, reported: bool) -> None:
        # The first task of the shape.
        self.task_id = task_id
        # When the task was first found there.
        self.since = since
        # The driver got the notice, for this task or for an earlier one of the shape.
        self.reported = reported
        # The processes of the job were asked to collect garbage for this task.
        self.collected = False


class Stalls:
    """Watches the queues of a scheduler for tasks that are stuck."""

    def __init__(self, outbox: Outbox, scheduler: Scheduler) -> None:
        self._outbox = outbox
        self._scheduler = scheduler
        # The shapes that were stuck at the last look.
        self._stalls: dict[Shape, _Stall] = {}
        # When ``tick`` looks next.
        self._look_at = 0.0
        # Knows the tasks of other nodes' queues. None on a node that belongs to no cluster.
        self.others: WaitingElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Stalls {len(self._stalls)}>"

    def described(self, template: Template) -> None:
        """A client described a function: notifies the driver at once if the node lacks the resources for it.

        Sends one notice for each demand of a job.
        """
        refused, account = template.job.refused, self._scheduler.shapes.accounts.get(template.where)
        if account is not None and template.demand not in refused and self._is_too_large(account, template.demand):
            refused.add(template.demand)
            ending = ", and waits until it has." if self.others is None else ". It waits for one that has."
            self.notify(template.job, f"{template.name} {self._describe(account, template.demand)}{ending}")

    def _is_too_large(self, account: Account, demand: Demand) -> bool:
        return not account.feasible(demand) and not (self.others is not None and self.others.feasible(demand))

    def _describe(self, account: Account, demand: Demand) -> str:
        if self.others is None:
            return account.describe(demand, held=False)
        return f"needs {readable(demand)}, and no node of the cluster has that much"

    def tick(self, now: float) -> None:
        """Some time has passed: looks for stuck tasks, at most once a second."""
        if now < self._look_at:
            return
        self._look_at = now + _PAUSE
        before, self._stalls = self._stalls, {}
        for shape, task in self._stuck():
            if shape in self._stalls:
                continue  # some of its tasks wait here, and some at another node
            stall = before.get(shape)
            # The first task has changed since the last look, so the queue is not stuck: the time starts again.
            if stall is None or stall.task_id != task.id:
                self._stalls[shape] = _Stall(task.id, now, reported=stall is not None and stall.reported)
                continue
            self._stalls[shape] = stall
            if not stall.collected:
                stall.collected = True
                self._collect(shape.job)
            # The home of a task knows whether other nodes could serve it. This node reports a guest actor.
            speaks = task.is_constructor or not task.is_guest
            if now - stall.since >= PATIENCE and speaks and not stall.reported:
                stall.reported = True
                text = f"{task.name} {self._held(shape, task)}. It waits until one of them ends."
                self.notify(shape.job, f"{text} `asyncray status` shows them.")

    def _stuck(self) -> Iterator[tuple[Shape, Task]]:
        """Yields the shapes whose tasks wait for the end of an actor, with the first task of each."""
        shapes, others = self._scheduler.shapes, self.others
        # If no actor holds anything, thousands of shapes may wait.
        if any(any(account.for_life.values()) for account in shapes.parts):
            for shape in shapes.ready:
                task = shape.peek()
                if task is not None and self._is_stuck(shape, task):
                    yield shape, task
        if others is not None:
            yield from others.stuck()

    def _is_stuck(self, shape: Shape, task: Task) -> bool:
        """True if the demand fits nowhere beside the resources that actors hold, even when all tasks have ended."""
        account, others = shape.account, self.others
        if shape.leases or account.obstacle:
            return False
        if account.feasible(shape.demand):
            beside_others = others is not None and not task.is_guest and others.frees_up(shape)
            return not (beside_others or account.feasible_beside_actors(shape.demand))
        return others is not None and others.feasible(shape.demand) and not others.frees_up(shape)

    def _held(self, shape: Shape, task: Task) -> str:
        if self.others is None or task.is_guest:
            return shape.account.describe(shape.demand, held=True)
        needs = f"needs {readable(shape.demand)}"
        return f"{needs}, and actors or placement groups hold too much of that on each node that could serve it"

    def _collect(self, job: Job) -> None:
        """Asks the processes of a job to collect garbage, which may hold the last handles of actors."""
        self._outbox.send_to_driver(job, (RUN_GC,))
        for worker in job.workers.values():
            if worker.client is not None:
                self._outbox.send(worker.client, (RUN_GC,))

    def rows(self) -> list[ShapeRow]:
        """Lists the queues of tasks that wait for resources, and why they wait, as plain data: a row for each shape."""
        rows: list[ShapeRow] = []
        for shape in self._scheduler.shapes.ready:
            task = shape.peek()
            if task is None:
                continue
            account = shape.account
            if account.obstacle or self._is_too_large(account, shape.demand):
                why = account.obstacle or self._describe(account, shape.demand)
            elif self._is_stuck(shape, task):
                why = self._held(shape, task)
            else:
                why = self._scheduler.pool.failures.problem() or "its turn comes"
            rows.append({"name": task.name, "needs": plain(shape.demand), "tasks": shape.count, "why": why})
        return rows if self.others is None else rows + self.others.rows()

    def notify(self, job: Job, text: str) -> None:
        """Logs that something of a job waits, and sends it to the driver."""
        self._outbox.do(LogLine(LOG_WARNING, text))
        self._outbox.send_to_driver(job, (NOTICE, LOG_WARNING, text))
