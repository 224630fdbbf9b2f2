"""Processes: found again when their parents have ended, and killed together with their descendants.

The descendants of a worker are found in two ways. As long as the zygote lives, a process that loses its parent
becomes the zygote's child (the zygote is a *subreaper*, and so is the daemon, in case the zygote is killed). If both
are killed at once, the session's name is still in the environment of every process that is left. Only Linux has either;
elsewhere a process group must do.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import time
from typing import Any

from asyncray.io import forking
from asyncray.io.session_names import SESSION_VARIABLE

WORKER_VARIABLE = "ASYNCRAY_WORKER"
"""Names the worker, by its number, in the environment of the processes that it starts."""

_CHECK_SECONDS = 0.005
"""Between two looks for a process that has not ended, where nothing says when it does."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@functools.cache
def _library() -> Any:
    """The C library. Found once in the zygote for all workers: each of them would need 0.3 ms."""
    import ctypes  # start-up cost: a daemon starts its zygote first

    return ctypes.CDLL(None)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        _library().prctl(option, argument, 0, 0, 0)


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """The system kills this process when its parent ends. Ends it at once if ``parent`` has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before that took effect


def trim_memory() -> None:
    """Gives memory that this process has freed back to the system: 0.8 MB after the imports of a daemon."""
    trim = getattr(_library(), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def children() -> list[int]:
    """The children of this process (of its main thread, where there are more), zombies included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def kill(pid: int) -> None:
    """Sends SIGKILL. Does nothing if the process has ended."""
    assert pid > 0, f"{pid} stands for more than one process"
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that this process led or leads."""
    assert pid > 1, f"{pid} stands for the group of the caller, or for all processes"
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
    """The zygote of a session, and its descendants."""
    mark = f"\0{SESSION_VARIABLE}={session}\0".encode()
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return [int(name) for name in names if name.isdigit() and mark in environment(int(name))]


def has_ended(pid: int) -> bool:
    """True for a process that does not exist any more, or is a zombie.

    Where no descriptor is left, the zombie of another process counts as alive.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, MemoryError):
        return not _exists(pid)


def _exists(pid: int) -> bool:
    """Asks without a descriptor, because the process may have none left. A child that is a zombie does not exist."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        pass  # it is not ours
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def is_child(pid: int) -> bool:
    """True if this is a child of this process that was not reaped. Its number belongs to no other process then."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def ends_within(pid: int, seconds: float) -> bool:
    """Waits for a process to end, be it a child or not. True if it ended in time. A zombie has ended."""
    try:
        with forking.lock:
            descriptor = forking.own(os.pidfd_open(pid))
    except ProcessLookupError:
        return True
    except OSError:  # no descriptor or no memory is left, or the system forbids it
        return _has_ended_within(pid, seconds)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        forking.close(descriptor)


def _has_ended_within(pid: int, seconds: float) -> bool:
    """The same without a descriptor."""
    until = time.monotonic() + seconds
    while _exists(pid):
        if time.monotonic() >= until:
            return False
        time.sleep(_CHECK_SECONDS)
    return True


def offer_to_the_oom_killer() -> None:
    """Makes the kernel kill this process and its children first when memory runs out: tasks can be retried."""
    try:
        # Not ``open``, which takes 0.1 ms in a process that has just been forked.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # there is no /proc, or it is another system
    try:
        os.write(file, b"1000")  # as Ray does
    except OSError:
        pass
    finally:
        os.close(file)
