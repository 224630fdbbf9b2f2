"""The words that processes say to the daemon and back: message kinds, and kinds of values.

A message is a list whose first element is one of these small integers; what follows is written beside each. IDs are
bytes. ``kind, payload`` is always a value (see the second table). Frames of messages are the business of
``asyncray.wire``; what each message does is decided in ``asyncray.core``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

VERSION = 2
"""Changes whenever a message changes. Both ends must say the same."""

RELEASE = "0.1.0"
"""The version of asyncray, that of ``pyproject.toml``. Processes tell it each other for error messages."""

Message = Any
"""A list (as received) or tuple (as sent) that starts with a message kind. Typed by the handler that takes it."""

# From a driver or worker to its daemon ------------------------------------------------------------------------------
HELLO = 1  # version, role, info {..}
FUNCTION = 2  # digest, pickled function or class, nested refs | nil
TEMPLATE = 3  # number (the client's), digest of the spec, spec {..}
SUBMIT = 4  # task, template, kind, payload, dependencies | nil, nested refs | nil, parent task | nil, name | nil
CREATE = 5  # actor, template, kind, payload, dependencies | nil, nested refs | nil, parent task | nil
CALL = 6  # as SUBMIT, actor
PUT = 7  # object, kind, payload, nested refs | nil
ALLOCATE = 8  # request, bytes
SEAL = 9  # object, segment, offset, nested refs | nil
ADD_REFS = 10  # objects: this process now has refs to them
RELEASE_REFS = 11  # objects: this process has no more refs to them
SUBSCRIBE = 12  # objects: push their values when they are there
UNPIN = 13  # [[object, times]..]: views of these shared values are gone
BLOCKED = 14  # task: it waits for an object
UNBLOCKED = 15  # task
DONE = 16  # task, microseconds, kind, payload, nested refs | nil
DONE_MANY = 17  # task, microseconds, [[kind, payload, nested refs | nil]..]
FAILED = 18  # task, microseconds, kind, payload, retryable, nested refs | nil
NOT_STARTED = 19  # tasks that the worker gives back unstarted
CANCEL = 20  # task, force, recursive
KILL = 21  # actor, no_restart
REQUEST = 22  # request, method, arguments [..]
LEAVING = 23  # reason: this worker is about to end by its own will
ABANDON = 24  # segment, offset: an allocation that will not be sealed
ERROR_SEEN = 25  # object IDs whose error (or that of another one of them) was raised to the caller
PROMISE = 26  # object: a PUT or SEAL of it follows later; messages may use it already

# From the daemon to a driver or worker ------------------------------------------------------------------------------
WELCOME = 40  # info {..}
REFUSED = 41  # why
VALUE = 42  # object, kind, payload
ALLOCATED = 43  # request, segment, offset, warm
REPLY = 44  # request, value
REPLY_FAULT = 45  # request, exception name, fields {..}
RUN_GC = 46  # the store is full, or actors hold what others wait for: collect garbage, report released refs
RETIRED = 47  # segment: unmap it
OUTPUT = 48  # [[stream, prefix, line]..]
UNREAD = 49  # function, kind, payload, count: an error that nobody can read any more, and how many that makes
NOTICE = 50  # level (that of logging), text: what a person should know
STORE_FULL = 51  # request: there is no room now; its answer, ALLOCATED or REPLY_FAULT, follows later

# From the daemon to a worker ----------------------------------------------------------------------------------------
SETUP = 60  # job, {..}: whose work comes next, and what it needs
DEFINE = 61  # template number, spec {..}, pickled function or class | nil if the worker has it
LEASE = 62  # {devices, cpus}: what the tasks that follow may use
RUN = 63  # task, template, kind, payload, [[object, kind, payload]..] | nil, name | nil
RUN_NESTED = 64  # as RUN, on a thread beside the blocked ones
CONSTRUCT = 65  # as RUN, number of restarts, the actor's registered name: the worker becomes this actor
INVOKE = 66  # as RUN: a method of this worker's actor
STOP_TASK = 67  # task: drop it, or interrupt it
RETURN_QUEUED = 68  # return what is not started
LEAVE = 69  # reason: end when what was sent before is done

# Between the daemon and the zygote -----------------------------------------------------------------------------------
FORK = 80  # number: fork a worker
FORKED = 81  # number, pid
ENDED = 82  # number, pid, wait status or why it could not start: a worker is gone; pid 0: it was not forked
KILL_WORKER = 83  # number: kill a worker and what it started
LACKS_LOG = 84  # number, text: a worker starts without a log file, for the system's reason

# Kinds of values ----------------------------------------------------------------------------------------------------
UNRESOLVED = -1  # there is no value yet; never sent
PLAIN = 0  # pickle bytes
BUFFERS = 1  # [pickle bytes, buffer, ..]
SHARED = 2  # [segment, offset, size]
ERROR = 3  # an exception of user code, as asyncray.runtime.errors wrote it
FAULT = 4  # an exception of the system: [name, fields]
OBJECT = 5  # arguments only: the last dependency holds them

OUTPUT_MARK = "\x1e"
"""In a worker's log, before the name of a task (or actor) and a line feed: its output follows."""

NAMES = {value: name for name, value in list(globals().items()) if name.isupper() and isinstance(value, int)}


# Records ------------------------------------------------------------------------------------------------------------


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
    """The name and fixed amount of each resource."""
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
