"""Records with fixed keys that processes send to each other, as types of plain dicts.

Only for type checkers: modules import them under ``TYPE_CHECKING``, because they would cost each process a millisecond
at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, Required, TypedDict


class Interpreter(TypedDict):
    """The Python that a process runs, and its asyncray."""

    executable: str
    prefix: str
    """The directory of its environment, with the installed packages."""
    python: str
    """Implementation and version, e.g. "cpython 3.11". Another one cannot load its code objects."""
    asyncray: str
    """Its version."""


class CodePaths(TypedDict):
    """The program's entries of a driver's ``sys.path``, by their place in it.

    All are absolute, except names that a path hook of an installed package understands.
    """

    before: list[str]
    """In front of the standard library."""
    between: list[str]
    """Behind the standard library, in front of the installed packages."""
    after: list[str]
    """Behind the installed packages."""
    shadowed: list[str]
    """Modules of the standard library in whose place the program has modules of its own."""


class JobSetup(TypedDict):
    """The facts about a driver that the workers of its job need."""

    code_paths: CodePaths
    directory: str | None
    """The driver's working directory; None if it was deleted."""
    interpreter: Interpreter
    log_to_driver: bool
    namespace: str


class LeaseTerms(TypedDict):
    """The resources of the tasks that a worker gets next."""

    demand: Sequence[tuple[str, int]]
    """Name and fixed amount of each resource."""
    devices: Sequence[int]
    """Numbers of GPUs."""
    cpus: int


class NodeAmounts(TypedDict):
    """The amounts of a node's resources; None stands for those of the machine."""

    num_cpus: float | None
    num_gpus: float | None
    resources: dict[str, float] | None
    object_store_memory: int | None
    memory: NotRequired[int | None]
    """Bytes that tasks may ask for."""


class NodeConfig(TypedDict):
    """The configuration of a daemon, as the process that starts it passes it on: as a literal."""

    directory: str
    """The session's."""
    lock: int
    """The descriptor that holds the session's lock."""
    driver: int | None
    """The descriptor of the connection to the driver that this node is for; None for a node of `asyncray node`."""
    amounts: NodeAmounts
    head: NotRequired[tuple[str, int]]
    """IP address and port of the head, if the node shall join a cluster for its driver."""


class FunctionOptions(TypedDict, total=False):
    """Options of a template: those that only workers need, and those of actors that the daemon needs, too."""

    shown: str
    """Module-qualified name, for people."""
    max_calls: int
    """The most calls of one process; 0: no limit."""
    retry_on: bool | bytes
    """The exceptions after which a task is retried: none, all, or the classes in this pickle."""
    method: str
    discards: bool
    """The return value is not wanted, only completion."""
    asynchronous: bool
    concurrency: int
    ordered: bool
    """Calls of one caller start in the order in which they were made."""
    restarts: int
    detached: bool
    descriptor: bytes
    group: Sequence[Any]
    """The placement group that its tasks run in, and whether what they submit goes there, too."""


class TemplateSpec(TypedDict):
    """A function, constructor or method with its options, as a client describes it once."""

    name: str
    function: bytes
    """The digest of a function or class that FUNCTION has sent; empty for a method."""
    returns: int
    retries: int
    demand: Sequence[tuple[str, int]]
    life: NotRequired[Sequence[tuple[str, int]]]
    """The resources that an actor holds once it is constructed."""
    where: NotRequired[Sequence[Any]]
    """Where it wishes to run, as ``asyncray.core.placements`` reads it. Missing: the node decides."""
    options: NotRequired[FunctionOptions]


class WorkerSpec(FunctionOptions):
    """A template as workers need it."""

    name: str
    returns: int
    function: int
    """The daemon's number of the function or class; 0 of a method."""


class NodeFacts(TypedDict, total=False):
    """The facts about a node that processes and tools get."""

    address: str
    """The address of its socket."""
    session: str
    """The name of its session."""
    cluster_address: str
    """The address of the cluster that it belongs to; missing if it is alone."""
    session_dir: str
    ip: str
    hostname: str
    interpreter: Interpreter
    pid: int
    store_warning: str
    """A problem of shared memory, for people; empty if there is none."""


class NodeWelcome(NodeFacts, total=False):
    """The facts that a process gets when it has connected. A worker learns of its job by SETUP, a driver here."""

    client_id: Required[bytes]
    node_id: Required[bytes]
    job_id: bytes
    namespace: str


class ShapeRow(TypedDict):
    """Tasks that wait for the same resources."""

    name: str
    """Of the first of them."""
    needs: dict[str, float]
    tasks: int
    why: str
    """The reason that they wait, for people."""


class FarShapeRow(ShapeRow):
    """Tasks that wait at another node."""

    node_id: str


class WorkerRow(TypedDict):
    """A worker."""

    number: int
    pid: int
    state: str
    inflight: int
    """How many tasks and calls it was sent that have not ended."""
    running: str
    """The actor that it hosts, or the task that it was sent first; empty if there is neither."""


class ActorRow(TypedDict):
    """An actor."""

    actor_id: str
    node_id: str
    """The node that decides about its life."""
    process_node_id: str
    """The node with its process; empty if it has none."""
    class_name: str
    state: str
    name: str
    namespace: str
    pid: int | None
    restarts: int
    pending_calls: int
    detached: bool
    death_cause: str


class AllActors(TypedDict):
    """The actors of all nodes that have answered in time."""

    actors: list[ActorRow]
    silent_nodes: list[str]
    """NodeIDs of those that have not."""


class DriverRow(TypedDict):
    """A driver."""

    pid: int
    client: int


class JobRow(TypedDict):
    """A job."""

    job_id: str
    node_id: str
    """The node that its driver is connected to."""
    namespace: str
    pid: int
    """Of its driver."""
    state: str
    """RUNNING, or ENDED: neither its driver nor a detached actor of it is left."""
    why: str
    """The reason of its end, for people; empty before."""


class GroupRow(TypedDict):
    """A placement group, as nodes and people see it."""

    group_id: bytes
    namespace: str
    name: str
    strategy: str
    state: str
    """PENDING, PREPARED, CREATED, RESCHEDULING or REMOVED."""
    bundles: Sequence[Sequence[tuple[str, int]]]
    """Name and fixed amount of each resource, for each bundle."""
    nodes: Sequence[bytes | None]
    """The node of each bundle; None while it has none."""
    attempts: int
    """How often the head chose nodes for it."""
    detached: bool
    why: str
    """Why it waits, for people; empty if it does not."""


class StoreUse(TypedDict):
    """Bytes of the object store."""

    capacity: int
    used: int
    reserved: int


class TaskCounts(TypedDict):
    """How many tasks have not ended, and how many of them wait for resources."""

    unfinished: int
    queued: int


class NodeRow(TypedDict):
    """A node, as ``nodes`` shows it. The names are Ray's."""

    NodeID: str
    Alive: bool
    State: str
    """ALIVE, LOST (the head's verdict) or LEFT (in order)."""
    DeathReasonMessage: str
    """How it ended, for people."""
    NodeName: str
    """The name that its user gave it."""
    NodeManagerAddress: str
    NodeManagerPort: int
    """Where other nodes connect; 0 of a node that is alone."""
    NodeManagerHostname: str
    Resources: dict[str, float]
    Available: dict[str, float]
    Labels: dict[str, str]


class ObjectRow(TypedDict):
    """An object."""

    object_id: str
    state: str
    size: int | None
    """Bytes in shared memory; None if its value travels in messages."""
    node_ids: list[str]
    processes: int
    """How many processes have refs to it."""
    uses: int


class NodeStatus(NodeFacts):
    """Everything that ``asyncray status`` shows."""

    node_id: str
    resources: dict[str, float]
    available: dict[str, float]
    nodes: list[NodeRow]
    """All nodes of the cluster, this one among them."""
    store: StoreUse
    objects: int
    tasks: TaskCounts
    jobs: int
    """How many jobs have tasks, functions or processes here, wherever their drivers are."""
    functions: int
    templates: int
    shapes: int
    waiting: list[ShapeRow]
    problem: str
    workers: list[WorkerRow]
    actors: list[ActorRow]
    groups: list[dict[str, Any]]
    """The placement groups: as ``GroupRow``, with IDs as text and plain amounts."""
    drivers: list[DriverRow]


class ClusterStatus(NodeStatus):
    """... of a node that belongs to a cluster."""

    waiting_elsewhere: list[FarShapeRow]
    silent_nodes: list[str]
    """Nodes that did not list their waiting tasks in time."""
