"""Session directories: made, found, and cleaned up behind killed processes.

A session is a directory with the node's socket, logs and files, and shared memory whose names begin with its name. Its
driver makes it with a *lock*: a file on which daemon and zygote hold a lock of the system for as long as one of them
lives. They inherit it, so there is no moment in which no process holds it. The last of them removes the file. So

- a lock file that a process holds: the session runs, or ends right now;
- a lock file that can be locked: all its processes were killed, and memory or processes may be left: the session is
  *stale*;
- no lock file: nothing is left but logs.

The file gets its name only when it is locked already. So a program that starts a session meanwhile, and sweeps, never
takes a session for stale that has just begun. Two that sweep at once lock one session each at a time, and do not wait.

Sessions of other users are not ours to trust or to end: what a daemon sends is unpickled, and the name of a directory
says which processes and which memory belong to it. So the base directory and each session in it must belong to this
user and must not be writable by others. A base that others may write is refused; sessions of others are ignored.
So is a base below a directory in which others may rename it and put another in its place: one that they may write, and
that has no sticky bit. The owners of the directories above are trusted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator

from asyncray.config import STOP_DEADLINE
from asyncray.io import forking
from asyncray.io.janitor import kill_session
from asyncray.io.session_names import BASE_VARIABLE, name_of

KEEP = 20
"""Session directories that are kept for their logs."""

REGISTRY_FILE = "registry.json"
"""In a session's directory, while its registry answers: {"url", "token"}, readable by its owner only."""

TOKEN_FILE = "cluster.token"
"""In the session directory of a head: the token of its cluster."""

CLUSTER_FILE = "cluster.json"
"""In a session's directory: the cluster that its node belongs to."""

PROGRAM_FILE = "program"
"""In the session directory of a private node: the command line of the program that has started it for itself."""

CLUSTER_LINKS = "clusters"
"""Beside the sessions: links that are named after the addresses of clusters, and lead to their tokens."""

_NOTES = (REGISTRY_FILE, f"{REGISTRY_FILE}.new", TOKEN_FILE, CLUSTER_FILE, f"{CLUSTER_FILE}.new", PROGRAM_FILE)
"""Files that a killed daemon leaves: others would take them for those of a node that runs."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_NAME = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{12}")
"""Names that ``new_session`` gives to directories."""

_LONGEST_PROGRAM = 500
"""Bytes."""

_YOUNG = 60.0
"""Seconds in which a directory without a lock may be one that is just being made."""

_POLL = 0.01


def base_directory() -> str:
    """The directory of this user's sessions; makes it if it does not exist.

    Raises:
        OSError: it cannot be used. The text says why, and what to do.
    """
    path = _base_path()
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        _check_base(path)
    except OSError as error:
        raise _unusable(path, error) from error
    return path


def running() -> list[str]:
    """The directories of this user's sessions that run, those of private nodes included, the newest first.

    Raises:
        OSError: the base directory exists and cannot be used.
    """
    path = _base_path()
    try:
        _check_base(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    return sorted(filter(is_running, _all(path)), key=_beginning, reverse=True)


def program_of(directory: str) -> str | None:
    """The program whose private node has this session. None for a node that programs share."""
    path = os.path.join(directory, PROGRAM_FILE)
    try:
        # The lock: a child that another thread forks meanwhile would keep the file open.
        with forking.lock, open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_PROGRAM)
    except OSError:
        return None


def variables() -> dict[str, str]:
    """Environment variables with which processes find the same base directory from any working directory."""
    return {BASE_VARIABLE: _base_path()} if os.environ.get(BASE_VARIABLE) else {}


def _base_path() -> str:
    path = os.environ.get(BASE_VARIABLE) or os.path.join(os.environ.get("TMPDIR") or "/tmp", f"asyncray-{os.geteuid()}")
    try:
        return os.path.abspath(path)
    except OSError as error:  # it is relative to a working directory that was deleted
        raise _unusable(path, error) from error


def _check_base(path: str) -> None:
    """Raises OSError if this is not a directory that belongs to this user alone."""
    user = os.geteuid()
    if (owner := os.lstat(path).st_uid) not in (user, 0):  # a link may be root's
        raise PermissionError(errno.EACCES, f"it belongs to user {owner} and you are user {user}", path)
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if status.st_uid != user:
        raise PermissionError(errno.EACCES, f"it belongs to user {status.st_uid} and you are user {user}", path)
    if status.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(errno.EACCES, f"others may write to it: its mode is {mode:04o}", path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it cannot be written", path)
    for parent in dict.fromkeys((*_parents(path), *_parents(os.path.realpath(path)))):
        _check_parent(parent)


def _parents(path: str) -> Iterator[str]:
    while path != (path := os.path.dirname(path)):
        yield path


def _check_parent(path: str) -> None:
    """Raises OSError if other users may rename what is in the directory."""
    status = os.stat(path)
    mode = status.st_mode
    if mode & stat.S_ISVTX or not mode & _OTHERS_WRITE:
        return
    if mode & stat.S_IWOTH or not _is_own_group(status.st_gid):
        text = f"others may replace it, because they may write to {path}: its mode is {stat.S_IMODE(mode):04o}"
        raise PermissionError(errno.EACCES, text, path)


def _is_own_group(group: int) -> bool:
    """True for the group of root, and for that of this user alone, which has the user's name on many systems."""
    if group == 0:
        return True
    import grp  # start-up cost: few directories are writable by a group
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and {*found.gr_mem} <= {user.pw_name}


def _unusable(path: str, error: OSError) -> OSError:
    unset = ", or unset it to have one made" if os.environ.get(BASE_VARIABLE) else ""
    return OSError(
        error.errno,
        f"The session directory {path} cannot be used ({error.strerror}). Set {BASE_VARIABLE} to a directory that you "
        f"can write to and others cannot{unset}",
    )


def _is_ours(directory: str) -> bool:
    """True for a session that this user, and no other, has made."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False  # it was removed
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE


def new_session(program: str | None = None) -> tuple[str, int]:
    """The directory of a new session, and the descriptor that holds its lock.

    Args:
        program: the command line of the program that starts a node for itself.
    """
    base = base_directory()
    directory = os.path.join(base, f"session_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.urandom(6).hex()}")
    if len(os.fsencode(socket_of(directory))) > 100:
        text = f"The session directory {directory} is too long for a socket's path. Set {BASE_VARIABLE}"
        raise OSError(errno.ENAMETOOLONG, text)
    try:
        os.mkdir(directory, 0o700)
        os.mkdir(os.path.join(directory, "logs"), 0o700)
        if program is not None:
            _write(os.path.join(directory, PROGRAM_FILE), program)
        return directory, _hold(directory)
    except OSError as error:
        discard(directory)
        raise OSError(
            error.errno,
            f"The session directory {directory} cannot be made ({error.strerror}). Set {BASE_VARIABLE} to a directory "
            "that you can write to",
        ) from error


def _write(path: str, text: str) -> None:
    with forking.lock:  # as above
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text.encode(errors="replace")[:_LONGEST_PROGRAM])
        finally:
            os.close(descriptor)


def restore(directory: str, program: str | None = None) -> int | None:
    """Makes again what was removed of a session that runs. Cleaners of temporary directories remove what looks old.

    Args:
        directory: of the session.
        program: as of ``new_session``.

    Returns:
        The descriptor that holds the new lock; None if the lock is still there.

    Raises:
        OSError: it cannot be made, or another user has made it.
    """
    base = os.path.dirname(directory)
    os.makedirs(base, mode=0o700, exist_ok=True)
    _check_base(base)
    for path in (directory, os.path.join(directory, "logs")):
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not _is_ours(path):
            raise PermissionError(errno.EACCES, "it belongs to another user, or others may write to it", path)
    if program is not None and program_of(directory) is None:
        _write(os.path.join(directory, PROGRAM_FILE), program)
    return None if os.path.exists(_lock_of(directory)) else _hold(directory)


def _hold(directory: str) -> int:
    path = _lock_of(directory)
    descriptor = _open_lock(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(f"{path}.new", path)
    except OSError:
        close_lock(descriptor)
        _unlink(f"{path}.new")  # it would be in the way of the next attempt
        raise
    return descriptor


def _open_lock(path: str, flags: int) -> int:
    """A child that is forked meanwhile does not keep the lock."""
    with forking.lock:
        return forking.own(os.open(path, flags, 0o600))


def close_lock(descriptor: int) -> None:
    """Lets go of a lock: it stays held if another process has inherited it."""
    forking.close(descriptor)


def socket_of(directory: str) -> str:
    """The path of the daemon's socket."""
    return os.path.join(directory, "node.sock")


def garbage_of(directory: str) -> list[str]:
    """The things to remove when a session has ended.

    Returns:
        Files ("unlink:PATH"), directories whose links to nothing go ("links:PATH"), and prefixes of segments' names.
    """
    session = name_of(directory)
    files = (socket_of(directory), *(os.path.join(directory, name) for name in _NOTES))
    segments = (f"{session}-", f"{os.path.join(directory, 'store', session)}-")
    links = f"links:{os.path.join(os.path.dirname(directory), CLUSTER_LINKS)}"
    return [*(f"unlink:{path}" for path in files), links, *segments]


def remove(garbage: list[str]) -> None:
    """Removes files, links and segments."""
    from asyncray.io.segments import sweep  # start-up cost: workers that need it load it themselves

    for item in garbage:
        if item.startswith("unlink:"):
            _unlink(item.removeprefix("unlink:"))
        elif item.startswith("links:"):
            _remove_dead_links(item.removeprefix("links:"))
        else:
            sweep(item)


def _remove_dead_links(directory: str) -> None:
    try:
        names = os.listdir(directory)
    except OSError:
        return  # no cluster has begun on this machine
    for path in (os.path.join(directory, name) for name in names):
        if os.path.islink(path) and not os.path.exists(path):
            _unlink(path)


def ended(directory: str) -> None:
    """Removes the lock file, because nothing is left of the session but logs. The last of its processes calls it."""
    _unlink(_lock_of(directory))  # unless the other process was as fast


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was removed already, or cannot be


def discard(directory: str) -> None:
    """Removes the directory of a session none of whose processes has started."""
    import shutil  # start-up cost: few starts fail

    shutil.rmtree(directory, ignore_errors=True)


def is_running(directory: str) -> bool:
    """True if a process of the session lives."""
    descriptor = _take(directory)
    if descriptor is not None:
        close_lock(descriptor)
        return False
    return os.path.exists(_lock_of(directory))


def clean_up(directory: str, deadline: float) -> None:
    """The daemon was killed: waits for the zygote to clean up, and does it itself if that was killed, too."""
    until = time.monotonic() + deadline
    while os.path.exists(_lock_of(directory)):
        descriptor = _take(directory)
        if descriptor is not None:
            _sweep(directory)
            close_lock(descriptor)
            return  # once, because in a read-only directory the lock file stays
        if time.monotonic() > until:
            kill_session(name_of(directory), deadline)  # its processes are stopped by a signal, or stuck
            _sweep(directory)
            return
        time.sleep(_POLL)


def sweep_stale(own: str) -> list[str]:
    """Cleans up after sessions whose processes were all killed. Returns their directories.

    Args:
        own: the directory of the session that does so; the others are beside it. It is never swept, even if its lock
            was removed.
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
        return  # no descriptor is left, and the next start prunes
    now = time.time()
    for directory in old:
        try:
            young = now - os.stat(directory).st_mtime < _YOUNG
        except OSError:
            continue  # another session prunes, too
        if not young and not os.path.exists(_lock_of(directory)):
            shutil.rmtree(directory, ignore_errors=True)


def _all(base: str) -> list[str]:
    """All session directories of this user, the oldest first."""
    found = [os.path.join(base, name) for name in sorted(forking.names_in(base)) if _NAME.fullmatch(name)]
    return [directory for directory in found if _is_ours(directory)]


def _beginning(directory: str) -> tuple[str, int]:
    """When a session began: its name tells the second, and its lock file the rest."""
    try:
        made = os.stat(_lock_of(directory)).st_mtime_ns
    except FileNotFoundError:
        made = 0  # it has just ended
    return os.path.basename(directory).rpartition("_")[0], made


def _lock_of(directory: str) -> str:
    return os.path.join(directory, "lock")


def _take(directory: str) -> int | None:
    """Locks a session if no process does; None if it runs, or has ended in order."""
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
    kill_session(name_of(directory), STOP_DEADLINE)
    remove(garbage_of(directory))
    ended(directory)
