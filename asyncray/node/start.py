"""What a daemon does before it imports anything heavy: starting its zygote."""

from __future__ import annotations

import os
import socket
from typing import Any

from asyncray.io.processes import SESSION_VARIABLE, python, spawn
from asyncray.io.sessions import name_of


def start_zygote(directory: str, lock: int) -> tuple[socket.socket, int]:
    """Starts a zygote: (the stream to it, its pid).

    Args:
        directory: the session's.
        lock: the descriptor that holds the session's lock; the zygote holds it, too.
    """
    ours, its = socket.socketpair()
    command = python("asyncray.worker.zygote", str(its.fileno()), str(lock), directory)
    try:
        return ours, spawn(command, [its.fileno(), lock], {**os.environ, SESSION_VARIABLE: name_of(directory)})
    except OSError:
        ours.close()
        raise
    finally:
        its.close()


def start_zygote_early(config: dict[str, Any]) -> tuple[socket.socket, int]:
    """Starts the zygote of a node."""
    return start_zygote(config["directory"], config["lock"])
