"""Starting a node for this process, and finding one that runs."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from asyncray.config import START_DEADLINE, STOP_DEADLINE
from asyncray.io import descriptors, forking, sessions
from asyncray.io.processes import ends_within, kill, python, spawn
from asyncray.io.sessions import base_directory

__all__ = [
    "ADDRESS_SCHEME",
    "LocalNode",
    "base_directory",
    "configuration",
    "connect",
    "ends_within",
    "point_latest",
    "start_node",
]

LATEST = "latest"
ADDRESS_SCHEME = "unix:"


class LocalNode:
    """A node's daemon that this process has started, and the connection to it.

    Args:
        pid: of the daemon.
        directory: the session's.
    """

    def __init__(self, connection: socket.socket, pid: int, directory: str) -> None:
        self.connection = connection
        self.pid = pid
        self.directory = directory

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
        """Waits for the daemon to end; kills what does not end in time, and removes what that leaves."""
        if not ends_within(self.pid, STOP_DEADLINE):
            kill(self.pid)
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # somebody else (a child watcher of the program) has reaped it
        sessions.clean_up(self.directory, STOP_DEADLINE)


def configuration(amounts: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a new node's daemon, whose session directory is made. Its "lock" is an open descriptor."""
    descriptors.fill_standard()
    descriptors.check_limit()
    directory, lock = sessions.new_session()
    return {"directory": directory, "lock": lock, "driver": None, **amounts}


def start_node(amounts: dict[str, Any]) -> LocalNode:
    """Starts a daemon for this process. It ends when the connection does.

    Args:
        amounts: "num_cpus", "num_gpus", "resources", "object_store_memory": numbers, or None for what is there.

    Raises:
        OSError: no directory, or no process, could be made.
    """
    config = configuration(amounts)
    directory, lock = config["directory"], config["lock"]
    ours, its = _socketpair()
    config["driver"] = its.fileno()
    try:
        command = python("asyncray.node.__main__", json.dumps(config))
        output = os.path.join(directory, "logs", "node.err")
        pid = spawn(command, [its.fileno(), lock], dict(os.environ), output)
    except BaseException:
        close(ours)
        sessions.ended(directory)
        raise
    finally:
        close(its)
        sessions.close_lock(lock)  # the daemon holds it now
    point_latest(directory)
    return LocalNode(ours, pid, directory)


def _socketpair() -> tuple[socket.socket, socket.socket]:
    with forking.lock:
        ends = socket.socketpair()
        for end in ends:
            forking.close_in_child(end.close, end.fileno())
    return ends


def close(connection: socket.socket) -> None:
    """Closes a socket of ``start_node`` or ``connect`` that no channel has taken over."""
    with forking.lock:
        descriptor = connection.fileno()
        connection.close()
        forking.closed(descriptor)


def point_latest(directory: str) -> None:
    """Makes the link to the newest session, for people who look for its logs."""
    link = os.path.join(os.path.dirname(directory), LATEST)
    temporary = f"{link}.{os.getpid()}"
    try:
        os.symlink(directory, temporary)
        os.replace(temporary, link)
    except OSError:
        pass  # it is a convenience


def connect(address: str) -> socket.socket:
    """Connects to a running node.

    Args:
        address: "auto" for the newest running session of this user, or ``unix:PATH``.

    Raises:
        ConnectionError: there is none, or it does not answer.
        ValueError: not an address.
    """
    descriptors.fill_standard()
    if address == "auto":
        paths = [sessions.socket_of(directory) for directory in sessions.running(base_directory())]
    elif address.startswith(ADDRESS_SCHEME):
        paths = [address.removeprefix(ADDRESS_SCHEME)]
    else:
        raise ValueError(f"The address {address!r} is none of 'local', 'auto' or 'unix:PATH'.")
    reason = "no session runs"
    for path in paths:
        with forking.lock:
            connection = socket.socket(socket.AF_UNIX)
            forking.close_in_child(connection.close, connection.fileno())
        try:
            _set_deadline(connection, START_DEADLINE)
            connection.connect(path)
            _set_deadline(connection, 0)
        except OSError as error:
            close(connection)
            reason = error.strerror or str(error)
        else:
            return connection
    raise ConnectionError(
        f"Could not find a running node at {address} ({reason}). Start one with `asyncray node`, or call init() "
        "without an address."
    )


def _set_deadline(connection: socket.socket, seconds: float) -> None:
    """For connecting and writing. ``settimeout`` would make the socket non-blocking: then a full queue is an error."""
    microseconds = int(seconds * 1e6)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(microseconds, 1_000_000)))
