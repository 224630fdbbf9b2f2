"""Records: the data that the machines of a node keep. This module decides nothing.

A *job* is one driver's work, a *party* the other end of a connection, a *client* a party that is a process of this
node. A *function* is a pickled function or class, a *template* a function, constructor or method with its options, a
*task* one invocation of it. An *object entry* is one object, a *block* its memory if it is in shared memory. Workers
and leases are in ``leases``, actors in ``lives``: they refer to each other, so their types are imported for type checks
only.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, cast

from asyncray.core.allocator import Allocation
from asyncray.core.states import CANCELLED_WITH_CHILDREN, FINAL, NOT_CANCELLED, WAITING
from asyncray.messages import UNRESOLVED, Message
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.cluster_messages import ClusterMessage
    from asyncray.core.claims import Claim
    from asyncray.core.cluster.covers import Cover, Import
    from asyncray.core.leases import Lease, Shape, Worker
    from asyncray.core.lives import Actor, Seat
    from asyncray.words import FunctionOptions, JobSetup, TemplateSpec

_MEAN_WEIGHT = 0.2
"""The weight of the newest measurement in the mean of a function's run time: five runs forget an outlier."""

Fault = list[Any]
"""A system error as a value: [exception name, fields]."""

Where: TypeAlias = Hashable
"""A placement: where the tasks of a template wish to run. Each has an account in ``Shapes.accounts``."""

HERE: Final = "here"
"""The default placement, where the node decides. The others are in ``placements``."""


class Job:
    """One driver's work: its namespace, and what its workers need to import its code.

    It ends with its driver, or with the last detached actor that outlives the driver.
    """

    __slots__ = (
        "actors", "driver_ended", "functions", "id", "lasts", "namespace", "output_to", "refused", "reports_to",
        "setup", "tasks", "templates", "unread", "workers",
    )  # fmt: skip

    def __init__(self, job_id: bytes, namespace: str, setup: JobSetup) -> None:
        self.id = job_id
        self.namespace = namespace
        self.setup = setup
        # Messages for its driver go here: to the driver itself, or to the node where it is. None once it has ended.
        self.reports_to: Party | None = None
        # Of a job without a driver, for a detached actor of another node: the way to the driver for which the actor was
        # made, and its job. ``Adoptions`` writes it, and ``Jobs`` once that driver has ended.
        self.output_to: tuple[Party, bytes] | None = None
        self.driver_ended = False
        # Detached actors of it live, and its driver has ended. ``Jobs`` writes both.
        self.lasts = False
        # Unfinished tasks that the job's processes submitted, constructors among them.
        self.tasks: dict[bytes, Task] = {}
        # Actors that the job's processes created and that are not dead.
        self.actors: dict[bytes, Actor] = {}
        # Processes that serve the job, until the end of the process.
        self.workers: dict[int, Worker] = {}
        # Tasks whose errors no process has read. ``Unread`` writes it.
        self.unread: dict[bytes, None] = {}
        # By digest. All processes of the job share them. ``Functions`` writes both.
        self.functions: dict[bytes, Function] = {}
        self.templates: dict[bytes, Template] = {}
        # Demands that exceed the node and that the driver got a notice of. ``Stalls`` writes it. For membership only.
        self.refused: set[Demand] = set()

    def __repr__(self) -> str:
        return f"<Job {self.id.hex()} {'ended' if self.driver_ended else 'running'}>"

    @property
    def output_reader(self) -> Party | None:
        """The party that gets the output of its workers. None: nobody reads it."""
        return self.reports_to if self.output_to is None else self.output_to[0]

    @property
    def output_job(self) -> bytes:
        """The job under which that party knows the output."""
        return self.id if self.output_to is None else self.output_to[1]


class Party:
    """The other end of a connection of the daemon: the messages for it, and the objects that it keeps alive.

    It is a process of this node (``Client``), or the daemon of another node (``Peer``). Code that needs no more than
    these fields takes a party.
    """

    __slots__ = ("alive", "borrowed", "number", "out", "pinned")

    is_node: ClassVar[bool] = False
    """True for a party that is no process: another node, or a pull set. ``ValuesElsewhere`` sends it values."""

    def __init__(self, number: int) -> None:
        # Counts the parties of the node. Never reused.
        self.number = number
        # Its connection is open.
        self.alive = True
        # Messages that the shell has not taken yet.
        self.out: list[Message | ClusterMessage] = []
        # Objects that others made and this party has refs to. ``Objects`` writes it.
        self.borrowed: dict[bytes, None] = {}
        # Object whose memory this party may have views of -> how many times it got the place and has not given it
        # back. ``Store`` writes it.
        self.pinned: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Party {self.number} {'connected' if self.alive else 'disconnected'}>"


class Client(Party):
    """A connected process."""

    __slots__ = (
        "actors", "claims", "functions", "id", "job", "made", "pid", "promised", "role", "templates", "unsealed",
        "worker",
    )  # fmt: skip

    def __init__(self, number: int, client_id: bytes, role: str, pid: int) -> None:
        super().__init__(number)
        self.id = client_id
        self.role = role
        self.pid = pid
        # The job of a driver, or of a worker that serves one. None for an observer and a worker without a job.
        self.job: Job | None = None
        self.worker: Worker | None = None
        # Its exports, by the numbers that it gave them. ``Functions`` writes both.
        self.functions: dict[int, Function] = {}
        self.templates: dict[int, Template] = {}
        # Objects that this process made, as long as they exist. ``Objects`` writes it.
        self.made: dict[bytes, ObjectEntry] = {}
        # Objects that this process will put later.
        self.promised: dict[bytes, ObjectEntry] = {}
        # Actors that this process created and that are not dead.
        self.actors: dict[bytes, Actor] = {}
        # Number of a request for room that waits -> its claim. ``Unsealed`` writes it.
        self.claims: dict[int, Claim] = {}
        # (segment, offset) -> room that it got and has not sealed yet. ``Unsealed`` writes it.
        self.unsealed: dict[tuple[str, int], Allocation] = {}

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.role} pid={self.pid} {'connected' if self.alive else 'disconnected'}>"


class Function:
    """A pickled function or class. ``Functions`` writes it."""

    __slots__ = ("captured", "digest", "job", "known_by", "number", "pickled", "users")

    def __init__(self, number: int, digest: bytes, job: Job, pickled: bytes) -> None:
        self.number = number
        self.digest = digest
        self.job = job
        self.pickled = pickled
        # Objects that it refers to in its closure and globals.
        self.captured: tuple[ObjectEntry, ...] = ()
        # How many exports of clients, and how many templates, need it.
        self.users = 0
        # Workers that it was sent to.
        self.known_by: dict[Worker, None] = {}

    def __repr__(self) -> str:
        return f"<Function {self.number} {self.digest.hex()} users={self.users}>"


class Template:
    """A function, constructor or method with its options, as a client described it."""

    __slots__ = (
        "crashes", "demand", "digest", "function", "job", "known_by", "life", "max_calls", "mean", "name",
        "number", "options", "retries", "returns", "shape", "unread", "users", "where",
    )  # fmt: skip

    def __init__(self, number: int, digest: bytes, job: Job, function: Function | None, spec: TemplateSpec) -> None:
        self.number = number
        self.digest = digest
        self.job = job
        # None for a method.
        self.function = function
        # How many need it: numbers that clients have for it (``Functions`` counts them), unfinished tasks, and finished
        # tasks that may run again (``Work`` counts both).
        self.users = 0
        # Workers that it was described to. ``Functions`` writes it.
        self.known_by: dict[Worker, None] = {}
        # It ran in a worker that died: the scheduler never nests it again.
        self.crashes = False
        self.name: str = spec["name"]
        self.returns: int = spec["returns"]
        self.retries: int = spec["retries"]
        self.demand: Demand = tuple((name, amount) for name, amount in spec["demand"])
        self.life: Demand = tuple((name, amount) for name, amount in spec.get("life", ()))
        needed = dict(self.demand)
        if any(amount <= 0 for amount in needed.values()) or any(needed.get(n, 0) < amount for n, amount in self.life):
            raise ValueError(f"{self.name} needs {self.demand} to start, and for life {self.life}")
        self.options: FunctionOptions = spec.get("options", {})
        self.where: Where = HERE
        if "where" in spec:
            from asyncray.core.placements import read_where  # start-up cost: few templates name a placement

            self.where = read_where(spec["where"])
        # The number of calls after which a worker ends; 0: no limit.
        self.max_calls: int = self.options.get("max_calls", 0)
        # The queue of its tasks. ``Shapes`` writes it.
        self.shape: Shape | None = None
        # Mean run time in microseconds. None until an invocation has run.
        self.mean: float | None = None
        # How many of its errors were never read. ``Unread`` writes it.
        self.unread = 0

    def __repr__(self) -> str:
        return f"<Template {self.number} {self.name} {dict(self.demand)}>"

    def ran(self, microseconds: int) -> None:
        """Enters the run time of one invocation into the mean."""
        mean = self.mean
        self.mean = microseconds if mean is None else mean + _MEAN_WEIGHT * (microseconds - mean)


class Task:
    """One invocation."""

    is_guest: ClassVar[bool] = False
    """True for a task of another node, which decides about its retries and has its return values."""

    __slots__ = (
        "actor", "cancelled", "children", "dependencies", "depth", "estimate", "given_name", "id", "kind", "lease",
        "missing", "nested", "parent", "payload", "retries", "returns", "state", "submitter", "template", "worker",
    )  # fmt: skip

    def __init__(
        self,
        task_id: bytes,
        template: Template,
        submitter: Client,
        kind: int,
        payload: Any,
        given_name: str | None = None,
    ) -> None:
        self.id = task_id
        self.template = template
        # The name from ``options(name=...)``. None: the name of the template counts.
        self.given_name = given_name
        self.submitter = submitter
        self.kind = kind
        self.payload = payload
        self.state = WAITING
        # NOT_CANCELLED, which is false, or how far it was cancelled.
        self.cancelled = NOT_CANCELLED
        # How many dependencies are not resolved yet.
        self.missing = 0
        # How many functions are above it in the tree of submissions, as far as they had not finished when it was
        # submitted. Constructors and calls of actors do not count. Deeper tasks come first.
        self.depth = 0
        # How many retries are left. Negative: no limit, and those that were used count down.
        self.retries = template.retries
        # Microseconds that the scheduler counts for it in ``Worker.backlog``.
        self.estimate = 0.0
        # Objects that are its arguments.
        self.dependencies: tuple[ObjectEntry, ...] = ()
        # Objects that its arguments contain refs to.
        self.nested: tuple[ObjectEntry, ...] = ()
        # Its return values.
        self.returns: tuple[ObjectEntry, ...] = ()
        # The unfinished task that submitted it.
        self.parent: Task | None = None
        # Its unfinished children, by ID.
        self.children: dict[bytes, Task] | None = None
        # The worker that it was sent to, and the lease that it runs on.
        self.worker: Worker | None = None
        self.lease: Lease | None = None
        # The actor that it constructs or calls, or the way to it.
        self.actor: Seat | None = None

    def __repr__(self) -> str:
        return f"<Task {self.id.hex()} {self.name} {self.state}>"

    @property
    def name(self) -> str:
        """The name for people: the name given to this call, or the name of the function."""
        return self.given_name or self.template.name

    @property
    def cancelled_with_children(self) -> bool:
        """True if all tasks that it submits are cancelled, too."""
        return self.cancelled == CANCELLED_WITH_CHILDREN

    @property
    def is_constructor(self) -> bool:
        """True if the task constructs an actor. It is no call then."""
        return self.actor is not None and self.actor.id == self.id

    @property
    def constructed_actor(self) -> Actor | None:
        """The actor that the task constructs. None if it does not construct one."""
        return cast("Actor", self.actor) if self.is_constructor else None

    def cancelled_fault(self) -> Fault:
        """Returns the fault that ``get`` raises for a cancelled task."""
        return ["TaskCancelledError", {"task_id": self.id.hex()}]


class Guest(Task):
    """A task of another node, its *home*, that runs here. ``core.cluster.guests`` makes and writes it.

    Its home decides about retries, so ``retries`` only says whether it may start more than once.
    """

    __slots__ = ("attempt", "cover", "home", "how")

    is_guest = True

    def __init__(self, task_id: bytes, template: Template, visitor: Client, home: Party, attempt: int) -> None:
        super().__init__(task_id, template, visitor, UNRESOLVED, None)
        self.home = home
        # Counts the tasks that the home has sent to other nodes. It is the version of large values.
        self.attempt = attempt
        # The objects that its home keeps alive for it. None: the task came without refs.
        self.cover: Cover | None = None
        self.how = FINAL


class ObjectEntry:
    """One object. ``kind`` is UNRESOLVED until it has a value."""

    __slots__ = (
        "actor", "block", "borrowers", "contained", "dependents", "far", "held", "id", "kind", "maker", "payload",
        "task", "uses", "waiting",
    )  # fmt: skip

    def __init__(self, object_id: bytes, maker: Client, task: Task | None) -> None:
        self.id = object_id
        # The process that made it: the submitter of its task, or the caller of ``put``.
        self.maker = maker
        # The task that makes it. None once it is resolved, and for a promise.
        self.task = task
        self.kind = UNRESOLVED
        self.payload: Any = None
        # Its maker has refs to it.
        self.held = True
        # Other parties that have refs to it.
        self.borrowers: dict[Party, None] | None = None
        # How many unfinished tasks and other objects use it.
        self.uses = 0
        # Objects that its value contains refs to.
        self.contained: tuple[ObjectEntry, ...] = ()
        # Parties that get its value when it is resolved. An empty list: a client waited, and raised an error already.
        self.waiting: list[Party] | None = None
        # Tasks that wait for it.
        self.dependents: list[Task] | None = None
        # Its memory, if it is in shared memory.
        self.block: Block | None = None
        # The actor whose handles are the refs of this entry, or the way to it.
        self.actor: Seat | None = None
        # How this node may keep an object of another node. None: the object is this node's own.
        self.far: Import | None = None

    def __repr__(self) -> str:
        state = "pending" if self.kind == UNRESOLVED else f"kind {self.kind}"
        holders = f"held={self.held} borrowers={len(self.borrowers or ())} uses={self.uses}"
        return f"<ObjectEntry {self.id.hex()} {state} {holders}>"


class Block:
    """The memory of one sealed object, or a copy of it. ``Store`` writes it."""

    __slots__ = ("allocation", "id", "in_use", "pins", "version")

    def __init__(self, object_id: bytes, allocation: Allocation, version: int | None = None) -> None:
        self.id = object_id
        self.allocation = allocation
        # The version of the object of which this is a copy. None: it is the memory of an object of the table.
        self.version = version
        # Parties that got the place of the block and may have views of it.
        self.pins: dict[Party, None] = {}
        # The object exists, or the copy is kept.
        self.in_use = True

    def __repr__(self) -> str:
        return f"<Block {self.id.hex()} {self.allocation} pins={len(self.pins)} in_use={self.in_use}>"
