"""The node: all machines of a daemon behind one door.

The shell sets ``now``, calls one method for each event (a process connected, messages came, a process ended, time
passed), and then carries out the messages and commands in ``outbox``. Everything here is synchronous and
deterministic: the same events give the same messages and commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.config import LOG_ERROR
from asyncray.core.actors import Actors
from asyncray.core.allocator import Allocator
from asyncray.core.cancelling import Cancelling
from asyncray.core.client_messages import ClientMessages
from asyncray.core.clock import Clock
from asyncray.core.dead_refs import DeadRefs
from asyncray.core.directory import Directory
from asyncray.core.functions import Functions
from asyncray.core.jobs import Jobs
from asyncray.core.objects import Objects
from asyncray.core.outbox import LogLine, Outbox, StopNode
from asyncray.core.outcomes import Outcomes
from asyncray.core.questions import Question
from asyncray.core.records import Client, Job, Task, Where
from asyncray.core.requests import GROUP_METHODS, Requests
from asyncray.core.resources import Resources
from asyncray.core.scheduler import Scheduler
from asyncray.core.shapes import Shapes
from asyncray.core.stalls import Stalls
from asyncray.core.store import Store
from asyncray.core.tasks import Tasks
from asyncray.core.unread import Unread
from asyncray.core.unsealed import Unsealed
from asyncray.core.work import Work
from asyncray.core.workers import REPORT_AGAIN_AFTER, Pool
from asyncray.exceptions import ActorDiedError
from asyncray.messages import NOTICE, WELCOME
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.core.bundles import Bundles
    from asyncray.core.destinations import Destinations
    from asyncray.core.group_requests import GroupRequests
    from asyncray.core.group_views import GroupViews
    from asyncray.core.placement_machines import PlacementMachines
    from asyncray.core.resources import Account
    from asyncray.words import JobSetup, NodeFacts, NodeWelcome

KEEP_WARM = 64 * 1024 * 1024
"""Bytes of free store memory that stay mapped for the next objects when the store has been empty for a while."""

TRIM_AFTER = 5.0
"""Seconds that the store must be empty before it gives memory back to the system."""


class NodeMachine:
    """One node.

    Args:
        node_id: random, never used before.
        resources: name -> amount.
        store_prefix: the names of shared-memory segments begin with it.
        store_capacity: bytes.
        facts: the facts that every client gets with WELCOME (session directory, address, ...).
    """

    def __init__(
        self,
        node_id: bytes,
        resources: Mapping[str, float],
        store_prefix: str,
        store_capacity: int,
        facts: NodeFacts,
    ) -> None:
        self.node_id = node_id
        self.facts = facts
        self.outbox = Outbox()
        self.clock = Clock()
        # Connected processes and tools, by number.
        self.clients: dict[int, Client] = {}
        cpus = int(resources.get("CPU", 0))
        self.resources = Resources(resources)
        dead_refs = DeadRefs(self.outbox, node_id)
        self.store = Store(self.outbox, Allocator(store_prefix, store_capacity), self.clients, dead_refs)
        self.objects = Objects(self.outbox, self.store, Unread(self.outbox), dead_refs)
        self.pool = Pool(self.outbox, self.clock, spare=cpus)
        shapes = Shapes(self.resources)
        self.functions = Functions(self.outbox, self.objects, shapes)
        self.scheduler = Scheduler(
            self.outbox,
            self.clock,
            self.resources,
            shapes,
            self.pool,
            self.objects,
            self.functions,
            nest_after=4 * cpus + 8,
            most_free=max(4 * cpus, 32),
        )
        self.unsealed = Unsealed(self.outbox, self.store, self.scheduler.waits_for_room)
        self.stalls = Stalls(self.outbox, self.scheduler)
        jobs: dict[bytes, Job] = {}
        tasks = Tasks(jobs)
        self.cancelling = Cancelling(self.outbox, self.scheduler, tasks, self._finish)
        self.directory = Directory()
        self.actors = Actors(self.clock, self.scheduler, self._finish, self.cancelling.abandon, self.directory)
        self.work = Work(self.outbox, self.store, self.objects, self.functions, self.scheduler, tasks, self.actors)
        self.outcomes = Outcomes(self.clock, self.work, self.cancelling, self.unsealed)
        self.jobs = Jobs(self.work, self.pool, jobs)
        self.requests = Requests(
            node_id, self.facts, self.work, self.stalls, self.jobs, self.directory, self.clients, self.stop
        )
        # None before the first need.
        self._placements: PlacementMachines | None = None
        self.scheduler.shapes.elsewhere = self._account_elsewhere
        self.requests.further.update({method: partial(self._ask_about_groups, method) for method in GROUP_METHODS})
        self.requests.groups = self._group_rows
        # ``stop`` was called.
        self.stopping = False
        # When drivers may get the next notice that output is lost.
        self._output_report_due = 0.0
        self._handlers = ClientMessages(self).handlers

    def __repr__(self) -> str:
        return f"<NodeMachine {self.node_id.hex()} {self.scheduler} {self.pool} {self.work}>"

    # Placements -------------------------------------------------------------------------------------------------------

    @property
    def placements(self) -> PlacementMachines:
        """The machines of placements and placement groups. The first need makes them."""
        if self._placements is None:
            from asyncray.core.placement_machines import PlacementMachines  # start-up cost: few programs need them

            self._placements = PlacementMachines(
                self.node_id, self.clock, self.work, self.stalls, self.jobs.table, self.cancelling, self._finish
            )
        return self._placements

    @property
    def destinations(self) -> Destinations:
        """The accounts that serve placements."""
        return self.placements.destinations

    @property
    def bundles(self) -> Bundles:
        """The bundles of this node."""
        return self.placements.bundles

    @property
    def group_views(self) -> GroupViews:
        """The placement groups that this node knows."""
        return self.placements.views

    @property
    def group_requests(self) -> GroupRequests:
        """The requests of clients about placement groups."""
        return self.placements.requests

    def _account_elsewhere(self, where: Where, demand: Demand) -> Account:
        return self.placements.destinations.account_for(where, demand)

    def _ask_about_groups(self, method: str, question: Question, *arguments: Any) -> Any:
        return self.placements.requests.table[method](question, *arguments)

    def _group_rows(self) -> list[dict[str, Any]]:
        return [] if self._placements is None else self._placements.requests.rows()

    @property
    def now(self) -> float:
        """The time of the events being worked on, in seconds on any steady clock."""
        return self.clock.now

    @now.setter
    def now(self, now: float) -> None:
        self.clock.now = now

    def _finish(self, task: Task, kind: int, payload: Any) -> None:
        # ``Cancelling`` and ``Actors`` end tasks, and exist before ``work``, which needs ``Actors``.
        self.work.finish(task, kind, payload)

    # Processes that come and go ---------------------------------------------------------------------------------------

    def driver_connected(self, pid: int, namespace: str, setup: JobSetup, *, adopts: bool = False) -> Client:
        """A driver said hello, or stands for a process of another node (``Jobs.begin``): a job begins."""
        client = self._new_client("driver", pid)
        job = self.jobs.begin(client, namespace, setup, adopts=adopts)
        self._welcome(client, job)
        problem = self.pool.failures.problem()
        if problem is not None:
            self.outbox.send_to_driver(job, (NOTICE, LOG_ERROR, problem))
        self.pool.fill()
        return client

    def worker_connected(self, number: int, pid: int) -> Client | None:
        """A forked worker said hello. None if it is not expected (any more)."""
        client = self._new_client("worker", pid)
        if self.pool.hello(number, client) is None:
            del self.clients[client.number]
            return None
        self._welcome(client, None)
        return client

    def observer_connected(self, pid: int) -> Client:
        """A tool that only sends requests (the command line) has connected."""
        client = self._new_client("observer", pid)
        self._welcome(client, None)
        return client

    def _new_client(self, role: str, pid: int) -> Client:
        number = self.outbox.new_party_number()
        client = self.clients[number] = Client(number, self.node_id + number.to_bytes(4, "big"), role, pid)
        return client

    def _welcome(self, client: Client, job: Job | None) -> None:
        info: NodeWelcome = {**self.facts, "client_id": client.id, "node_id": self.node_id}  # type: ignore[typeddict-item]  # those of jobs are optional
        if job is not None:
            info["job_id"], info["namespace"] = job.id, job.namespace
        self.outbox.send(client, (WELCOME, info))

    def client_disconnected(self, client: Client) -> None:
        """The connection is closed, for whatever reason."""
        if not client.alive:
            return
        client.alive = False
        client.out.clear()
        self.clients.pop(client.number, None)
        # First, because its claims must not be granted any more when others free memory.
        self.unsealed.client_disconnected(client)
        if client.worker is not None:
            self.pool.disconnected(client.worker)
        self.functions.client_disconnected(client)
        if client.role == "driver" and client.job is not None:
            self.jobs.driver_ended(client.job)
        if client.worker is None or not client.worker.exits_cleanly:
            self._creator_disconnected(client)
        self.store.unpin_all(client)
        self.work.break_promises(client)
        self.objects.client_disconnected(client)
        self.settle_lives()
        if client.role == "driver" and self._placements is not None:
            self._placements.requests.settle()

    def _creator_disconnected(self, client: Client) -> None:
        for actor in list(client.actors.values()):
            # A worker may have become the very actor that a task on it had made: such an actor may be restarted.
            itself = actor.worker is not None and actor.worker is client.worker
            if not (actor.detached or itself):
                fault = actor.fault("ActorDiedError", ActorDiedError.OWNER_DIED)
                self.actors.kill(actor, fault, "its creator has died")

    def worker_started(self, number: int, pid: int) -> None:
        """The zygote has forked a worker."""
        self.pool.started(number, pid)

    def worker_exited(self, number: int, how: str, log: str = "", *, with_zygote: bool = False) -> None:
        """A worker process ended.

        Args:
            how: the signal or exit code, for people.
            log: the last lines that the worker wrote, for people.
            with_zygote: the zygote died and took the worker along.
        """
        worker = self.pool.exited(number)
        if worker is None:
            return
        worker.died_with_zygote = with_zygote
        if worker.why:
            how = f"{how} ({worker.why})"
        if log:
            how = f"{how}. The last lines of its log:\n{log}"
        if worker.client is not None:
            self.client_disconnected(worker.client)
        elif not self.stopping:
            self.pool.failures.failed(how)
            self._report_failures()
        self.outcomes.worker_exited(worker, how)
        self.functions.worker_exited(worker)
        if worker.job is not None:
            self.jobs.worker_exited(worker.job)
        self.pool.fill()
        self.settle_lives()

    def _report_failures(self) -> None:
        problem = self.pool.failures.report()
        if problem is not None:
            self.notify_drivers(problem)

    def output_lost(self, why: str) -> None:
        """What a worker prints is lost, for this reason: notifies drivers, but seldom: others are likely to follow."""
        if self.now >= self._output_report_due:
            self._output_report_due = self.now + REPORT_AGAIN_AFTER
            self.notify_drivers(f"what workers print is lost: {why}")

    def notify_drivers(self, text: str) -> None:
        """Logs a problem of the node and sends it to the drivers of all jobs."""
        self.outbox.do(LogLine(LOG_ERROR, text))
        for job in self.jobs.table.values():
            self.outbox.send_to_driver(job, (NOTICE, LOG_ERROR, text))

    def stop(self, reason: str) -> None:
        """Ends the node: no client gets new work, and drivers learn of the end when their connections close."""
        if not self.stopping:
            self.stopping = True
            self.pool.stopping = True
            self.outbox.do(StopNode(reason))

    # Messages ---------------------------------------------------------------------------------------------------------

    def receive(self, client: Client, messages: Sequence[Any]) -> None:
        """A batch of messages came from a client.

        Raises:
            Exception: the client sent an invalid message; the shell must close its connection.
        """
        # 1. A worker writes and ends. 2. The node sees its exit and gives its work to others. 3. Its messages arrive.
        if not client.alive:
            return
        handlers = self._handlers
        for message in messages:
            handlers[message[0]](client, message)
        if self.objects.ended_lives:
            self.settle_lives()

    def flush(self) -> None:
        """All events of a batch have been handled: hands out work."""
        if self._placements is not None:
            self._placements.flush()
        self.scheduler.schedule()

    def settle_lives(self) -> None:
        """Ends actors that have no handle left."""
        ended = self.objects.ended_lives
        while ended:
            self.actors.unreferenced(ended.pop())

    # Time -------------------------------------------------------------------------------------------------------------

    def tick(self, late: float = 0.0) -> None:
        """Some time has passed: looks at deadlines, idle workers and stuck queues.

        Args:
            late: seconds for which the daemon stood still. They count in no deadline of others.
        """
        self.pool.tick(late)
        self.store.tick(self.now, KEEP_WARM, TRIM_AFTER, self.work.gives_memory_back, late)
        self.scheduler.tick()
        self.stalls.tick(self.now)
        self.jobs.tick()
        if self._placements is not None:
            self._placements.tick()

    @property
    def is_idle(self) -> bool:
        """True while all tasks have finished and nothing waits for memory: ``tick`` may come once a second."""
        return not self.work.tasks and not self.store.waiting

    @property
    def needs_fast_tick(self) -> bool:
        """True while ``tick`` should come within a hundredth of a second rather than half a second."""
        return self.scheduler.needs_fast_tick or self.store.waiting > 0

    def check(self) -> None:
        """Raises AssertionError if an invariant of any machine is broken."""
        self.objects.check()
        self.store.check()
        self.functions.check()
        self.scheduler.check()
        self.work.check()
        self.jobs.check()
        if self._placements is not None:
            self._placements.check()
