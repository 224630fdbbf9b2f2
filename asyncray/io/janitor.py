"""Ends processes and their descendants, and lets resource trackers do their work first.

``multiprocessing`` and loky leave semaphores, shared memory and folders to a process of their own, the *resource
tracker*. When the last process that uses the tracker has ended, which it sees by the end of a pipe, it removes the
rest. So a tracker that is killed with the others leaves its files in ``/dev/shm``. Here the others are killed first,
and a tracker only when it has had ``TRACKER_GRACE`` seconds and has not ended.

A session whose zygote cannot clean up, because it was stopped or killed, is ended from outside (``kill_session``). As
long as the zygote lives, all that its workers have started are its descendants, whatever their environment says. So a
process is killed only when its descendants have ended, and the zygote last.

Only ``kill_session`` waits: callers of the other functions come again until all have ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from asyncray.config import KILLED_DEADLINE
from asyncray.io.processes import children, ends_within, has_ended, kill, kill_group, of_session

TRACKER_GRACE = 2.0
"""Seconds. A tracker ends within 30 ms, and on a busy machine, where it may not even have started, within a second.
Less than ``STOP_DEADLINE``, because a session's end waits for trackers too."""

_CLEANERS = (b"resource_tracker import main", b"enter('asyncray.node.__main__'")
"""In the command lines of the trackers of multiprocessing and of loky, and of the daemon of a program that a task runs.
Such a daemon ends when its driver has ended, and removes its socket and shared memory."""


def cleans_up(pid: int) -> bool:
    """True for a process that still runs and that cleans up behind others by itself: it is treated as a tracker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
    except OSError:
        return False
    return any(mark in command for mark in _CLEANERS)


def offspring(pid: int) -> list[int]:
    """All descendants of a process, as far as their parents live."""
    found = []
    unseen = [pid]
    while unseen:
        born = _children_of(unseen.pop())
        found += born
        unseen += born
    return found


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="utf-8") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it has ended, or the system does not say
    return found


def end_group(leader: int, strangers: Sequence[int]) -> None:
    """Kills a process group at once, unless a tracker may be in it: then its members have to be killed one by one.

    Args:
        leader: leads the group. It must not be reaped yet, or its ID may be that of another group.
        strangers: children of this process that were not its own. The processes that it leaves behind become such
            children at its end.
    """
    if not any(cleans_up(pid) for stranger in strangers for pid in (stranger, *offspring(stranger))):
        kill_group(leader)


def end_children(*, spare_trackers: bool) -> bool:
    """Kills all children of this process and reaps those that have ended.

    Returns:
        False if some have not ended, or their own children became ours meanwhile: call it again.
    """
    for pid in children():
        if not spare_trackers:
            kill_group(pid)
            kill(pid)
        elif not cleans_up(pid):
            kill(pid)  # alone: its own children are ours in the next round
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            return False


def kill_session(session: str, deadline: float) -> bool:
    """Kills all processes of a session; False if some have not ended after so many seconds and one more."""
    now = time.monotonic()
    until = now + deadline
    spare_until = min(now + TRACKER_GRACE, until)
    while found := _family(session):
        victims = found if now >= spare_until else _without_descendants(found)
        for pid in victims:
            kill(pid)
        wait_until = max(until, now + KILLED_DEADLINE) if victims else spare_until
        for pid in victims or found:
            ends_within(pid, max(0.0, wait_until - time.monotonic()))
        if now >= until:
            return not _family(session)
        now = time.monotonic()
    return True


def _family(session: str) -> list[int]:
    """The living processes that carry the session's name, and their descendants."""
    found = dict.fromkeys(of_session(session))
    for pid in list(found):
        found.update(dict.fromkeys(offspring(pid)))
    found.pop(os.getpid(), None)
    return [pid for pid in found if not has_ended(pid)]


def _without_descendants(processes: Sequence[int]) -> list[int]:
    """The processes that are no trackers and have no living descendants but trackers."""
    others = [pid for pid in processes if not cleans_up(pid)]
    return [pid for pid in others if not any(child in others for child in offspring(pid))]
