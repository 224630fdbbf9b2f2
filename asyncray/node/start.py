"""What a daemon does before it imports anything heavy: starting its zygote."""

from __future__ import annotations

import os
import socket

from asyncray.io.processes import SESSION_VARIABLE
from asyncray.io.sessions import name_of, variables
from asyncray.io.spawning import start_interpreter
from asyncray.messages import NodeConfig


def start_zygote(directory: str, lock: int) -> tuple[socket.socket, int]:
    """Starts a zygote: (the stream to it, its pid).

    Args:
        directory: the session's.
        lock: the descriptor that holds the session's lock; the zygote holds it, too.
    """
    ours, its = socket.socketpair()
    arguments = [str(its.fileno()), str(lock), directory]
    environment = {**os.environ, **variables(), SESSION_VARIABLE: name_of(directory)}
    try:
        return ours, start_interpreter("asyncray.worker.zygote", arguments, [its.fileno(), lock], environment)
    except (OSError, RuntimeError):
        ours.close()
        raise
    finally:
        its.close()


def start_zygote_early(config: NodeConfig) -> tuple[socket.socket, int]:
    """Starts the zygote of a node."""
    return start_zygote(config["directory"], config["lock"])
