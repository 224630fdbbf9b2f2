"""The first steps of a daemon, before it imports anything heavy: a defined state, and the zygote."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from typing import TYPE_CHECKING

from asyncray.io.processes import SESSION_VARIABLE
from asyncray.io.sessions import name_of, variables
from asyncray.io.spawning import start_interpreter

if TYPE_CHECKING:
    from asyncray.words import NodeConfig


def define_state() -> None:
    """Undoes what ``asyncray node`` may have inherited. A daemon that ``init`` starts has no signal to undo.

    An ignored SIGCHLD would hide the end of the zygote, and a blocked SIGTERM would make ``kill`` useless. Warnings are
    for the program: an option that turns them into errors must not end the daemon.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    warnings.simplefilter("ignore")


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
