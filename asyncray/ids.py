"""Identifiers. An ID names the process that made a task, actor or object, and so the node that knows it.

An ID is bytes, and each kind extends another::

    NodeID    8   random, never reused
    ClientID 12   NodeID + number of the driver or worker on that node
    JobID     4   number of the driver's job, from the block of numbers that its node has
    TaskID   22   ClientID + JobID + counter (6)     an ActorID is the TaskID of its constructor; the counter's
                                                     first bit is set for calls of actors
    ObjectID 26   TaskID + index (4)                 index 0: a put, or an actor's life; 1..n: the returns.
                                                     The first bit is set for what a second run returns in vain

So every ID carries the node that owns it. Inside the project IDs travel as plain ``bytes``; public calls return the
classes of this module. This module makes no random IDs: randomness comes from the shells.
"""

from __future__ import annotations

from typing import Self

NODE_SIZE = 8
CLIENT_SIZE = NODE_SIZE + 4
JOB_SIZE = 4
TASK_PREFIX_SIZE = CLIENT_SIZE + JOB_SIZE
TASK_SIZE = TASK_PREFIX_SIZE + 6
OBJECT_SIZE = TASK_SIZE + 4

CALL_MARK = 1 << 47
"""Added to the counter in the IDs of actor calls, so that any process with a ref knows that it belongs to a call."""

_DROPPED = 1 << 31

PUT_INDEX = (0).to_bytes(4, "big")
FIRST_RETURN = (1).to_bytes(4, "big")


class BaseID(bytes):
    """Bytes of a fixed length that print as hex.

    Raises:
        ValueError: given bytes of a wrong length.
    """

    SIZE = 0

    def __new__(cls, binary: bytes) -> Self:
        if len(binary) != cls.SIZE:
            raise ValueError(f"ID string needs to have length {cls.SIZE}, got {len(binary)}")
        return super().__new__(cls, binary)

    @classmethod
    def nil(cls) -> Self:
        """The ID that names nothing."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The ID that prints as ``text``."""
        return cls(bytes.fromhex(text))

    def binary(self) -> bytes:
        """The plain bytes."""
        return bytes(self)

    def is_nil(self) -> bool:
        """True if this ID names nothing."""
        return self == b"\xff" * self.SIZE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    __str__ = __repr__


class NodeID(BaseID):
    """A node, for its whole life and never again."""

    SIZE = NODE_SIZE


class ClientID(BaseID):
    """A process (driver or worker) attached to a node's daemon."""

    SIZE = CLIENT_SIZE


class JobID(BaseID):
    """One driver's work."""

    SIZE = JOB_SIZE


class TaskID(BaseID):
    """One invocation of a remote function or actor method."""

    SIZE = TASK_SIZE


class ActorID(TaskID):
    """An actor: the task that constructs it."""

    @property
    def job_id(self) -> JobID:
        """The job that made the actor."""
        return JobID(self[CLIENT_SIZE:TASK_PREFIX_SIZE])


class PlacementGroupID(BaseID):
    """A placement group: an ID of the process that created it."""

    SIZE = TASK_SIZE


def return_id(task_id: bytes, number: int) -> bytes:
    """The object that is return value ``number`` (0-based) of a task."""
    return task_id + (number + 1).to_bytes(4, "big")


def dropped_id(task_id: bytes, number: int) -> bytes:
    """The object that stands for return value ``number`` (0-based) of a second run, if the first value still exists."""
    return task_id + (_DROPPED + number + 1).to_bytes(4, "big")


def task_of(object_id: bytes) -> bytes:
    """The task that returns (or put) the object."""
    return object_id[:TASK_SIZE]


def caller_of(task_id: bytes) -> bytes:
    """The ClientID of the process that submitted the task."""
    return task_id[:CLIENT_SIZE]


def is_call(identifier: bytes) -> bool:
    """True for the ID of an actor call, and for those of its return values."""
    return identifier[TASK_PREFIX_SIZE] >= 0x80
