"""The process at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_FORMAT = struct.Struct("3i")  # pid, user, group


class Credentials(NamedTuple):
    """The process that has connected, or that listens."""

    pid: int
    user: int


def credentials_of(connection: socket.socket) -> Credentials | None:
    """The process at the other end; None where the system has no SO_PEERCRED (Linux has it)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _FORMAT.size)
    pid, user, _ = _FORMAT.unpack(data)
    return Credentials(pid, user)
