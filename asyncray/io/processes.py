"""Processes: started without detours, found again when their parents are gone, and ended with all that they started.

Two ways lead to what a worker has started. As long as the zygote lives, whatever loses its parent becomes the zygote's
child (it is a *subreaper*, and so is the daemon, should the zygote be killed). Should both be killed at once, what is
left still carries the session's name in its environment. Only Linux has either; elsewhere a process group must do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

SESSION_VARIABLE = "ASYNCRAY_SESSION"
"""Names the session in the environment of its zygote, and so of all that comes from it."""

WORKER_VARIABLE = "ASYNCRAY_WORKER"
"""Names the worker, by its number, in the environment of what it starts."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ROUND = 0.005


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs ``main()`` of a module of asyncray in a new interpreter, wherever that is started.

    It finds this very asyncray, installed or not. The working directory is not on its path: a file that a user calls
    ``queue.py`` must not stop a node. Where this interpreter was told to leave out what its user has installed, it does
    so, too: workers with other versions of packages could not unpickle what they get.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    find = f"import sys; sys.path.insert(0, {root!r}); import asyncray; del sys.path[0]"
    options = ["-P", "-s"] if sys.flags.no_user_site else ["-P"]
    return [sys.executable, *options, "-c", f"{find}; from {module} import main; main()", *arguments]


def spawn(command: list[str], keep: list[int], environment: dict[str, str], output: str | None = None) -> int:
    """Starts a process in a session of its own; returns its pid.

    Without ``subprocess``: importing that takes as long as starting the process.

    Args:
        keep: descriptors that it inherits, none of them a standard one. All others are closed in it, except standard
            input, output and error.
        output: a file to append its output and errors to; its input is empty then.

    Raises OSError.
    """
    actions: list[tuple[object, ...]] = []
    if output is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)
    finally:
        for descriptor in keep:
            os.set_inheritable(descriptor, False)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        import ctypes  # start-up cost: a daemon starts its zygote first

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """This process is killed when its parent ends, or at once if that is no longer its parent."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before that took effect


def children() -> list[int]:
    """The children of this process (of its main thread, where there are more), zombies included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def kill(pid: int) -> None:
    """SIGKILL; nothing if it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that this process led or leads."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def environment(pid: int) -> bytes:
    """The environment that a process was started with, as ``NAME=value`` ended by zero bytes. Empty if unknown."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"\0" + file.read()
    except OSError:
        return b""


def of_session(session: str) -> list[int]:
    """The zygote of a session, and all that comes from it."""
    mark = f"\0{SESSION_VARIABLE}={session}\0".encode()
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return [int(name) for name in names if name.isdigit() and mark in environment(int(name))]


def kill_session(session: str, deadline: float) -> bool:
    """Kills all processes of a session; False if some are still there after so many seconds."""
    until = time.monotonic() + deadline
    while found := of_session(session):  # again, for they may fork
        if time.monotonic() > until:
            return False
        for pid in found:
            kill(pid)
        time.sleep(_ROUND)
    return True


def ends_within(pid: int, seconds: float) -> bool:
    """Waits for any process to end, a child or not; True if it did in time. A zombie has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return True  # it is gone
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def offer_to_the_oom_killer() -> None:
    """When memory runs out, the kernel ends this process and its children first: their work can be done again."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # as Ray does
