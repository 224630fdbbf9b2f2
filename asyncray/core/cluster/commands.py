"""Commands of the cluster's machines for the shell, beside those of ``asyncray.core.outbox``.

A connection is a number that the shell gave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
class Probe:
    """Try to connect to a node, and hang up. Ends in ``Membership.probed``."""

    node: bytes
    host: str
    port: int


ClusterCommand = Dial | SendControl | SendAgain | CloseConnection | Probe
