"""Records with fixed keys that processes tell each other, as types of plain dicts.

For type checkers: what uses them imports them under ``TYPE_CHECKING``, as they cost each process a millisecond at its
start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, Required, TypedDict


class Interpreter(TypedDict):
    """Which Python a process runs, and with which asyncray."""

    executable: str
    prefix: str
    """Names the environment: where its packages are."""
    python: str
    """Implementation and version, e.g. "cpython 3.11": code objects of one are of no use to another."""
    asyncray: str
    """Its version."""


class CodePaths(TypedDict):
    """The program's entries of a driver's ``sys.path``, by where they stand in it.

    All are absolute, except names that a path hook of an installed package understands.
    """

    before: list[str]
    """In front of the standard library."""
    between: list[str]
    """Behind the standard library, in front of the installed packages."""
    after: list[str]
    """Behind the installed packages."""


class JobSetup(TypedDict):
    """What the workers of a job must know of its driver."""

    code_paths: CodePaths
    directory: str | None
    """Where the driver runs; None if that was deleted."""
    interpreter: Interpreter
    log_to_driver: bool
    namespace: str


class LeaseTerms(TypedDict):
    """What the tasks that a worker gets next may use."""

    demand: Sequence[tuple[str, int]]
    """Name and fixed amount of each resource."""
    devices: Sequence[int]
    """Numbers of GPUs."""
    cpus: int


class NodeAmounts(TypedDict):
    """What a node has; None stands for what the machine has."""

    num_cpus: float | None
    num_gpus: float | None
    resources: dict[str, float] | None
    object_store_memory: int | None


class NodeConfig(TypedDict):
    """What the process that starts a daemon tells it, as JSON."""

    directory: str
    """The session's."""
    lock: int
    """The descriptor that holds the session's lock."""
    driver: int | None
    """The descriptor of the connection to the driver that this node is for; None for a node of `asyncray node`."""
    amounts: NodeAmounts


class FunctionOptions(TypedDict, total=False):
    """What of a template only workers need, and what of an actor's the daemon needs beside its demands."""

    shown: str
    """Module-qualified name, for people."""
    max_calls: int
    """Of one process; 0: any number."""
    retry_on: bool | bytes
    """Which exceptions are tried again after: none, all, or the classes in this pickle."""
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


class TemplateSpec(TypedDict):
    """A function, constructor or method with its options, as a client describes it once."""

    name: str
    function: bytes
    """Digest of what FUNCTION brought; of a method nothing."""
    returns: int
    retries: int
    demand: Sequence[tuple[str, int]]
    life: NotRequired[Sequence[tuple[str, int]]]
    """What an actor holds once it is constructed."""
    options: NotRequired[FunctionOptions]


class WorkerSpec(FunctionOptions):
    """What a worker must know of a template."""

    name: str
    returns: int
    function: bytes


class NodeFacts(TypedDict, total=False):
    """What processes and tools hear of a node."""

    address: str
    """Of its socket."""
    session: str
    """Name of its session."""
    session_dir: str
    ip: str
    hostname: str
    interpreter: Interpreter
    pid: int
    store_warning: str
    """What is wrong with shared memory, or nothing."""


class NodeWelcome(NodeFacts, total=False):
    """What every process must know of its node. A driver's job is named at once, a worker's by SETUP."""

    client_id: Required[bytes]
    node_id: Required[bytes]
    job_id: bytes
    namespace: str
