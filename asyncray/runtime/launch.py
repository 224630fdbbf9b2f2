"""Starts a node for this process, or finds one that runs."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from asyncray.config import KILLED_DEADLINE, START_DEADLINE
from asyncray.io import descriptors, forking, sessions
from asyncray.io.credentials import credentials_of
from asyncray.io.processes import ends_within, is_child, kill
from asyncray.io.spawning import check_global_lock, check_interpreter, start_interpreter
from asyncray.runtime import daemon_log
from asyncray.runtime.deadlines import Deadline

if TYPE_CHECKING:
    from asyncray.words import NodeAmounts, NodeConfig

LATEST = "latest"
ADDRESS_SCHEME = "unix:"


class LocalNode:
    """A node's daemon that this process has started, and the connection to it.

    Args:
        pid: of the daemon.
        directory: the session's.
        cluster: the address of the cluster that it shall join, or empty.
    """

    def __init__(self, connection: socket.socket, pid: int, directory: str, cluster: str = "") -> None:
        self.connection = connection
        self.pid = pid
        self.directory = directory
        self.cluster = cluster

    def __repr__(self) -> str:
        return f"<LocalNode pid={self.pid} {self.directory}>"

    def log_tail(self) -> str:
        """The last lines of the daemon's log and errors, for an error message."""
        return "\n".join(daemon_log.tail(self.directory)) or _lack_of_room(self.directory)

    def wait(self, deadline: Deadline) -> None:
        """Waits for the daemon to end. Kills it if it does not end in time, and cleans up behind it."""
        # Where SIGCHLD is ignored the system reaps the daemon, and its pid may be that of another process by now.
        if is_child(self.pid) and not ends_within(self.pid, deadline.left()):
            kill(self.pid)
            ends_within(self.pid, KILLED_DEADLINE)
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # a child watcher of the program, or the system, has reaped it
        sessions.clean_up(self.directory, max(deadline.left(), KILLED_DEADLINE))


def _lack_of_room(directory: str) -> str:
    """Says that the disk is full, if it is: then a daemon that fails cannot write why. Otherwise empty."""
    try:
        found = os.statvfs(directory)
    except OSError as error:
        return str(error)
    # A file system without a limit of files (btrfs) reports 0 files, and 0 of them free.
    has_room = found.f_bavail and (found.f_favail or not found.f_files)
    return "" if has_room else f"No space left on the device of {directory}"


def configuration(amounts: NodeAmounts, program: str | None = None) -> NodeConfig:
    """The configuration of a new node's daemon, whose session directory is made. Its "lock" is an open descriptor.

    Args:
        amounts: the resources of the node; None for those of the machine.
        program: the command line of the program that starts it for itself; None for a node that programs share.

    Raises:
        OSError: no directory could be made, or the limits of the system are too low.
        RuntimeError: this process has no interpreter that a node could run.
    """
    check_interpreter()
    descriptors.fill_standard()
    descriptors.check_limit()
    directory, lock = sessions.new_session(program)
    return {"directory": directory, "lock": lock, "driver": None, "amounts": amounts}


def start_node(amounts: NodeAmounts) -> LocalNode:
    """Starts a daemon for this process. It ends when the connection does.

    Args:
        amounts: the resources of the node; None for those of the machine.

    Raises:
        OSError: no directory, or no process, could be made.
        RuntimeError: this process has no interpreter that a node could run.
    """
    return _start(configuration(amounts, _own_command()), {}, "")


def start_node_in_cluster(cluster: ClusterAddress) -> LocalNode:
    """Starts a daemon without CPUs that joins a cluster for this process. It ends when the connection does.

    Raises:
        ConnectionError: there is no token for the cluster, or no good one; or the files for TLS cannot be used.
        OSError, RuntimeError: as ``start_node``.
    """
    from asyncray.io import cluster_tokens  # start-up cost: few programs start such a node

    try:
        token = cluster_tokens.find_token(cluster.text)
    except cluster_tokens.TokenError as error:
        raise unreachable(cluster.text, str(error)) from None
    if any(name.startswith("ASYNCRAY_TLS_") for name in os.environ):
        _check_tls(cluster)
    nothing: NodeAmounts = {"num_cpus": 0, "num_gpus": 0, "resources": None, "object_store_memory": None}
    config = configuration(nothing, _own_command())
    config["head"] = cluster.host, cluster.port
    # Not among the arguments, which all users of the machine can read.
    return _start(config, {cluster_tokens.TOKEN_VARIABLE: token.hex()}, cluster.text)


def _check_tls(cluster: ClusterAddress) -> None:
    """The node reads the files for TLS itself, but could not say as clearly what is wrong with them."""
    from asyncray.io import tls  # start-up cost: few clusters have it

    try:
        tls.find_tls()
    except tls.TlsError as error:
        raise unreachable(cluster.text, str(error)) from None


def unreachable(cluster: str, why: str) -> ConnectionError:
    """The error of a program that cannot become part of a cluster."""
    return ConnectionError(f"Could not connect to the cluster at {cluster}: {why}")


def _start(config: NodeConfig, variables: dict[str, str], cluster: str) -> LocalNode:
    directory, lock = config["directory"], config["lock"]
    output = os.path.join(directory, "logs", "node.err")
    environment = {**os.environ, **sessions.variables(), **variables}
    ends: tuple[socket.socket, ...] = ()
    try:
        ours, its = ends = _socketpair()
        config["driver"] = its.fileno()
        pid = start_interpreter(
            "asyncray.node.__main__",
            [directory, str(lock), cluster, repr(config)],
            [its.fileno(), lock],
            environment,
            output,
        )
    except BaseException:
        for end in ends:
            close(end)
        sessions.close_lock(lock)
        sessions.discard(directory)
        raise
    close(its)
    sessions.close_lock(lock)  # the daemon holds it now
    return LocalNode(ours, pid, directory, cluster)


def _socketpair() -> tuple[socket.socket, socket.socket]:
    with forking.lock:
        ours, its = socket.socketpair()
        forking.close_in_child(ours.close, ours.fileno())
        forking.close_in_child(its.close, its.fileno())
    return ours, its


def close(connection: socket.socket) -> None:
    """Closes a socket of ``start_node`` or ``connect`` that no channel has taken over."""
    with forking.lock:
        descriptor = connection.fileno()
        connection.close()
        forking.closed(descriptor)


def _own_command() -> str:
    """The command line of this program, for people."""
    return " ".join(sys.orig_argv[1:] or sys.orig_argv)


def point_latest(directory: str) -> None:
    """Makes the link to the newest session of a node that programs share, for people who look for its logs."""
    link = os.path.join(os.path.dirname(directory), LATEST)
    temporary = f"{link}.{os.getpid()}"
    try:
        os.symlink(directory, temporary)
        os.replace(temporary, link)
    except OSError:
        pass  # the link is a convenience


class ClusterAddress(NamedTuple):
    """The address of a cluster: that of its head."""

    host: str
    """An IP address."""
    port: int

    @property
    def text(self) -> str:
        """As people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_cluster_address(address: str) -> ClusterAddress | None:
    """Reads HOST:PORT. None for an address of another kind.

    Raises:
        ConnectionError: the host has no IP address.
        ValueError: not an address.
    """
    if address == "auto" or address.startswith(ADDRESS_SCHEME):
        return None
    # Start-up cost: a program with a node of its own needs no network.
    from asyncray.io import addresses

    try:
        host, port = addresses.parse_address(address)
    except ValueError:
        scheme, mark, rest = address.partition("://")
        hint = f" Write {rest!r}: {scheme}:// is no part of it." if mark and rest else ""
        raise ValueError(
            f"The address {address!r} is none of 'local', 'auto', 'HOST:PORT' of a head, and 'unix:PATH'.{hint}"
        ) from None
    try:
        return ClusterAddress(addresses.resolve(host, port), port)
    except OSError as error:
        raise unreachable(address, error.strerror or str(error)) from None


def connect(address: str) -> socket.socket:
    """Connects to a running node of this user on this machine.

    Args:
        address: "auto" for the newest node that ``asyncray node`` has started, ``HOST:PORT`` for a node of that
            cluster, or ``unix:PATH``.

    Raises:
        ConnectionError: there is none, it does not answer, or it belongs to another user.
        RuntimeError: this process runs without the global interpreter lock.
        ValueError: not an address.
    """
    check_global_lock()
    descriptors.fill_standard()
    reason = "no session runs"
    for path in _paths(address):
        with forking.lock:
            connection = socket.socket(socket.AF_UNIX)
            forking.close_in_child(connection.close, connection.fileno())
        try:
            _set_deadline(connection, START_DEADLINE)
            connection.connect(path)
            _set_deadline(connection, 0)
            _check_owner(connection)
        except OSError as error:
            close(connection)
            reason = error.strerror or str(error)
        except BaseException:  # of a signal handler
            close(connection)
            raise
        else:
            return connection
    if address == "auto" and sessions.running():
        reason = "only nodes run that programs have started for themselves; `asyncray status` lists them"
    raise ConnectionError(
        f"Could not find a running node at {address} ({reason}). Start one with `asyncray node`, or call init() "
        "without an address."
    )


def _paths(address: str) -> list[str]:
    """The sockets that may be meant, the best one first."""
    if address.startswith(ADDRESS_SCHEME):
        return [address.removeprefix(ADDRESS_SCHEME)]
    cluster = read_cluster_address(address)
    if cluster is None:
        directories = [each for each in sessions.running() if sessions.program_of(each) is None]
    else:
        from asyncray.io.cluster_sessions import sessions_of  # start-up cost, as above

        directories = sessions_of(cluster.text)
    return [sessions.socket_of(directory) for directory in directories]


def _check_owner(connection: socket.socket) -> None:
    """Raises ConnectionError if the node belongs to another user: this process would run code that it sends."""
    peer = credentials_of(connection)
    if peer is not None and peer.user != os.geteuid():
        raise ConnectionError(f"it belongs to user {peer.user} and you are user {os.geteuid()}")


def _set_deadline(connection: socket.socket, seconds: float) -> None:
    """Limits connecting and writing. ``settimeout`` would make the socket non-blocking, and a full queue an error."""
    microseconds = int(seconds * 1e6)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(microseconds, 1_000_000)))
