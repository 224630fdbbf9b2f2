"""The scheduler: which ready task goes to which worker, and when.

Ready tasks queue by *shape* (job and demand), so that a shape that does not fit never blocks another. A worker is
*leased* to a shape: resources are taken once for the lease, and then tasks of that shape are sent one after the other,
several ahead while they are short (a measured mean per template), so that a task costs no accounting. A lease ends
when its shape has nothing more to do, or when it had its slice and another shape starves.

Within a shape deeper tasks come first: the children of a task that waits for them before its siblings. Without that a
flood of parents would each start, block and occupy a process.

What was sent ahead and has not started comes back when its worker blocks in ``get`` (the worker returns it by
itself), and is taken back when a worker idles while another is stuck with a queue. A blocked worker lends its CPU. When
too many workers are blocked, a task is nested: it runs on a thread of a blocked worker, so thousands of
nested tasks need a handful of processes.

Invariants (``check``): a queued task is in exactly one queue; a task that was sent is in ``inflight`` or ``nested``
of its worker; every lease holds its grant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from asyncray.config import PIPELINE_MICROSECONDS, PIPELINE_TASKS
from asyncray.core.outbox import Outbox
from asyncray.core.records import Job, Lease, Shape, Task, Template, Worker
from asyncray.core.resources import UNIT, Demand, Grant, Resources
from asyncray.core.states import LEASED, OVER, QUEUED, SENT
from asyncray.core.workers import Pool
from asyncray.messages import CONSTRUCT, DEFINE, LEASE, RUN, RUN_NESTED, TAKE_BACK, Message

if TYPE_CHECKING:
    from asyncray.core.objects import Objects

SLICE_MICROSECONDS = 5000
"""A lease serves at least this much before it makes room for a shape that starves: changing costs some 50 us."""

SHORTEST_TASK = 10.0
"""Microseconds that an empty task costs a worker, whatever its function measures."""

UNKNOWN = 1e9
"""The estimate of a function that has not run yet: nothing is queued behind it."""

STUCK_SECONDS = 0.01
"""A worker with a queue that finished nothing for this long is taken back from, if another could run it."""


class Scheduler:
    """Queues, leases and decisions.

    Args:
        nest_after: so many blocked workers, and further tasks are nested into them.
        most_free: so many workers at once serve tasks that need nothing (``num_cpus=0``) and do not block.
    """

    def __init__(
        self, outbox: Outbox, resources: Resources, pool: Pool, objects: Objects, nest_after: int, most_free: int
    ) -> None:
        self._outbox = outbox
        self._objects = objects
        self.resources = resources
        self.pool = pool
        self.shapes: dict[tuple[Job, Demand], Shape] = {}
        self.ready: dict[Shape, None] = {}  # shapes with queued tasks; the first one is served first
        self.nest_after = nest_after
        self.most_free = most_free
        self.blocked_workers: dict[Worker, None] = {}
        self.now = 0.0  # of the batch of events being worked on
        self._starving = False

    def __repr__(self) -> str:
        return f"<Scheduler {sum(s.count for s in self.ready)} queued, {len(self.blocked_workers)} blocked>"

    # Queueing --------------------------------------------------------------------------------------------------------

    def shape_of(self, template: Template) -> Shape:
        shape = template.shape
        if shape is None:
            key = (template.job, template.demand)
            shape = self.shapes.get(key)
            if shape is None:
                shape = self.shapes[key] = Shape(*key)
            template.shape = shape
        return shape

    def enqueue(self, task: Task, first: bool = False) -> None:
        """The task is ready to run."""
        task.state = QUEUED
        shape = task.template.shape or self.shape_of(task.template)
        if not shape.count:
            self.ready[shape] = None
        shape.push(task, first)

    def forget(self, task: Task) -> None:
        """A queued task that will not run: it is skipped when its turn comes."""
        task.state = OVER

    # Serving ---------------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Hands out what can be handed out. Called after each batch of events."""
        if not self.ready:
            return
        several = len(self.ready) > 1
        order: Iterable[Shape] = list(self.ready)
        self._starving = several and any(not shape.leases and self.resources.feasible(shape.demand) for shape in order)
        if several:
            order = sorted(order, key=lambda shape: -shape.depths[-1] if shape.depths else 0)
        for shape in order:
            for lease in shape.leases[:]:
                if not lease.blocked and lease.worker.state == LEASED:
                    self._fill(lease)
            if shape.peek() is not None:
                self._grow(shape)
            if shape.peek() is None:
                del self.ready[shape]

    def _grow(self, shape: Shape) -> None:
        """New leases for what the present ones do not take."""
        while (task := shape.peek()) is not None:
            if shape.free_of_charge and self._serving(shape) >= self.most_free:
                return
            grant = self.resources.acquire(shape.demand)
            if grant is None:
                return
            worker = self.pool.take(shape.job, shape.gpu)
            if worker is None:
                self.resources.release(grant)
                self._find_worker(shape, task)
                return
            if len(self.ready) > 1:  # served: behind the others
                del self.ready[shape]
                self.ready[shape] = None
            if task.actor is not None:
                shape.pop()
                self._place(task, worker, grant)
                continue
            lease = Lease(worker, shape, grant, self.now)
            shape.leases.append(lease)
            worker.lease = lease
            self._fill(lease)

    @staticmethod
    def _serving(shape: Shape) -> int:
        return sum(1 for lease in shape.leases if not lease.blocked)

    def _find_worker(self, shape: Shape, task: Task) -> None:
        """Resources are free but no worker is: start some, or nest into a blocked one."""
        if len(self.blocked_workers) >= self.nest_after and task.actor is None:
            while (task_or_none := shape.peek()) is not None:
                host = self._host(shape)
                grant = self.resources.acquire(shape.demand) if host is not None else None
                if host is None or grant is None:
                    break
                shape.pop()
                self._nest(task_or_none, host, grant)
            if shape.peek() is None or self._host(shape) is not None:
                return
        grants: list[Grant] = []
        limit = self.most_free - self._serving(shape) if shape.free_of_charge else shape.count
        while len(grants) < min(shape.count, limit):
            grant = self.resources.acquire(shape.demand)
            if grant is None:
                break
            grants.append(grant)
        for grant in grants:
            self.resources.release(grant)
        if not self.pool.failing:
            self.pool.start(max(1, len(grants)), self.now)

    def _host(self, shape: Shape) -> Worker | None:
        if shape.gpu:
            return None  # devices are a matter of the process's environment
        hosts = [w for w in self.blocked_workers if w.job is shape.job and w.state == LEASED and not w.gpu]
        return min(hosts, key=lambda worker: len(worker.nested), default=None)

    def _nest(self, task: Task, host: Worker, grant: Grant) -> None:
        task.lease = Lease(host, None, grant, self.now)
        host.nested[task.id] = task
        self._send(task, host, RUN_NESTED)

    def _place(self, task: Task, worker: Worker, grant: Grant) -> None:
        """A worker becomes an actor: what placing it needed goes back, what it needs for life is taken."""
        self.resources.release(grant)
        actor = task.actor
        assert actor is not None
        life = self.resources.acquire(task.template.life)
        assert life is not None, f"{task}: the demand for life is part of the demand for placing"
        task.lease = Lease(worker, None, life, self.now)
        actor.placed(worker, task.lease)
        self._tell_lease(worker, life)
        self._send(task, worker, CONSTRUCT)

    def _fill(self, lease: Lease) -> None:
        """Sends tasks ahead to a leased worker, as far as its backlog allows."""
        worker, shape = lease.worker, lease.shape
        assert shape is not None
        inflight = worker.inflight
        if inflight:
            if worker.backlog > PIPELINE_MICROSECONDS / 2 or len(inflight) > PIPELINE_TASKS / 2:
                return  # refilled when half empty: batches, not single messages
            if self._starving and lease.served > SLICE_MICROSECONDS:
                return
        elif self._starving and lease.served > SLICE_MICROSECONDS:
            self._end(lease)
            return
        backlog = worker.backlog if inflight else 0.0
        first = not inflight
        while (task := shape.peek()) is not None:
            if task.actor is not None:
                break  # constructors take workers of their own
            mean = task.template.mean
            estimate = UNKNOWN if mean is None else mean + SHORTEST_TASK
            if inflight and (backlog + estimate > PIPELINE_MICROSECONDS or len(inflight) >= PIPELINE_TASKS):
                break
            shape.pop()
            if first:
                self._tell_lease(worker, lease.grant)
                lease.finished_at = self.now
                first = False
            backlog += estimate
            task.estimate = estimate
            task.lease = lease
            inflight[task.id] = task
            self._send(task, worker, RUN)
        worker.backlog = backlog
        if first and not inflight:
            self._end(lease)  # what is next in the queue needs another kind of worker

    def _tell_lease(self, worker: Worker, grant: Grant) -> None:
        devices = tuple(index for index, _ in grant.devices)
        cpus = next((amount for name, amount in grant.demand if name == "CPU"), 0)
        if worker.lent != (devices, cpus) and worker.client is not None:
            worker.lent = (devices, cpus)
            lease = {"devices": devices, "cpus": cpus // UNIT, "demand": grant.demand}
            self._outbox.send(worker.client, (LEASE, lease))

    def _send(self, task: Task, worker: Worker, how: int) -> None:
        task.state = SENT
        task.worker = worker
        self.message(task, worker, how)

    def message(self, task: Task, worker: Worker, how: int) -> None:
        """Sends a task's arguments and dependencies to a worker, and before that what the worker does not know."""
        template, client = task.template, worker.client
        assert client is not None
        if template.number not in worker.known:
            worker.known.add(template.number)
            function = template.job.functions.get(template.function, b"")
            spec = {"name": template.name, "returns": template.returns, "function": template.function}
            self._outbox.send(client, (DEFINE, template.number, {**spec, **template.options}, function))
        values = None
        if task.dependencies:
            value_for = self._objects.value_for
            values = [(entry.id, entry.kind, value_for(entry, client)) for entry in task.dependencies]
        message: Message = (how, task.id, template.number, task.kind, task.payload, values)
        if how == CONSTRUCT and task.actor is not None:
            message += (task.actor.restarted,)
        self._outbox.send(client, message)

    # What comes back --------------------------------------------------------------------------------------------------

    def finished(self, task: Task, microseconds: int) -> None:
        """A task that was sent to a pool worker is over there."""
        worker, lease = task.worker, task.lease
        if worker is None or lease is None:
            return
        task.worker = task.lease = None
        template = task.template
        template.ran(microseconds)
        if worker.nested.pop(task.id, None) is not None:
            if lease.grant.held:
                self.resources.release(lease.grant)
            if not worker.nested and worker.lease is None:
                self.pool.give_back(worker, self.now)
            return
        if worker.inflight.pop(task.id, None) is None:
            return
        worker.backlog -= task.estimate
        lease.served += microseconds + SHORTEST_TASK
        lease.finished_at = self.now
        if not worker.inflight and not (lease.shape and lease.shape.count):
            self._end(lease)

    def settle(self, worker: Worker) -> None:
        """Ends the lease of a worker that has nothing left to do for it."""
        lease = worker.lease
        if lease is not None and lease.shape is not None and not worker.inflight and not lease.shape.count:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        worker, shape = lease.worker, lease.shape
        if shape is not None:
            shape.leases.remove(lease)
        if lease.grant.held:
            self.resources.release(lease.grant)
        worker.lease = None
        worker.backlog = 0.0
        self.blocked_workers.pop(worker, None)
        if not worker.nested:  # else its threads still work, and it is free when they are done
            self.pool.give_back(worker, self.now)

    def returned(self, worker: Worker, tasks: Iterable[Task]) -> None:
        """A worker gives back what it has not started. In front again, in the old order."""
        for task in reversed(list(tasks)):
            if worker.inflight.pop(task.id, None) is None:
                continue
            worker.backlog -= task.estimate
            task.worker = task.lease = None
            if task.state == SENT:
                self.enqueue(task, first=True)

    def block(self, lease: Lease) -> None:
        """The holder of the lease waits for an object: its CPU is free meanwhile."""
        lease.blocked += 1
        if lease.blocked == 1:
            self.resources.lend(lease.grant)
            if lease.worker.lease is lease:
                self.blocked_workers[lease.worker] = None

    def unblock(self, lease: Lease) -> None:
        """It goes on."""
        if not lease.blocked:
            return
        lease.blocked -= 1
        if not lease.blocked:
            self.resources.reclaim(lease.grant)
            if lease.worker.lease is lease:
                del self.blocked_workers[lease.worker]

    def worker_gone(self, worker: Worker) -> tuple[list[Task], list[Task]]:
        """The process ended: (tasks that had started, tasks that had not). All its resources are free."""
        started = list(worker.nested.values())
        unstarted = list(worker.inflight.values())
        if unstarted:
            started.append(unstarted.pop(0))
        for task in (*started, *unstarted):
            if task.lease is not None and task.lease.grant.held:
                self.resources.release(task.lease.grant)
            task.worker = task.lease = None
        worker.inflight.clear()
        worker.nested.clear()
        self.blocked_workers.pop(worker, None)
        lease = worker.lease
        if lease is not None:
            worker.lease = None
            if lease.shape is not None:
                lease.shape.leases.remove(lease)
            if lease.grant.held:
                self.resources.release(lease.grant)
        return started, unstarted

    def job_over(self, job: Job) -> None:
        """Nothing of this job will be queued any more."""
        for key in [key for key in self.shapes if key[0] is job]:
            shape = self.shapes[key]
            if shape.peek() is None and not shape.leases:
                self.ready.pop(shape, None)
                del self.shapes[key]

    def tick(self) -> None:
        """Takes back what is stuck behind a long task while somebody else could run it."""
        for shape in self.shapes.values():
            for lease in shape.leases:
                worker = lease.worker
                if len(worker.inflight) < 2 or self.now - lease.finished_at < STUCK_SECONDS or worker.client is None:
                    continue
                if self.resources.fits(shape.demand) or len(self.ready) > 0:
                    lease.finished_at = self.now
                    self._outbox.send(worker.client, (TAKE_BACK,))

    @property
    def restless(self) -> bool:
        """True while ``tick`` may have something to do."""
        return any(len(lease.worker.inflight) > 1 for shape in self.shapes.values() for lease in shape.leases)

    def check(self) -> None:
        """Raises AssertionError where the queues, leases and accounts contradict one another."""
        self.resources.check()
        self.pool.check()
        for shape in self.shapes.values():
            queued = [task for queue in shape.queues.values() for task in queue]
            assert shape.count == len(queued), f"{shape} counts wrong"
            live = [task.id for task in queued if task.state == QUEUED]
            assert len(live) == len(set(live)), f"{shape} holds a task twice"
            assert not live or shape in self.ready, f"{shape} has work and is not served"
            for lease in shape.leases:
                assert lease.grant.held, f"{lease} holds nothing"
                assert lease.worker.lease is lease, f"{lease} is not its worker's"
        for worker in self.pool.workers.values():
            for task in (*worker.inflight.values(), *worker.nested.values()):
                assert task.worker is worker, f"{task} is at {worker} and does not know"
