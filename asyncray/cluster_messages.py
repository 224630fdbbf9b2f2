"""The messages between daemons, and between a daemon and the head.

As in ``asyncray.messages``, a message is a tuple that begins with its kind, and the type of the tuple stands below the
kind. A word that exists between a process and its daemon with the same fields and meaning is the same constant here;
any other has its own. Only daemons that belong to a cluster import this module.

Messages between two nodes travel in numbered frames (``asyncray.core.cluster.links``): each arrives once and in order
as long as both daemons live. So no message here needs an answer to the question of what happens if it is lost or comes
twice. Control messages of a link stand outside of the numbering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from asyncray.cluster_words import ClusterRow, MemberFacts
    from asyncray.messages import Ids, Kind, Message, Payload, Refs, Value
    from asyncray.units import Demand
    from asyncray.words import GroupRow, JobSetup, TemplateSpec

MemberEntry: TypeAlias = "tuple[MemberFacts, int, ClusterRow]"
"""A member: the facts about it, and its row with the version of the row."""

ArgumentValue: TypeAlias = "tuple[bytes, Kind, Payload, Refs]"
"""An object, its kind and payload, and the refs inside it."""

# Control of a link: not numbered --------------------------------------------------------------------------------------
RESUME: Final = 100
ResumeMessage: TypeAlias = "tuple[Literal[100], int, int]"
"""connection, last frame received: the first message of each side on a new connection"""

PING: Final = 101
PingMessage: TypeAlias = "tuple[Literal[101]]"
"""Answer: ACK"""

ACK: Final = 102
AckMessage: TypeAlias = "tuple[Literal[102]]"
"""nothing to say: the frame's header acknowledges"""

# Between two nodes: references ----------------------------------------------------------------------------------------
BORROW: Final = 110
BorrowMessage: TypeAlias = "tuple[Literal[110], int, Ids]"
"""batch, objects of the receiver: the sender has refs to them. Answer: BORROWED"""

BORROWED: Final = 111
BorrowedMessage: TypeAlias = "tuple[Literal[111], int, Ids]"
"""batch, objects of it that do not exist any more. The others are registered"""

UNBORROW: Final = 112
UnborrowMessage: TypeAlias = "tuple[Literal[112], Ids]"
"""objects of the receiver: the sender has no refs to them any more"""

RESOLVE: Final = 113
ResolveMessage: TypeAlias = "tuple[Literal[113], Ids]"
"""objects of the receiver: send their values once they exist. Answer: a VALUE_OF for each, at any time"""

VALUE_OF: Final = 114
ValueOfMessage: TypeAlias = "tuple[Literal[114], bytes, Kind, Payload, Refs]"
"""object of the sender, kind, payload, refs inside"""

CANCEL_AT_HOME: Final = 129
CancelAtHomeMessage: TypeAlias = "tuple[Literal[129], bytes, bool, bool]"
"""task of the receiver, force, recursive: a process of the sender cancels it"""

# Between two nodes: large objects ------------------------------------------------------------------------------------
# A value in shared memory is known by its object and its version: the attempt of the task that made it, or 0 for memory
# that the owner's own node made. Other attempts may have made other bytes.
Versions: TypeAlias = "Sequence[tuple[bytes, int]]"
"""(object, version).."""

LOCATED: Final = 130
LocatedMessage: TypeAlias = "tuple[Literal[130], bytes, int, int, Refs]"
"""object of the sender, version, bytes, refs inside: as VALUE_OF, for a value that is fetched once there is room"""

SEEK: Final = 131
SeekMessage: TypeAlias = "tuple[Literal[131], bytes, int, int]"
"""object of the receiver, version, number: name a node to fetch it from. Answer: SOURCE, at any time; or a VALUE_OF or
LOCATED, because there is no such version (any more)"""

SOURCE: Final = 132
SourceMessage: TypeAlias = "tuple[Literal[132], bytes, int, int, bytes]"
"""object of the sender, version, number of the SEEK, node to fetch it from. Answer: exactly one of HOLDING,
SOURCE_FAILED and UNHOLD"""

SOURCE_FAILED: Final = 133
SourceFailedMessage: TypeAlias = "tuple[Literal[133], bytes, int, int, bytes]"
"""object of the receiver, version, number of the SEEK, node: it does not have the version. The sender still seeks"""

HOLDING: Final = 134
HoldingMessage: TypeAlias = "tuple[Literal[134], Versions]"
"""objects of the receiver of which the sender has complete copies"""

UNHOLD: Final = 135
UnholdMessage: TypeAlias = "tuple[Literal[135], Versions]"
"""objects of the receiver of which the sender has no copies any more, or which it seeks no more"""

FREE: Final = 136
FreeMessage: TypeAlias = "tuple[Literal[136], Versions]"
"""objects of the sender that nothing needs: the receiver drops its copies"""

PROMOTE: Final = 137
PromoteMessage: TypeAlias = "tuple[Literal[137], Versions]"
"""objects of the sender: the receiver's copies must stay until FREE. If it has dropped one, its UNHOLD is under way"""

ObjectMessage: TypeAlias = "SeekMessage | SourceFailedMessage | HoldingMessage | UnholdMessage"
"""Messages to the owner of an object from a node that has a copy of it, or wants one."""

FETCH: Final = 138
FetchMessage: TypeAlias = "tuple[Literal[138], int, bytes, int, int]"
"""transfer (the sender's number), object, version, position: send the bytes from there on by the bulk connection"""

FETCHED: Final = 139
FetchedMessage: TypeAlias = "tuple[Literal[139], int]"
"""transfer: the sender reads no more of it, whether it has all bytes or not. Each FETCH is followed by one"""

GONE: Final = 140
GoneMessage: TypeAlias = "tuple[Literal[140], int, bool]"
"""transfer: nothing more of it is sent. True: the receiver may ask again, because only the connection broke; False:
there is no such copy here"""

COLLECT: Final = 141
CollectMessage: TypeAlias = "tuple[Literal[141]]"
"""The sender's store is full: the receiver's processes may hold refs to objects there in cycles, and collect garbage"""

# Between two nodes: tasks ---------------------------------------------------------------------------------------------
JOB_OF: Final = 115
JobOfMessage: TypeAlias = "tuple[Literal[115], bytes, str, JobSetup, bytes]"
"""job, namespace, facts for its workers, node of its driver: templates of the job follow"""

FUNCTION_OF: Final = 116
FunctionOfMessage: TypeAlias = "tuple[Literal[116], bytes, int, bytes, bytes, Refs]"
"""job, number of the sender, digest, pickled, objects that it captures"""

TEMPLATE_OF: Final = 117
TemplateOfMessage: TypeAlias = "tuple[Literal[117], bytes, int, bytes, TemplateSpec]"
"""job, number of the sender, digest, spec"""

FORGET_OF: Final = 118
ForgetOfMessage: TypeAlias = "tuple[Literal[118], bytes, Sequence[int]]"
"""job, numbers of functions and templates that no task of the sender needs any more. Answer: RELEASED for each function
that captures objects"""

RELEASED: Final = 119
ReleasedMessage: TypeAlias = "tuple[Literal[119], int]"
"""number of the receiver's function: the objects that it captures need not be kept for the sender any more"""

TASK: Final = 121
TaskMessage: TypeAlias = """(
    tuple[Literal[121], int, bytes, int, Kind, Payload, Sequence[ArgumentValue] | None, Refs, str | None, int, bool]
)"""
"""attempt, task, number of the template, kind and payload of the arguments, values of the objects among them, refs
inside them, name for this call, depth, whether it may start more than once. Answer: RESULT or BACK"""

RESULT: Final = 122
ResultMessage: TypeAlias = "tuple[Literal[122], int, int, Sequence[Value], int, bool]"
"""attempt, mean run time in microseconds, return values, how the task ended (``cluster_words``), whether the refs that
came with it are still in use: DONE_WITH follows then. Answer, if the values contain refs: CLAIMED"""

BACK: Final = 123
BackMessage: TypeAlias = "tuple[Literal[123], int, int, bool]"
"""attempt, why (``cluster_words``), whether refs are still in use: the task will not start, and has not started either,
unless the reason says that it may have"""

DONE_WITH: Final = 124
DoneWithMessage: TypeAlias = "tuple[Literal[124], int]"
"""attempt: the refs that came with it need not be kept for the sender any more"""

TAKE_BACK: Final = 125
TakeBackMessage: TypeAlias = "tuple[Literal[125], Sequence[int], int]"
"""attempts, how many of them: the sender knows free places for so many. Answer: BACK for those that have not started,
perhaps fewer"""

SLOTS: Final = 126
SlotsMessage: TypeAlias = "tuple[Literal[126], int, int]"
"""number of the receiver's template, how many tasks with its demand the sender can run side by side for the receiver"""

CANCEL_TASK: Final = 127
CancelTaskMessage: TypeAlias = "tuple[Literal[127], int, bool, bool]"
"""attempt, force, recursive"""

CLAIMED: Final = 128
ClaimedMessage: TypeAlias = "tuple[Literal[128], int]"
"""attempt: the refs in its result need not be kept for the sender any more"""

# Between two nodes: actors --------------------------------------------------------------------------------------------
CONSTRUCT_AT: Final = 170
ConstructAtMessage: TypeAlias = """(
    tuple[
        Literal[170], int, bytes, int, Kind, Payload, Sequence[ArgumentValue] | None, Refs, int, int, str
    ]
)"""
"""attempt, actor, number of the template, kind and payload of the arguments, values of the objects among them, refs
inside them, depth, how often the actor was restarted, its name or empty: the receiver gives the actor a process.
Answer: SEATED and later RESULT, or only RESULT, or BACK"""

SEATED: Final = 171
SeatedMessage: TypeAlias = "tuple[Literal[171], int, int]"
"""attempt, pid of the process: the constructor has returned. RESULT follows when the process has ended"""

CONSTRUCTOR_WAITS: Final = 180
ConstructorWaitsMessage: TypeAlias = "tuple[Literal[180], int]"
"""attempt: the constructor has not begun, because the sender has no room for it at present"""

END_SEAT: Final = 172
EndSeatMessage: TypeAlias = "tuple[Literal[172], int, bool, str]"
"""attempt, whether the process may finish in order, why. Answer: RESULT

If it may, a constructor that has begun goes on: SEATED or RESULT follows, and after SEATED the home says this again."""

CALL_AT: Final = 173
CallAtMessage: TypeAlias = """(
    tuple[
        Literal[173], int, bytes, int, Kind, Payload, Sequence[ArgumentValue] | None, Refs, str | None, bytes, int, bool
    ]
)"""
"""As TASK, without the depth, but with actor and incarnation before the last field. Answer: RESULT, or BACK if the
receiver does not have the actor, or not in this incarnation"""

LOCATE: Final = 174
LocateMessage: TypeAlias = "tuple[Literal[174], bytes]"
"""actor of the receiver: the sender has calls for it. Answer: SEAT_OF, now and at each change, until FORGET_ACTOR"""

SEAT_OF: Final = 175
SeatOfMessage: TypeAlias = "tuple[Literal[175], bytes, str, bytes, int, bool, int, Any]"
"""actor of the sender, its state, node, incarnation, whether calls keep their order, how many calls to send ahead, the
fault of its calls or None"""

FORGET_ACTOR: Final = 176
ForgetActorMessage: TypeAlias = "tuple[Literal[176], bytes]"
"""actor of the receiver: the sender wants no SEAT_OF any more"""

KILL_ACTOR: Final = 177
KillActorMessage: TypeAlias = "tuple[Literal[177], bytes, bool]"
"""actor of the receiver, whether it must not start again: as KILL"""

ADOPT: Final = 178
AdoptMessage: TypeAlias = """(
    tuple[
        Literal[178], int, str, JobSetup, bytes, bytes, tuple[str, str] | None, bool, bytes,
        tuple[bytes, bytes, Refs], tuple[bytes, TemplateSpec], tuple[Kind, Payload, Refs, Refs]
    ]
)"""
"""number of the request, namespace and setup of the job, the job, node of its driver, name, whether an actor that has
the name will do, handle, function (digest, pickled, refs that it captures), template (digest, spec), constructor (kind,
payload, arguments, refs inside them): the head's node shall make this detached actor. Answer: ADOPTED"""

ADOPTED: Final = 179
AdoptedMessage: TypeAlias = "tuple[Literal[179], int, Sequence[Any]]"
"""number of the request, answer: actor and handle, or the reason. The refs need not be kept for the sender any more"""

# Between two nodes: for people ----------------------------------------------------------------------------------------
FOR_DRIVER: Final = 200
ForDriverMessage: TypeAlias = "tuple[Literal[200], bytes, Message]"
"""job of the receiver, message for its driver: NOTICE, UNREAD or RUN_GC"""

OUTPUT_OF: Final = 201
OutputOfMessage: TypeAlias = "tuple[Literal[201], bytes, int, Sequence[Sequence[str]]]"
"""job of the receiver, characters, (stream, prefix, text)..: workers of the sender have printed this. Answer:
OUTPUT_READ, once the driver has read it"""

OUTPUT_READ: Final = 202
OutputReadMessage: TypeAlias = "tuple[Literal[202], bytes, int]"
"""job of the sender, characters: its driver has read so much of the receiver's output"""

LAST_OUTPUT: Final = 203
LastOutputMessage: TypeAlias = "tuple[Literal[203], bytes]"
"""job of the sender: its driver is about to end. Answer: the last output and unread errors, then LAST_DONE"""

LAST_DONE: Final = 204
LastDoneMessage: TypeAlias = "tuple[Literal[204], bytes, Ids]"
"""job of the receiver, nodes that the sender told the job"""

NODE_ENDED_FOR: Final = 205
NodeEndedForMessage: TypeAlias = "tuple[Literal[205], bytes, bytes, str]"
"""job of the receiver, node, how it ended: the sender had told that node the job"""

PeopleMessage: TypeAlias = """(
    ForDriverMessage | OutputOfMessage | OutputReadMessage | LastOutputMessage | LastDoneMessage | NodeEndedForMessage
)"""

# From a node to the head ----------------------------------------------------------------------------------------------
JOIN: Final = 150
JoinMessage: TypeAlias = "tuple[Literal[150], MemberFacts, ClusterRow]"
"""the facts about the node that never change, its row. Answer: JOINED, or TURNED_AWAY"""

BEAT: Final = 151
BeatMessage: TypeAlias = "tuple[Literal[151], int, Mapping[str, Any], Ids]"
"""version of the row, the fields of the row that changed, lost nodes from which the sender needs nothing any more"""

LEAVING_CLUSTER: Final = 152
LeavingClusterMessage: TypeAlias = "tuple[Literal[152], str]"
"""reason: the node ends in order. Answer: LEFT"""

ASK: Final = 153
AskMessage: TypeAlias = "tuple[Literal[153], int, str, Sequence[Any]]"
"""question, method, arguments. Answer: ANSWER, at any time"""

COMPLAINT: Final = 154
ComplaintMessage: TypeAlias = "tuple[Literal[154], bytes, float]"
"""node, seconds: the link to this node has been broken for so long"""

INQUIRY_ANSWER: Final = 155
InquiryAnswerMessage: TypeAlias = "tuple[Literal[155], int, bool, Any]"
"""inquiry, True and a value, or False and a fault (exception name, fields)"""

# From the head to a node ----------------------------------------------------------------------------------------------
JOINED: Final = 160
JoinedMessage: TypeAlias = """(
    tuple[Literal[160], bytes, int, float, int, int, int, int, Sequence[MemberEntry] | None]
)"""
"""cluster, epoch, seconds between beats, first job number, how many job numbers, number of the last view, place of the
node in the order of joining, the other members; None: the next view lists all members, and the node joins with it"""

TURNED_AWAY: Final = 161
TurnedAwayMessage: TypeAlias = "tuple[Literal[161], str]"
"""why: the node cannot be a member"""

VIEW: Final = 162
ViewMessage: TypeAlias = """(
    tuple[
        Literal[162],
        int,
        Sequence[MemberEntry],
        Sequence[tuple[bytes, str, str]],
        Sequence[tuple[bytes, int, Mapping[str, Any]]],
        Ids,
    ]
)"""
"""number of the view, nodes that joined, nodes that ended (node, LOST or LEFT, how), rows (node, version, changed
fields), ended nodes from which no member needs anything any more"""

FENCED: Final = 163
FencedMessage: TypeAlias = "tuple[Literal[163], str]"
"""why: the cluster has declared this node lost. It must end"""

LEFT_CLUSTER: Final = 164
LeftClusterMessage: TypeAlias = "tuple[Literal[164]]"
"""the node is a member no more, by its own wish"""

ANSWER: Final = 165
AnswerMessage: TypeAlias = "tuple[Literal[165], int, bool, Any]"
"""question, True and a value, or False and a fault (exception name, fields)"""

HEAD_ENDS: Final = 166
HeadEndsMessage: TypeAlias = "tuple[Literal[166], str]"
"""why: the head ends in order, and the cluster with it. The node must end"""

INQUIRY: Final = 167
InquiryMessage: TypeAlias = "tuple[Literal[167], int, str, Sequence[Any]]"
"""inquiry, method, arguments: a question that only this node can answer. Answer: INQUIRY_ANSWER"""

JOBS_OVER: Final = 168
JobsOverMessage: TypeAlias = "tuple[Literal[168], Ids]"
"""jobs: their drivers have ended, and nothing of them outlives the drivers"""

PACE: Final = 169
PaceMessage: TypeAlias = "tuple[Literal[169], float]"
"""seconds between beats from now on: the cluster has become larger, or smaller"""

# Between the head and a node: placement groups ------------------------------------------------------------------------
# A bundle is named by its index and the attempt of its present place. ``BundleNames`` is a list of both.
BundleNames: TypeAlias = Sequence[tuple[int, int]]

PREPARE: Final = 190
PrepareMessage: TypeAlias = "tuple[Literal[190], bytes, Sequence[tuple[int, int, Demand]], bool]"
"""group, (index, attempt, demand) of each bundle, patient: set these bundles aside, all or none. Answer: PREPARED"""

COMMIT: Final = 191
CommitMessage: TypeAlias = "tuple[Literal[191], bytes, BundleNames]"
"""group, bundles: tasks may use them. Answer: COMMITTED"""

ABORT: Final = 192
AbortMessage: TypeAlias = "tuple[Literal[192], bytes, BundleNames]"
"""group, bundles: they are not wanted any more, and no task has used them"""

RELEASE_BUNDLES: Final = 193
ReleaseBundlesMessage: TypeAlias = "tuple[Literal[193], bytes, BundleNames]"
"""group, bundles: the group is removed, and with it all that uses them"""

GROUP: Final = 194
GroupMessage: TypeAlias = "tuple[Literal[194], GroupRow]"
"""a group that the node watches has changed"""

PREPARED: Final = 195
PreparedMessage: TypeAlias = "tuple[Literal[195], bytes, BundleNames, bool]"
"""group, bundles, True if they are set aside"""

COMMITTED: Final = 196
CommittedMessage: TypeAlias = "tuple[Literal[196], bytes, BundleNames]"
"""group, bundles"""

UNSURE: Final = 197
UnsureMessage: TypeAlias = "tuple[Literal[197], bytes, BundleNames]"
"""group, bundles that have been prepared for long. Answer: COMMIT or ABORT, or none while nothing is decided"""

LinkControl: TypeAlias = "ResumeMessage | PingMessage | AckMessage"
ToHead: TypeAlias = (
    "JoinMessage | BeatMessage | LeavingClusterMessage | AskMessage | ComplaintMessage | InquiryAnswerMessage"
    " | PreparedMessage | CommittedMessage | UnsureMessage"
)
ToMember: TypeAlias = """(
    JoinedMessage | TurnedAwayMessage | ViewMessage | FencedMessage | LeftClusterMessage | AnswerMessage
    | HeadEndsMessage | JobsOverMessage | InquiryMessage | PaceMessage
    | PrepareMessage | CommitMessage | AbortMessage | ReleaseBundlesMessage | GroupMessage
)"""
ToPeer: TypeAlias = """(
    BorrowMessage | BorrowedMessage | UnborrowMessage | ResolveMessage | ValueOfMessage
    | LocatedMessage | SeekMessage | SourceMessage | SourceFailedMessage | HoldingMessage | UnholdMessage | FreeMessage
    | PromoteMessage | FetchMessage | FetchedMessage | GoneMessage | CollectMessage
    | JobOfMessage | FunctionOfMessage | TemplateOfMessage | ForgetOfMessage | ReleasedMessage
    | TaskMessage | ResultMessage | BackMessage | DoneWithMessage | TakeBackMessage | SlotsMessage | CancelTaskMessage
    | ClaimedMessage | CancelAtHomeMessage
    | ConstructAtMessage | SeatedMessage | ConstructorWaitsMessage | EndSeatMessage | CallAtMessage
    | LocateMessage | SeatOfMessage | ForgetActorMessage | KillActorMessage | AdoptMessage | AdoptedMessage
    | PeopleMessage
)"""
ClusterMessage: TypeAlias = "ToHead | ToMember | ToPeer"
"""Messages in numbered frames."""
