"""Tasks that wait for what they may never get: found, and told to whoever started them.

A request for more than the node has waits, and one for what actors hold waits for their end. Both are legal, and both
look like a program that hangs. So the driver is told: at once of what the node does not have, and after ten seconds of
what only the end of an actor can give.

That end may be near: an actor whose last handle is in a cycle of references lives until Python collects garbage, which
a program that waits does not do by itself. So the processes of the job are asked to, once for each task that is stuck,
before anybody is told.
"""

from __future__ import annotations

from typing import Any

from asyncray.config import LOG_WARNING
from asyncray.core.leases import Shape
from asyncray.core.outbox import LogLine, Outbox
from asyncray.core.records import Job, Template
from asyncray.core.scheduler import Scheduler
from asyncray.messages import NOTICE, RUN_GC
from asyncray.units import UNIT, Demand, plain

PATIENCE = 10.0
"""Seconds that a task may wait for what actors hold before its driver is told."""

_PAUSE = 1.0
_GIB = 1024**3


class _Stall:
    """The first task of a shape, which waits for actors."""

    __slots__ = ("collected", "since", "task_id", "told")

    def __init__(self, task_id: bytes, since: float, told: bool) -> None:
        self.task_id = task_id
        self.since = since
        self.told = told
        self.collected = False


class Stalls:
    """Watches the queues of a scheduler."""

    def __init__(self, outbox: Outbox, scheduler: Scheduler) -> None:
        self._outbox = outbox
        self._scheduler = scheduler
        self._resources = scheduler.resources
        self._stalls: dict[Shape, _Stall] = {}
        self._look_at = 0.0

    def __repr__(self) -> str:
        return f"<Stalls {len(self._stalls)}>"

    def described(self, template: Template) -> None:
        """A client described a function: tells at once if the node cannot serve it, and once for each demand."""
        refused = template.job.refused
        if template.demand not in refused and not self._resources.feasible(template.demand):
            refused.add(template.demand)
            self._tell(template.job, f"{template.name} {self._infeasible(template.demand)}, and waits until it has.")

    def tick(self, now: float) -> None:
        """Some time has passed."""
        if now < self._look_at:
            return
        self._look_at = now + _PAUSE
        before, self._stalls = self._stalls, {}
        for shape in self._scheduler.shapes.ready:
            task = shape.peek()
            if task is None or not self._waits_for_actors(shape):
                continue
            stall = before.get(shape)
            if stall is None or stall.task_id != task.id:  # a queue that moves on is none that hangs
                self._stalls[shape] = _Stall(task.id, now, stall is not None and stall.told)
                continue
            self._stalls[shape] = stall
            if not stall.collected:
                stall.collected = True
                self._collect(shape.job)
            if now - stall.since >= PATIENCE and not stall.told:
                stall.told = True
                text = f"{task.name} {self._held(shape.demand)}. It waits until one of them ends."
                self._tell(shape.job, f"{text} `asyncray status` shows them.")

    def _collect(self, job: Job) -> None:
        """Asks for the end of what only garbage refers to."""
        if job.driver is not None:
            self._outbox.send(job.driver, (RUN_GC,))
        for worker in job.workers.values():
            if worker.client is not None:
                self._outbox.send(worker.client, (RUN_GC,))

    def rows(self) -> list[dict[str, Any]]:
        """What waits for resources, and why, as plain data: a row for each function's demand that queues."""
        rows = []
        for shape in self._scheduler.shapes.ready:
            task = shape.peek()
            if task is None:
                continue
            if not self._resources.feasible(shape.demand):
                why = self._infeasible(shape.demand)
            elif self._waits_for_actors(shape):
                why = self._held(shape.demand)
            else:
                why = self._scheduler.pool.failures.problem(self._scheduler.now) or "its turn comes"
            rows.append({"name": task.name, "needs": plain(shape.demand), "tasks": shape.count, "why": why})
        return rows

    def _waits_for_actors(self, shape: Shape) -> bool:
        """True if the demand does not fit beside what actors hold, whatever else ends."""
        if shape.leases or not self._resources.feasible(shape.demand):
            return False
        held = self._resources.for_life
        return any(self._resources.total[name] - held.get(name, 0) < amount for name, amount in shape.demand)

    def _infeasible(self, demand: Demand) -> str:
        total = self._resources.total
        lacking = [(name, amount) for name, amount in demand if total.get(name, 0) < amount]
        has = _readable([(name, total.get(name, 0)) for name, _ in lacking])
        return f"needs {_readable(lacking)}, more than this node has ({has})"

    def _held(self, demand: Demand) -> str:
        held = self._resources.for_life
        total = self._resources.total
        short = [(name, amount) for name, amount in demand if total[name] - held.get(name, 0) < amount]
        of = [f"{_readable([(name, held.get(name, 0))])} of {_readable([(name, total[name])])}" for name, _ in short]
        return f"needs {_readable(short)}, and actors hold {', '.join(of)}"

    def _tell(self, job: Job, text: str) -> None:
        self._outbox.do(LogLine(LOG_WARNING, text))
        if job.driver is not None:
            self._outbox.send(job.driver, (NOTICE, LOG_WARNING, text))


def _readable(demand: Demand | list[tuple[str, int]]) -> str:
    """A demand for people: ``1 CPU, 0.5 GPU, 2 GiB of memory``."""
    return ", ".join(
        f"{amount / UNIT / _GIB:.4g} GiB of {name}" if "memory" in name else f"{amount / UNIT:g} {name}"
        for name, amount in demand
    )
