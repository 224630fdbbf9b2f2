"""The first steps of a daemon, before it imports anything heavy: a defined state, and the zygote.

The zygote needs as long as the daemon until both are ready, so each millisecond before it is started counts.
"""

from __future__ import annotations

# Start-up cost: ``signal`` and ``socket`` make enums.
import _signal  # type: ignore[import-not-found]
import _socket
import os
import warnings

from asyncray.io.session_names import BASE_VARIABLE, SESSION_VARIABLE, name_of
from asyncray.io.spawning import start_interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


def define_state() -> None:
    """Undoes what ``asyncray node`` may have inherited. A daemon that ``init`` starts has no signal to undo.

    An ignored SIGCHLD would hide the end of the zygote, and a blocked SIGTERM would make ``kill`` useless. Warnings are
    for the program: an option that turns them into errors must not end the daemon.
    """
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    warnings.simplefilter("ignore")


def start_zygote(directory: str, lock: int) -> tuple[socket.socket, int]:
    """Starts a zygote: (the stream to it, its pid). The arguments are those of ``start_zygote_early``."""
    import socket  # start-up cost, as above

    stream, pid = start_zygote_early(directory, lock)
    return socket.socket(fileno=stream), pid


def start_zygote_early(directory: str, lock: int) -> tuple[int, int]:
    """Starts a zygote: (the descriptor of the stream to it, its pid).

    Args:
        directory: the session's.
        lock: the descriptor that holds the session's lock; the zygote holds it, too.
    """
    ours, its = _socket.socketpair()
    arguments = [str(its.fileno()), str(lock), directory]
    environment = {**os.environ, SESSION_VARIABLE: name_of(directory)}
    if environment.get(BASE_VARIABLE):
        environment[BASE_VARIABLE] = os.path.dirname(directory)  # it may be relative
    try:
        pid = start_interpreter("asyncray.worker.zygote", arguments, [its.fileno(), lock], environment)
        return ours.detach(), pid
    except (OSError, RuntimeError):
        ours.close()
        raise
    finally:
        its.close()
