"""Starting a node for this process, and finding one that runs."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from asyncray.config import STOP_DEADLINE

LATEST = "latest"
ADDRESS_SCHEME = "unix:"


class LocalNode:
    """A node's daemon that this process has started, and the connection to it.

    Args:
        pid: of the daemon.
        garbage: prefix of its shared memory, to sweep should the daemon and its zygote be killed.
    """

    def __init__(self, connection: socket.socket, pid: int, directory: str, garbage: str) -> None:
        self.connection = connection
        self.pid = pid
        self.directory = directory
        self._garbage = garbage

    def __repr__(self) -> str:
        return f"<LocalNode pid={self.pid} {self.directory}>"

    def log_tail(self) -> str:
        """The last lines that the daemon wrote, for an error message."""
        lines: list[str] = []
        for name in ("node.err", "node.log"):
            try:
                with open(os.path.join(self.directory, "logs", name), errors="replace") as file:
                    lines += file.read()[-4000:].splitlines()[-8:]
            except OSError:
                continue
        return "\n".join(lines)

    def wait(self) -> None:
        """Waits for the daemon to end; kills what does not end in time and removes what it left."""
        if not _ends_within(self.pid, STOP_DEADLINE + 1):
            os.kill(self.pid, signal.SIGKILL)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = 0  # somebody else (a child watcher of the program) has reaped it
        if status:
            from asyncray.io.segments import sweep  # only after a daemon's death

            time.sleep(0.2)  # its zygote cleans up first; this is for the case that it was killed, too
            sweep(self._garbage)


def _ends_within(pid: int, seconds: float) -> bool:
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


def new_session() -> tuple[str, str]:
    """A name and a directory for a new session."""
    base = base_directory()
    name = f"asyncray-{os.urandom(6).hex()}"
    directory = os.path.join(base, f"session_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name[-12:]}")
    try:
        os.makedirs(os.path.join(directory, "logs"), mode=0o700)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The session directory {directory} cannot be made ({error.strerror}). Set ASYNCRAY_TMPDIR to a directory "
            "that you can write to",
        ) from error
    return name, directory


def configuration(amounts: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a new node's daemon."""
    session, directory = new_session()
    address = os.path.join(directory, "node.sock")
    if len(address) > 100:
        raise OSError(36, f"The session directory {directory} is too long for a socket's path; set ASYNCRAY_TMPDIR")
    return {"session": session, "directory": directory, "address": address, "driver": None, **amounts}


def start_node(amounts: dict[str, Any]) -> LocalNode:
    """Starts a daemon for this process. It ends when the connection does.

    Args:
        amounts: "num_cpus", "num_gpus", "resources", "object_store_memory": numbers, or None for what is there.
    """
    config = configuration(amounts)
    ours, its = socket.socketpair()
    config["driver"] = its.fileno()
    directory = config["directory"]
    its.set_inheritable(True)
    errors = os.path.join(directory, "logs", "node.err")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, errors, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-m", "asyncray.node", json.dumps(config)]
    pid = os.posix_spawn(sys.executable, command, dict(os.environ), file_actions=actions, setsid=True)
    its.close()
    _point_latest(directory)
    return LocalNode(ours, pid, directory, f"{config['session']}-")


def _point_latest(directory: str) -> None:
    link = os.path.join(os.path.dirname(directory), LATEST)
    temporary = f"{link}.{os.getpid()}"
    try:
        os.symlink(directory, temporary)
        os.replace(temporary, link)
    except OSError:
        pass  # only "auto" needs it, and says so


def connect(address: str) -> socket.socket:
    """Connects to a running node.

    Args:
        address: "auto" for the newest session of this user, or ``unix:PATH``.

    Raises:
        ConnectionError: there is none.
        ValueError: not an address.
    """
    if address == "auto":
        path = os.path.join(base_directory(), LATEST, "node.sock")
    elif address.startswith(ADDRESS_SCHEME):
        path = address.removeprefix(ADDRESS_SCHEME)
    else:
        raise ValueError(f"The address {address!r} is none of 'local', 'auto' or 'unix:PATH'.")
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ConnectionError(
            f"Could not find a running node at {address} ({error.strerror}). Start one with `asyncray node`, or call "
            "init() without an address."
        ) from error
    return connection
