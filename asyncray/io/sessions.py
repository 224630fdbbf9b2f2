"""Session directories: made, found, and cleaned of what killed processes left.

A session is a directory with the node's socket, logs and files, and shared memory whose names begin with its name. Its
driver makes it with a *lock*: a file on which daemon and zygote hold a lock of the system for as long as one of them
lives. They inherit it, so there is no moment in which nobody holds it. Who ends last removes the file. So

- a lock file that somebody holds: the session runs, or ends right now;
- a lock file that can be locked: all its processes were killed, and something may be left: the session is *stale*;
- no lock file: nothing is left but logs.

The file gets its name only when it is locked already. So whoever starts a session meanwhile, and sweeps, never takes a
session for stale that has just begun. Two that sweep at once lock one session each at a time, and do not wait.
"""

from __future__ import annotations

import fcntl
import os
import time

from asyncray.io import forking
from asyncray.io.processes import kill_session

KEEP = 20
"""Session directories that are kept for their logs."""

_YOUNG = 60.0
"""Seconds in which a directory without a lock may be one that is just being made."""

_POLL = 0.01


def base_directory() -> str:
    """Where the sessions of this user are. Raises OSError with a way out when it cannot be used."""
    path = os.environ.get("ASYNCRAY_TMPDIR") or os.path.join(
        os.environ.get("TMPDIR", "/tmp"), f"asyncray-{os.getuid()}"
    )
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
        if status.st_uid != os.getuid() or not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "it belongs to somebody else or cannot be written", path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The session directory {path} cannot be used ({error.strerror}). Set ASYNCRAY_TMPDIR to a directory that "
            "you can write to",
        ) from error
    return path


def new_session() -> tuple[str, int]:
    """The directory of a new session, and the descriptor that holds its lock."""
    base = base_directory()
    directory = os.path.join(base, f"session_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.urandom(6).hex()}")
    if len(socket_of(directory)) > 100:
        raise OSError(36, f"The session directory {directory} is too long for a socket's path. Set ASYNCRAY_TMPDIR")
    try:
        os.mkdir(directory, 0o700)
        os.mkdir(os.path.join(directory, "logs"), 0o700)
        return directory, _hold(directory)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The session directory {directory} cannot be made ({error.strerror}). Set ASYNCRAY_TMPDIR to a directory "
            "that you can write to",
        ) from error


def _hold(directory: str) -> int:
    path = _lock_of(directory)
    descriptor = _open_lock(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(f"{path}.new", path)
    except OSError:
        close_lock(descriptor)
        raise
    return descriptor


def _open_lock(path: str, flags: int) -> int:
    """A child that is forked meanwhile does not keep the lock."""
    with forking.lock:
        return forking.own(os.open(path, flags, 0o600))


def close_lock(descriptor: int) -> None:
    """Lets go of a lock: it stays held if another process has inherited it."""
    with forking.lock:
        os.close(descriptor)
        forking.closed(descriptor)


def name_of(directory: str) -> str:
    """The session's name, with which the names of its shared memory begin."""
    return f"asyncray-{directory.rpartition('_')[2]}"


def socket_of(directory: str) -> str:
    """The path of the daemon's socket."""
    return os.path.join(directory, "node.sock")


def garbage_of(directory: str) -> list[str]:
    """What is to be removed when a session has ended: files ("unlink:PATH") and segments (prefixes of names)."""
    session = name_of(directory)
    return [f"unlink:{socket_of(directory)}", f"{session}-", f"{os.path.join(directory, 'store', session)}-"]


def remove(garbage: list[str]) -> None:
    """Removes files and segments."""
    from asyncray.io.segments import sweep  # start-up cost: workers that need it load it themselves

    for item in garbage:
        if item.startswith("unlink:"):
            try:
                os.unlink(item.removeprefix("unlink:"))
            except OSError:
                pass  # it is gone
        else:
            sweep(item)


def ended(directory: str) -> None:
    """Nothing is left of the session but logs. Called by the last of its processes."""
    try:
        os.unlink(_lock_of(directory))
    except OSError:
        pass  # the other one was as fast


def is_running(directory: str) -> bool:
    """True if a process of the session lives."""
    descriptor = _take(directory)
    if descriptor is not None:
        close_lock(descriptor)
        return False
    return os.path.exists(_lock_of(directory))


def running(base: str) -> list[str]:
    """The directories of the sessions that run, the newest first."""
    return [directory for directory in reversed(_all(base)) if is_running(directory)]


def clean_up(directory: str, deadline: float) -> None:
    """The daemon was killed: waits for the zygote to clean up, and does it itself if that was killed, too."""
    until = time.monotonic() + deadline
    while os.path.exists(_lock_of(directory)):
        descriptor = _take(directory)
        if descriptor is not None:
            _sweep(directory)
            close_lock(descriptor)
        elif time.monotonic() > until:
            kill_session(name_of(directory), deadline)  # stopped, or stuck
            _sweep(directory)
        else:
            time.sleep(_POLL)


def sweep_stale(own: str) -> list[str]:
    """Cleans up after sessions whose processes were all killed. Returns their directories.

    Args:
        own: the directory of the session that does so, for the others are beside it. It is never swept, whatever became
            of its lock.
    """
    swept = []
    for directory in _all(os.path.dirname(own)):
        if directory == own:
            continue
        descriptor = _take(directory)
        if descriptor is not None:
            _sweep(directory)
            close_lock(descriptor)
            swept.append(directory)
    return swept


def prune(base: str, keep: int = KEEP) -> None:
    """Removes the directories of old sessions, except the newest and those that run."""
    try:
        import shutil  # start-up cost

        old = _all(base)[:-keep]
    except OSError:
        return  # no descriptor is left: the next start prunes
    now = time.time()
    for directory in old:
        try:
            young = now - os.stat(directory).st_mtime < _YOUNG
        except OSError:
            continue  # another one prunes, too
        if not young and not os.path.exists(_lock_of(directory)):
            shutil.rmtree(directory, ignore_errors=True)


def _all(base: str) -> list[str]:
    """All session directories, the oldest first."""
    return [os.path.join(base, name) for name in sorted(os.listdir(base)) if name.startswith("session_")]


def _lock_of(directory: str) -> str:
    return os.path.join(directory, "lock")


def _take(directory: str) -> int | None:
    """Locks a session if nobody does; None if it runs, or has ended in order."""
    try:
        descriptor = _open_lock(_lock_of(directory), os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        close_lock(descriptor)
        return None
    return descriptor


def _sweep(directory: str) -> None:
    kill_session(name_of(directory), 1.0)
    remove(garbage_of(directory))
    ended(directory)
