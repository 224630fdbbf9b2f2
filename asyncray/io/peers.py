"""The process at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_CREDENTIALS = struct.Struct("3i")  # pid, user, group


class Peer(NamedTuple):
    """The process that has connected, or that listens."""

    pid: int
    user: int


def peer_of(connection: socket.socket) -> Peer | None:
    """The process at the other end; None where the system has no SO_PEERCRED (Linux has it)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, user)
