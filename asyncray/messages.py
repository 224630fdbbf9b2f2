"""The messages between the daemon and other processes: message kinds, and kinds of values.

A message is a tuple that begins with its kind, a small integer. The type of the tuple and the names of its fields stand
below each kind. IDs are bytes. A value is always the two fields ``kind, payload``; the kinds of values come first here.
Messages are plain tuples, 0.15 us each, where a NamedTuple costs 0.3. Their types are written as text, because fifty
types of tuples would cost each process 4 ms at its start. ``asyncray.wire`` makes frames of messages, and
``asyncray.core`` decides what they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from asyncray.words import JobSetup, LeaseTerms, NodeWelcome, TemplateSpec, WorkerSpec

VERSION = 8
"""The version of the protocol: it changes whenever a message changes. Both ends must have the same."""

RELEASE = "0.1.0"
"""The version of asyncray, that of ``pyproject.toml``. Processes exchange it for error messages."""

# Kinds of values ----------------------------------------------------------------------------------------------------
# Plain integers, as they travel: to compare one with a member of an IntEnum takes 0.02 to 0.05 us more each time, and
# to make the member of a kind that has arrived 0.2 to 0.3 us, where a whole task takes 3.4 us in the core.
UNRESOLVED: Final = -1  # no value yet; never sent
PLAIN: Final = 0  # pickle bytes
BUFFERS: Final = 1  # (pickle bytes, buffer, ..)
# (segment, offset, size), and True behind these if it is a copy of another node's value.
SHARED: Final = 2
# An exception of user code, as ``asyncray.runtime.errors`` wrote it.
ERROR: Final = 3
# An exception of the system: (name, fields), and True behind these if there is a value, and only this read has failed.
FAULT: Final = 4
OBJECT: Final = 5  # arguments only: the last dependency holds them

ERRORS: Final = (ERROR, FAULT)
"""The kinds of values that are raised where they are read."""

Kind: TypeAlias = int
Payload: TypeAlias = Any
"""The value itself, in the form that its kind names."""

Ids: TypeAlias = Sequence[bytes]
Refs: TypeAlias = Sequence[bytes] | None
"""Objects to which a value, or an argument, contains refs."""

Value: TypeAlias = tuple[Kind, Payload, Refs]
"""A return value, and the refs inside it."""

# From a driver or worker to its daemon -------------------------------------------------------------------------------
HELLO: Final = 1
HelloMessage: TypeAlias = "tuple[Literal[1], int, str, dict[str, Any]]"
"""version, role, facts about the process (``asyncray.node.greetings``). Answer: WELCOME, or REFUSED"""

FUNCTION: Final = 2
FunctionMessage: TypeAlias = "tuple[Literal[2], int, bytes, bytes, Refs]"
"""number (the client's, never used again), digest, pickled function or class, refs inside"""

TEMPLATE: Final = 3
TemplateMessage: TypeAlias = "tuple[Literal[3], int, bytes, TemplateSpec]"
"""number (the client's, as of functions), digest of the spec, spec"""

SUBMIT: Final = 4
SubmitMessage: TypeAlias = "tuple[Literal[4], bytes, int, Kind, Payload, Refs, Refs, bytes | None, str | None]"
"""task, template, kind, payload, dependencies, refs inside the arguments, parent task, name of this call"""

CREATE: Final = 5
CreateMessage: TypeAlias = "tuple[Literal[5], bytes, int, Kind, Payload, Refs, Refs, bytes | None]"
"""actor, template, kind, payload, dependencies, refs inside the arguments, parent task"""

CALL: Final = 6
CallMessage: TypeAlias = "tuple[Literal[6], bytes, int, Kind, Payload, Refs, Refs, bytes | None, str | None, bytes]"
"""as SUBMIT, actor"""

PUT: Final = 7
PutMessage: TypeAlias = "tuple[Literal[7], bytes, Kind, Payload, Refs]"
"""object, kind, payload, refs inside"""

ALLOCATE: Final = 8
AllocateMessage: TypeAlias = "tuple[Literal[8], int, int]"
"""request, bytes. Answer: ALLOCATED, or REPLY_FAULT; before it STORE_FULL if the answer takes time"""

SEAL: Final = 9
SealMessage: TypeAlias = "tuple[Literal[9], bytes, str, int, Refs]"
"""object, segment, offset, refs inside"""

ADD_REFS: Final = 10
AddRefsMessage: TypeAlias = "tuple[Literal[10], Ids]"
"""objects: this process now has refs to them"""

RELEASE_REFS: Final = 11
ReleaseRefsMessage: TypeAlias = "tuple[Literal[11], Ids]"
"""objects: this process has no more refs to them"""

SUBSCRIBE: Final = 12
SubscribeMessage: TypeAlias = "tuple[Literal[12], Ids]"
"""objects: push their values once they exist. Answer: a VALUE for each, at any time"""

UNPIN: Final = 13
UnpinMessage: TypeAlias = "tuple[Literal[13], Sequence[tuple[bytes, int]]]"
"""(object, times)..: this process has no more views of these shared values"""

BLOCKED: Final = 14
BlockedMessage: TypeAlias = "tuple[Literal[14], bytes]"
"""task: it waits for an object"""

UNBLOCKED: Final = 15
UnblockedMessage: TypeAlias = "tuple[Literal[15], bytes]"
"""task"""

DONE: Final = 16
DoneMessage: TypeAlias = "tuple[Literal[16], bytes, int, Kind, Payload, Refs]"
"""task, microseconds, kind, payload, refs inside"""

DONE_MANY: Final = 17
DoneManyMessage: TypeAlias = "tuple[Literal[17], bytes, int, Sequence[Value]]"
"""task, microseconds, values"""

FAILED: Final = 18
FailedMessage: TypeAlias = "tuple[Literal[18], bytes, int, Kind, Payload, bool, Refs]"
"""task, microseconds, kind, payload, retryable, refs inside"""

NOT_STARTED: Final = 19
NotStartedMessage: TypeAlias = "tuple[Literal[19], Ids]"
"""tasks that the worker returns, because it has not started them"""

CANCEL: Final = 20
CancelMessage: TypeAlias = "tuple[Literal[20], bytes, bool, bool]"
"""task, force, recursive"""

KILL: Final = 21
KillMessage: TypeAlias = "tuple[Literal[21], bytes, bool]"
"""actor, no_restart"""

REQUEST: Final = 22
RequestMessage: TypeAlias = "tuple[Literal[22], int, str, Sequence[Any]]"
"""request, method, arguments. Answer: REPLY, or REPLY_FAULT"""

LEAVING: Final = 23
LeavingMessage: TypeAlias = "tuple[Literal[23], str]"
"""reason: this worker ends now, by its own will"""

ABANDON: Final = 24
AbandonMessage: TypeAlias = "tuple[Literal[24], str, int]"
"""segment, offset: the client will not seal this allocation"""

ERROR_SEEN: Final = 25
ErrorSeenMessage: TypeAlias = "tuple[Literal[25], Ids]"
"""objects whose error, or that of one of the others, was raised to the caller"""

PROMISE: Final = 26
PromiseMessage: TypeAlias = "tuple[Literal[26], bytes]"
"""object: a PUT or SEAL of it follows later; messages may use it already"""

OUTPUT_LOST: Final = 27
OutputLostMessage: TypeAlias = "tuple[Literal[27], str]"
"""reason: the system has no room for what this worker prints"""

FORGET: Final = 28
ForgetMessage: TypeAlias = "tuple[Literal[28], Sequence[int]]"
"""numbers (the client's) of functions and templates that it uses no more"""

GROUP_READY: Final = 29
GroupReadyMessage: TypeAlias = "tuple[Literal[29], bytes, bytes, bytes]"
"""placement group, object, pickled value: the object exists from now on, and gets the value with the group's bundles"""

SUBSCRIBE_ANYWHERE: Final = 30
SubscribeAnywhereMessage: TypeAlias = "tuple[Literal[30], Ids]"
"""objects: as SUBSCRIBE, but large values stay at other nodes. Answer: a VALUE or AWAY for each, at any time"""

# From the daemon to a driver or worker -------------------------------------------------------------------------------
WELCOME: Final = 40
WelcomeMessage: TypeAlias = "tuple[Literal[40], NodeWelcome]"
"""facts about the node"""

REFUSED: Final = 41
RefusedMessage: TypeAlias = "tuple[Literal[41], str]"
"""why"""

VALUE: Final = 42
ValueMessage: TypeAlias = "tuple[Literal[42], bytes, Kind, Payload]"
"""object, kind, payload"""

ALLOCATED: Final = 43
AllocatedMessage: TypeAlias = "tuple[Literal[43], int, str, int, bool]"
"""request, segment, offset, warm"""

REPLY: Final = 44
ReplyMessage: TypeAlias = "tuple[Literal[44], int, Any]"
"""request, value"""

REPLY_FAULT: Final = 45
ReplyFaultMessage: TypeAlias = "tuple[Literal[45], int, str, dict[str, Any]]"
"""request, exception name, fields"""

RUN_GC: Final = 46
RunGcMessage: TypeAlias = "tuple[Literal[46]]"
"""the store is full, or actors hold what others wait for: collect garbage, report released refs"""

RETIRED: Final = 47
RetiredMessage: TypeAlias = "tuple[Literal[47], str]"
"""segment: unmap it"""

OUTPUT: Final = 48
OutputMessage: TypeAlias = "tuple[Literal[48], Sequence[tuple[str, str, str]]]"
"""(stream, prefix, line).."""

UNREAD: Final = 49
UnreadMessage: TypeAlias = "tuple[Literal[49], str, Kind, Payload, int]"
"""function, kind, payload, count: an error that nobody can read any more, and how many that makes"""

NOTICE: Final = 50
NoticeMessage: TypeAlias = "tuple[Literal[50], int, str]"
"""level (that of logging), text: a notice for people"""

STORE_FULL: Final = 51
StoreFullMessage: TypeAlias = "tuple[Literal[51], int]"
"""request: no room is free now; the answer, ALLOCATED or REPLY_FAULT, follows later"""

AWAY: Final = 53
AwayMessage: TypeAlias = "tuple[Literal[53], bytes, bool]"
"""object, comes: its value is on another node. It comes here by itself, or if this process subscribes to it"""

DISCONNECT: Final = 52
DisconnectMessage: TypeAlias = "tuple[Literal[52], str, bool]"
"""reason, whether the daemon's log says more: the daemon ends this connection. No other message follows"""

# From the daemon to a worker -----------------------------------------------------------------------------------------
SETUP: Final = 60
SetupMessage: TypeAlias = "tuple[Literal[60], bytes, JobSetup]"
"""job, its setup: the tasks that follow are of this job"""

DEFINE: Final = 61
DefineMessage: TypeAlias = "tuple[Literal[61], int, WorkerSpec, bytes | None]"
"""template number, spec, pickled function or class; nil if the worker has it"""

LEASE: Final = 62
LeaseMessage: TypeAlias = "tuple[Literal[62], LeaseTerms]"
"""resources that the tasks that follow may use"""
Dependencies: TypeAlias = Sequence[tuple[bytes, Kind, Payload]] | None
"""(object, kind, payload)..: the values of a task's dependencies."""

RUN: Final = 63
RunMessage: TypeAlias = "tuple[Literal[63], bytes, int, Kind, Payload, Dependencies, str | None]"
"""task, template, kind, payload, values of the dependencies, name of this call"""

RUN_NESTED: Final = 64
RunNestedMessage: TypeAlias = "tuple[Literal[64], bytes, int, Kind, Payload, Dependencies, str | None]"
"""as RUN, on a thread beside the blocked ones"""

CONSTRUCT: Final = 65
ConstructMessage: TypeAlias = "tuple[Literal[65], bytes, int, Kind, Payload, Dependencies, str | None, int, str]"
"""as RUN, number of restarts, the actor's registered name: the worker becomes this actor"""

INVOKE: Final = 66
InvokeMessage: TypeAlias = "tuple[Literal[66], bytes, int, Kind, Payload, Dependencies, str | None]"
"""as RUN: a method of this worker's actor. Answer, as to the three above: DONE, DONE_MANY or FAILED"""

STOP_TASK: Final = 67
StopTaskMessage: TypeAlias = "tuple[Literal[67], bytes]"
"""task: drop it, or interrupt it"""

RETURN_QUEUED: Final = 68
ReturnQueuedMessage: TypeAlias = "tuple[Literal[68]]"
"""return the tasks that have not started. Answer: NOT_STARTED, if there are any"""

LEAVE: Final = 69
LeaveMessage: TypeAlias = "tuple[Literal[69], str]"
"""reason: end when all tasks that were sent before have finished"""

UNDEFINE: Final = 70
UndefineMessage: TypeAlias = "tuple[Literal[70], Sequence[int], Sequence[int]]"
"""numbers of templates, numbers of functions: nothing that is sent later uses them"""

# Between the daemon and the zygote -----------------------------------------------------------------------------------
FORK: Final = 80
ForkMessage: TypeAlias = "tuple[Literal[80], int]"
"""number: fork a worker. Answer: FORKED and, when it has ended, ENDED; or only ENDED"""

FORKED: Final = 81
ForkedMessage: TypeAlias = "tuple[Literal[81], int, int]"
"""number, pid"""

ENDED: Final = 82
EndedMessage: TypeAlias = "tuple[Literal[82], int, int, int | str]"
"""number, pid, wait status or why it could not start: a worker has ended; pid 0: it was not forked"""

KILL_WORKER: Final = 83
KillWorkerMessage: TypeAlias = "tuple[Literal[83], int]"
"""number: kill a worker and the processes that it started"""

LACKS_LOG: Final = 84
LacksLogMessage: TypeAlias = "tuple[Literal[84], int, str]"
"""number, text: a worker starts without a log file, for the system's reason"""

# All of them ----------------------------------------------------------------------------------------------------------
ToDaemon: TypeAlias = """(
    HelloMessage
    | FunctionMessage
    | TemplateMessage
    | SubmitMessage
    | CreateMessage
    | CallMessage
    | PutMessage
    | AllocateMessage
    | SealMessage
    | AddRefsMessage
    | ReleaseRefsMessage
    | SubscribeMessage
    | UnpinMessage
    | BlockedMessage
    | UnblockedMessage
    | DoneMessage
    | DoneManyMessage
    | FailedMessage
    | NotStartedMessage
    | CancelMessage
    | KillMessage
    | RequestMessage
    | LeavingMessage
    | AbandonMessage
    | ErrorSeenMessage
    | PromiseMessage
    | OutputLostMessage
    | ForgetMessage
    | GroupReadyMessage
    | SubscribeAnywhereMessage
)"""
"""Messages of drivers and workers."""

ToClient: TypeAlias = """(
    WelcomeMessage
    | RefusedMessage
    | ValueMessage
    | AllocatedMessage
    | ReplyMessage
    | ReplyFaultMessage
    | RunGcMessage
    | RetiredMessage
    | OutputMessage
    | UnreadMessage
    | NoticeMessage
    | StoreFullMessage
    | AwayMessage
    | DisconnectMessage
)"""
"""Messages of the daemon to any client."""

ToWorker: TypeAlias = """(
    SetupMessage
    | DefineMessage
    | LeaseMessage
    | RunMessage
    | RunNestedMessage
    | ConstructMessage
    | InvokeMessage
    | StopTaskMessage
    | ReturnQueuedMessage
    | LeaveMessage
    | UndefineMessage
)"""
"""Messages of the daemon to workers only."""

OfZygote: TypeAlias = "ForkMessage | ForkedMessage | EndedMessage | KillWorkerMessage | LacksLogMessage"
"""Messages between daemon and zygote."""

WorkMessage: TypeAlias = "RunMessage | RunNestedMessage | ConstructMessage | InvokeMessage"
"""Messages with a task or call that a worker runs."""

Message: TypeAlias = "ToDaemon | ToClient | ToWorker | OfZygote"
Received: TypeAlias = Any
"""A message that was received. The decoder promises a tuple; the handler of its kind has the exact type."""

OUTPUT_MARK = "\x1easyncray\x1e"
"""In a worker's log, before the name of a task (or actor) and a line feed: its output follows.

A separator alone would not do: programs print binary data, and JSON text sequences, whose records begin with one.
"""
