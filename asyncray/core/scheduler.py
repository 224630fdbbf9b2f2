"""The scheduler: gives ready tasks to workers.

Ready tasks queue by shape (``shapes``). A worker is *leased* to a shape: the scheduler takes resources once for the
lease, and then sends tasks of that shape one after the other, several ahead while they are short (a measured mean per
template), so that a task costs no accounting. A lease ends when its shape has no task left, or when it had its
slice and another shape starves.

A worker that blocks in ``get`` returns the tasks that were sent ahead and have not started. The scheduler takes such
tasks back when a worker idles while another is stuck with a queue. A blocked worker lends its CPU. When too many
workers are blocked, a task is nested: it runs on a thread of a blocked worker, so thousands of nested tasks need a
handful of processes.

Invariants (``check``): a task that was sent is in ``inflight`` or ``nested`` of its worker; every lease holds its
grant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncray.config import PIPELINE_MICROSECONDS, PIPELINE_TASKS
from asyncray.core.clock import Clock
from asyncray.core.functions import Functions
from asyncray.core.leases import Lease, Shape, Worker
from asyncray.core.outbox import Outbox
from asyncray.core.parking import WorkerKind, worker_kind
from asyncray.core.pauses import Pauses
from asyncray.core.records import Client, Task
from asyncray.core.resources import Grant, Resources
from asyncray.core.shapes import Shapes
from asyncray.core.states import LEASED, SENT
from asyncray.core.workers import MOST_STARTING, Pool
from asyncray.messages import CONSTRUCT, LEASE, RETURN_QUEUED, RUN, RUN_NESTED, WorkMessage
from asyncray.units import UNIT

if TYPE_CHECKING:
    from asyncray.core.objects import Objects
    from asyncray.words import LeaseTerms

SLICE_MICROSECONDS = 5000
"""A lease serves at least this much before it makes room for a shape that starves: changing costs some 50 us."""

SHORTEST_TASK = 10.0
"""Microseconds that an empty task costs a worker, whatever its function measures."""

UNKNOWN = 1e9
"""The estimate of a function that has not run yet: nothing is queued behind it."""

STUCK_SECONDS = 0.01
"""The queue of a worker that has finished no task for this long is taken back, if another worker could run it."""


class Scheduler:
    """Queues, leases and decisions.

    Args:
        resources: the node's account, which serves all tasks that do not wish to run in a part of it.
        nest_after: with as many blocked workers, further tasks are nested into them.
        most_free: the most workers that serve tasks without demand (``num_cpus=0``) at once, blocked ones not counted.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        resources: Resources,
        shapes: Shapes,
        pool: Pool,
        objects: Objects,
        functions: Functions,
        nest_after: int,
        most_free: int,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._objects = objects
        self._functions = functions
        self.resources = resources
        self.pool = pool
        self.shapes = shapes
        self.pauses = Pauses(shapes.enqueue_again)
        self.nest_after = nest_after
        self.most_free = most_free
        # Workers whose own lease is blocked: further tasks may be nested into them.
        self.blocked_workers: dict[Worker, None] = {}
        # The leases of all shapes.
        self._leases: dict[Lease, None] = {}
        # Leases that were sent tasks ahead since the last tick, or had some then.
        self._ahead: dict[Lease, None] = {}
        # Workers that tasks were nested into.
        self.hosts: dict[Worker, None] = {}

    def __repr__(self) -> str:
        return f"<Scheduler {self.shapes}, {len(self.blocked_workers)} blocked>"

    # Serving ---------------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Sends ready tasks to workers, as many as possible. The node calls it after each batch of events."""
        if not self.shapes.ready:
            return
        order = self.shapes.begin_round(processes_start=self.pool.failures.reason is None)
        alone = len(self.shapes.ready) == 1  # before leases end, and with them shapes
        # Serve all leases before making new ones, because a worker that one shape loses may serve another.
        for shape in order:
            for lease in shape.leases[:]:
                if not lease.blocked and lease.worker.state == LEASED:
                    self._fill(lease)
        if self.shapes.collect is not None:
            self.shapes.collect()
            self._grow_all(order)
        elif order and alone:
            self._grow(order[0])
        else:
            self._grow_all(order)
        for shape in list(self.shapes.active):
            self.shapes.end_turn(shape)

    def _grow_all(self, order: list[Shape]) -> None:
        """Makes new leases for the active shapes, and for parked ones for which there is room, in their order."""
        shapes = self.shapes
        without_process: dict[WorkerKind, None] = {}
        places = shapes.places(order)[::-1]
        while True:
            parked = shapes.parking.first(without_process)
            if parked is not None and (not places or (False, parked[0]) < places[-1][:2]):
                shape = parked[1]
                shapes.unpark(shape)
            elif places:
                shape = places.pop()[2]
            else:
                return
            if not self._grow(shape):
                without_process[worker_kind(shape)] = None

    def _grow(self, shape: Shape) -> bool:
        """Makes new leases for tasks that the present leases do not take.

        Returns: False if the shape, and others of its kind, must wait for a process.
        """
        while (task := shape.peek()) is not None:
            is_full = shape.free_of_charge and not shape.lives and shape.serving >= self.most_free
            if is_full or self.shapes.held_back(shape):
                break
            grant = shape.account.acquire(shape.demand)
            if grant is None:
                break
            worker = self.pool.take(shape.job, gpu=shape.gpu)
            if worker is None:
                grant.release()
                return self._find_worker(shape, task)
            self.shapes.move_back(shape)
            if shape.lives:
                shape.pop()
                self._place(task, worker, grant)
                continue
            lease = Lease(worker, shape, grant, self._clock.now)
            shape.leases.append(lease)
            self._leases[lease] = None
            worker.lease = lease
            self._fill(lease)
        return True

    def _find_worker(self, shape: Shape, task: Task) -> bool:
        """Resources are free but no worker is: start some, or nest into a blocked one.

        Returns: True if further shapes of the job can be nested.
        """
        host = None
        if len(self.blocked_workers) >= self.nest_after and not shape.lives:
            host = self._host(shape)
            if host is not None and not task.template.crashes:
                self._nest_all(shape, host)
                return True
        grants: list[Grant] = []
        limited = shape.free_of_charge and not shape.lives
        wanted = min(shape.count, MOST_STARTING, self.most_free - shape.serving if limited else shape.count)
        while len(grants) < wanted and (grant := shape.account.acquire(shape.demand)) is not None:
            grants.append(grant)
        for grant in grants:
            grant.release()
        self.pool.start(max(1, len(grants)))
        return host is not None

    def _nest_all(self, shape: Shape, host: Worker | None) -> None:
        room = self.most_free - self._threads(shape) if shape.free_of_charge else shape.count
        while room > 0 and host is not None and (task := shape.peek()) is not None and not task.template.crashes:
            grant = shape.account.acquire(shape.demand)
            if grant is None:
                return
            shape.pop()
            task.lease = Lease(host, None, grant, self._clock.now)
            host.nested[task.id] = task
            self.hosts[host] = None
            self._send(task, host, RUN_NESTED)
            host = self._host(shape)
            room -= 1

    def _threads(self, shape: Shape) -> int:
        nested = (task for worker in self.hosts for task in worker.nested.values())
        return sum(1 for task in nested if task.template.shape is shape and task.lease and not task.lease.blocked)

    def _host(self, shape: Shape) -> Worker | None:
        if shape.gpu:
            return None  # devices belong to a process, not to a thread
        hosts = [worker for worker in self.blocked_workers if worker.may_host(shape)]
        return min(hosts, key=lambda worker: len(worker.nested), default=None)

    def _place(self, task: Task, worker: Worker, grant: Grant) -> None:
        """A worker becomes an actor: releases the demand for placing it, and takes the demand for its life."""
        grant.release()
        actor = task.constructed_actor
        assert actor is not None
        life = grant.account.acquire(task.template.life)
        assert life is not None, f"{task}: the demand for life is part of the demand for placing"
        task.lease = Lease(worker, None, life, self._clock.now)
        life.hold_for_life()
        actor.placed(worker, task.lease)
        self.pool.becomes_actor(worker)
        self._send_lease(worker, life)
        self._send(task, worker, CONSTRUCT)

    def _fill(self, lease: Lease) -> None:
        """Sends tasks ahead to a leased worker, as far as its backlog allows."""
        worker, shape = lease.worker, lease.shape
        assert shape is not None
        inflight = worker.inflight
        if inflight:
            if worker.backlog > PIPELINE_MICROSECONDS / 2 or len(inflight) > PIPELINE_TASKS / 2:
                return  # refilled when half empty: batches, not single messages
            if self.shapes.starving and lease.served > SLICE_MICROSECONDS:
                return
        elif self.shapes.starving and lease.served > SLICE_MICROSECONDS:
            self.shapes.sliced[shape] = None
            self._end(lease)
            return
        backlog = worker.backlog if inflight else 0.0
        first = not inflight
        while (task := shape.peek()) is not None:
            mean = task.template.mean
            # Without retries it may start at most once: behind another, a crash would leave open whether it did.
            alone = mean is None or not task.retries or task.estimate == UNKNOWN
            estimate = UNKNOWN if alone or mean is None else mean + SHORTEST_TASK
            if inflight and (backlog + estimate > PIPELINE_MICROSECONDS or len(inflight) >= PIPELINE_TASKS):
                break
            shape.pop()
            if first:
                self._send_lease(worker, lease.grant)
                lease.finished_at = self._clock.now
                first = False
            backlog += estimate
            task.estimate = estimate
            task.lease = lease
            task.state = SENT
            task.worker = worker
            inflight[task.id] = task
            self.message(task, worker, RUN)
        worker.backlog = backlog
        if len(inflight) > 1:
            self._ahead[lease] = None
        elif first and not inflight:
            self._end(lease)

    def _send_lease(self, worker: Worker, grant: Grant) -> None:
        devices = tuple(number for number, _ in grant.devices)
        cpus = next((amount for name, amount in grant.demand if name == "CPU"), 0)
        if worker.announced_lease != (devices, grant.demand) and worker.client is not None:
            worker.announced_lease = (devices, grant.demand)
            terms: LeaseTerms = {"devices": devices, "cpus": cpus // UNIT, "demand": grant.demand}
            self._outbox.send(worker.client, (LEASE, terms))

    def _send(self, task: Task, worker: Worker, how: Any) -> None:
        task.state = SENT
        task.worker = worker
        self.message(task, worker, how)

    def message(self, task: Task, worker: Worker, how: Any) -> None:
        """Sends a task's arguments and dependencies to a worker, and before that the template if the worker lacks it.

        Args:
            how: RUN, RUN_NESTED, CONSTRUCT or INVOKE.
        """
        template, client = task.template, worker.client
        assert client is not None
        if template not in worker.known:
            self._functions.define(template, worker, client)
        values = None
        if task.dependencies:
            value_for = self._objects.value_for
            values = [(entry.id, entry.kind, value_for(entry, client)) for entry in task.dependencies]
        message: WorkMessage = (how, task.id, template.number, task.kind, task.payload, values, task.given_name)
        if how == CONSTRUCT and (made := task.constructed_actor) is not None:
            message = (*message, made.restarted, made.registered_name)
        self._outbox.send(client, message)

    # Tasks that come back ---------------------------------------------------------------------------------------------

    def finished(self, task: Task, microseconds: int) -> None:
        """A task that was sent to a pool worker has finished there."""
        worker, lease = task.worker, task.lease
        if worker is None or lease is None:
            return
        template = task.template
        # A cancelled task that took no time never started.
        if microseconds or not task.cancelled:
            template.ran(microseconds)
            if template.max_calls:
                self.pool.called(worker, template)
        nested = bool(worker.nested) and self._take_nested(worker, task)
        task.worker = task.lease = None
        if nested:
            if not worker.nested and worker.lease is None:
                self.pool.give_back(worker)
            return
        if worker.inflight.pop(task.id, None) is None:
            return
        worker.backlog -= task.estimate
        lease.served += microseconds + SHORTEST_TASK
        lease.finished_at = self._clock.now
        if not worker.inflight:
            self.end_idle_lease(worker)

    def _take_nested(self, worker: Worker, task: Task) -> bool:
        """Removes a task from the nested tasks of the worker. Returns False if it is not one of them."""
        if worker.nested.pop(task.id, None) is None:
            return False
        if task.lease is not None and task.lease.grant.held:
            task.lease.grant.release()
        if not worker.nested:
            del self.hosts[worker]
        return True

    def end_idle_lease(self, worker: Worker) -> None:
        """Ends the lease of a worker that has nothing left to do for it.

        A worker that is leaving gets no further tasks. It may have to wait for its threads, and its threads for the
        resources that it holds. A blocked lease gets none either: the process still waits for room for late puts.
        """
        lease = worker.lease
        if lease is None or lease.shape is None or worker.inflight:
            return
        if lease.blocked or not lease.shape.count or worker.state != LEASED:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        worker, shape = lease.worker, lease.shape
        if shape is not None:
            self._drop(lease, shape)
        if lease.grant.held:
            lease.grant.release()
        worker.lease = None
        worker.backlog = 0.0
        self.blocked_workers.pop(worker, None)
        # While nested tasks run on its threads, the worker is not free.
        if not worker.nested:
            self.pool.give_back(worker)

    def _drop(self, lease: Lease, shape: Shape) -> None:
        shape.leases.remove(lease)
        del self._leases[lease]
        self._ahead.pop(lease, None)
        if not shape.templates:
            self.shapes.drop_if_unused(shape)

    def returned(self, worker: Worker, tasks: Iterable[Task]) -> None:
        """A worker returns tasks that it has not started: queues them in front, in the old order."""
        for task in reversed(list(tasks)):
            if not self._take_nested(worker, task) and worker.inflight.pop(task.id, None) is None:
                continue
            worker.backlog -= task.estimate
            if task.estimate != UNKNOWN:
                task.estimate = 0.0  # a task that goes alone still does
            task.worker = task.lease = None
            if task.state == SENT:
                self.shapes.enqueue(task, first=True)

    def block(self, lease: Lease, task_id: bytes) -> None:
        """A task on the lease waits for an object: its CPU is free meanwhile."""
        if not lease.blocked:
            lease.grant.lend()
            if lease.worker.lease is lease and lease.shape is not None:
                self.blocked_workers[lease.worker] = None
        lease.blocked[task_id] = lease.blocked.get(task_id, 0) + 1

    def unblock(self, lease: Lease, task_id: bytes, *, finished: bool = False) -> None:
        """A task continues on one of its threads, or has finished on all."""
        times = lease.blocked.pop(task_id, 0)
        if times > 1 and not finished:
            lease.blocked[task_id] = times - 1
        elif times and not lease.blocked:
            lease.grant.reclaim()
            # The lease of a nested task does not say that the worker itself goes on.
            if lease.worker.lease is lease:
                self.blocked_workers.pop(lease.worker, None)

    def waits_for_room(self, client: Client, number: int, begins: bool) -> None:  # noqa: FBT001 - a callback
        """A worker waits for room in the store, or waits no more: others may use its CPU and run its queue."""
        worker = client.worker
        if worker is None or worker.lease is None:
            return
        lease = worker.lease
        wait = b"room" + number.to_bytes(8, "big")
        if not begins:
            self.unblock(lease, wait)
            # The task that waited may have been interrupted, and have finished since.
            self.end_idle_lease(worker)
            return
        self.block(lease, wait)
        if lease.shape is not None:
            self._outbox.send(client, (RETURN_QUEUED,))

    def worker_exited(self, worker: Worker) -> tuple[list[Task], list[Task], list[Task]]:
        """The process has ended: frees all its resources.

        Returns: (tasks that had started, tasks that had not started, tasks of the first list that waited).
        """
        started = list(worker.nested.values())
        unstarted = list(worker.inflight.values())
        if unstarted and not worker.exits_cleanly:
            started.append(unstarted.pop(0))
        waited = [task for task in started if task.lease is not None and task.id in task.lease.blocked]
        for task in started:
            if task not in waited and not (worker.exits_cleanly or worker.died_with_zygote):
                task.template.crashes = True
        for task in unstarted:
            # It may have started without a report: from now on it is sent alone.
            task.estimate = UNKNOWN
        for task in (*started, *unstarted):
            if task.lease is not None and task.lease.grant.held:
                task.lease.grant.release()
            task.worker = task.lease = None
        worker.inflight.clear()
        worker.nested.clear()
        self.hosts.pop(worker, None)
        self.blocked_workers.pop(worker, None)
        lease = worker.lease
        if lease is not None:
            worker.lease = None
            shape = lease.shape
            if shape is not None:
                self._drop(lease, shape)
            if lease.grant.held:
                lease.grant.release()
        return [t for t in started if t.state == SENT], [t for t in unstarted if t.state == SENT], waited

    def tick(self) -> None:
        """Starts what has paused, and takes back tasks that are stuck while another worker could run them."""
        self.pauses.tick(self._clock.now)
        for lease in list(self._ahead):
            worker, shape = lease.worker, lease.shape
            if len(worker.inflight) < 2:
                del self._ahead[lease]
                continue
            if self._clock.now - lease.finished_at < STUCK_SECONDS or worker.client is None:
                continue
            head = next(iter(worker.inflight.values()))
            if head.estimate == UNKNOWN or shape is None:
                continue
            if self.shapes.ready or shape.account.fits(shape.demand):
                # The running task takes longer than its estimate. With the old estimate, the scheduler would send
                # the returned tasks behind it again.
                worker.backlog += UNKNOWN - head.estimate
                head.estimate = UNKNOWN
                self._outbox.send(worker.client, (RETURN_QUEUED,))

    @property
    def needs_fast_tick(self) -> bool:
        """True while ``tick`` may have something to do."""
        return bool(self._ahead) or self.pauses.is_near(self._clock.now)

    def check_round(self) -> None:
        """Raises AssertionError if a shape is parked after a round that could have a lease."""
        idle = self.pool.idle
        for shape in self.shapes.parking:
            free = idle.get((shape.job, shape.gpu)) or idle.get((None, False))
            assert not free or not shape.account.fits(shape.demand), f"{shape} is parked and fits"

    def check(self) -> None:
        """Raises AssertionError if the queues, leases and accounts contradict each other."""
        for account in self.shapes.parts:
            account.check()
        self.pool.check()
        self.shapes.check()
        self.pauses.check()
        for shape in self.shapes.table.values():
            for lease in shape.leases:
                assert lease.grant.held, f"{lease} holds nothing"
                assert lease.worker.lease is lease, f"{lease} is not its worker's"
                assert lease.worker.inflight or shape.count, f"{lease} has nothing to do"
        leases = [lease for shape in self.shapes.table.values() for lease in shape.leases]
        assert sorted(map(id, leases)) == sorted(map(id, self._leases)), "leases"
        ahead = {lease for lease in leases if len(lease.worker.inflight) > 1}
        assert ahead <= self._ahead.keys() <= set(leases), "leases with tasks ahead"
        assert set(self.hosts) == {worker for worker in self.pool.workers.values() if worker.nested}, "hosts"
        waiting = {w for w in self.pool.workers.values() if w.lease and w.lease.shape and w.lease.blocked}
        assert waiting == set(self.blocked_workers), f"{waiting} wait, not {set(self.blocked_workers)}"
        for worker in self.pool.workers.values():
            for task in (*worker.inflight.values(), *worker.nested.values()):
                assert task.worker is worker, f"{task} is at {worker} and does not know"
