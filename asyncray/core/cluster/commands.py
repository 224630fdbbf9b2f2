"""Commands of the cluster's machines for the shell, beside those of ``asyncray.core.outbox``.

A connection of a link is a number that the shell gave it.

The bytes of large objects travel on connections of their own, the *bulk connections*. The node that sends makes one
when the first ``SendRange`` for a node comes, and there is no command for that; its bytes go one way. So two nodes have
at most two of them, nothing has to be settled when both dial, and a break in one direction leaves the other alone. A
*transfer* brings one object, or the rest of one, from the node that has it to the node that asked for it. It is a
number that the asking node has chosen and never uses again. Chunks of several transfers take turns on one connection;
those of one transfer come in order.

If a bulk connection breaks, the shell of the sender drops what it was about to write there, and reports
``LargeObjects.sending_failed``; that of the receiver reports ``LargeObjects.receiving_failed``, and writes nothing
into memory from then on that still comes by the old connection. Transfers that were under way never go on: the asking
node begins new ones. The next ``SendRange`` makes a new connection, after a pause if the last one carried nothing.

The events carry the NodeID of the other node, the number of the transfer, and the time: ``range_sent(node, transfer,
length, now)``, ``sending_failed(node, now)``, ``range_received(node, transfer, position, now)``, ``range_failed(node,
transfer, why, now)``, ``receiving_failed(node, now)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asyncray.core.records import Job


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a node, or to the head, and shake hands. Ends in ``Link.dialled`` or ``Link.dial_failed``."""

    node: bytes
    to_head: bool


@dataclass(frozen=True, slots=True)
class SendControl:
    """Write a control message, which is not numbered. Nothing follows."""

    connection: int
    message: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SendAgain:
    """Write the frames that the other side lacks: (number, body), in order. Nothing follows."""

    connection: int
    frames: tuple[tuple[int, Any], ...]


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Write what is due and close. Nothing follows: the link has forgotten the connection."""

    connection: int
    why: str


@dataclass(frozen=True, slots=True)
class ReadLastOutput:
    """Send the last output of the job's workers to its driver at another node. Ends in ``Goodbyes.last_lines_read``."""

    job: Job
    node: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """Try to connect to a node, and hang up. Ends in ``Membership.probed``."""

    node: bytes
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class SendRange:
    """Write a range of a segment to another node, as one chunk behind those that were ordered before.

    The memory does not change until the receiver has said that it has the bytes, or is lost. Ends in
    ``LargeObjects.range_sent`` when the socket has taken all bytes, or in ``LargeObjects.sending_failed``.

    Args:
        node: the receiver.
        transfer: its number for the transfer.
        position: the place of the range's first byte in the object.
        segment: name of the segment.
        offset: the place of the range's first byte in the segment.
        length: bytes, at most ``serving.CHUNK``.
    """

    node: bytes
    transfer: int
    position: int
    segment: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ReceiveRange:
    """Write the chunks of a transfer that is about to begin into a segment.

    ``LargeObjects.range_received`` follows each chunk, or several of them. If the system has no memory for a page,
    ``LargeObjects.range_failed`` follows, and nothing of this transfer after that. A chunk that lies outside of the
    range ends the connection.

    Args:
        node: the sender.
        transfer: the number of the transfer.
        segment: name of the segment.
        offset: the place of the object's first byte in the segment.
        size: bytes of the whole object.
        position: the place in the object at which the transfer begins: the bytes before it are here.
        warm: True if all pages of the range were written before.
    """

    node: bytes
    transfer: int
    segment: str
    offset: int
    size: int
    position: int
    warm: bool


@dataclass(frozen=True, slots=True)
class StopReceiving:
    """Write nothing more of a transfer into memory, also not the rest of a chunk: others may get that memory at once.

    Chunks of it that still come are read and dropped, as those of any transfer that the shell does not know. Nothing
    follows.
    """

    node: bytes
    transfer: int


@dataclass(frozen=True, slots=True)
class CloseBulk:
    """The node is lost or has left: close its bulk connections at once, and forget all ranges. Nothing follows."""

    node: bytes


BulkCommand = SendRange | ReceiveRange | StopReceiving | CloseBulk
ClusterCommand = Dial | SendControl | SendAgain | CloseConnection | ReadLastOutput | Probe | BulkCommand
