"""A cluster of real nodes on one machine, with the names of Ray's ``cluster_utils.Cluster``.

Each node is an ``asyncray node`` of its own, with all its processes. Promises: a node ends with the program that has
started it, even if that is killed; after ``shutdown`` and ``remove_node`` nothing of the nodes is left but their logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any, Self

from asyncray import sync
from asyncray.api.hints import did_you_mean
from asyncray.api.session import Context
from asyncray.api.thread_call import ThreadCall
from asyncray.cli.observer import Observer
from asyncray.config import START_DEADLINE, STOP_DEADLINE
from asyncray.exceptions import AsyncrayError
from asyncray.io import cluster_tokens, forking, sessions
from asyncray.io.spawning import command_line

_POLL = 0.02
"""Seconds between two looks at what nodes know of each other."""

_STORE = 150 << 20
"""Bytes of a node's object store: Ray's number. Several nodes share the machine."""


class ClusterNode:
    """A node of a ``Cluster``.

    Attributes:
        node_id: hex digits.
        address: of this node, for programs: ``init(node.address)``.
        pid: of its daemon.
        session_dir: with its logs.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], held: contextlib.ExitStack, errors: IO[bytes], facts: Any
    ) -> None:
        self._process = process
        # Closes the pipe at whose other end the daemon reads, and the file of its errors.
        self._held = held
        # The daemon's standard error.
        self._errors = errors
        # Its text when it was last read.
        self._last_errors = ""
        self.address: str = facts["address"]
        self.cluster_address: str = facts["cluster_address"]
        self.pid: int = facts["pid"]
        self.session_dir: str = facts["session_dir"]
        with Observer(self.address) as observer:
            self.node_id: str = observer.facts["node_id"].hex()

    def __repr__(self) -> str:
        return f"<ClusterNode {self.node_id} pid={self.pid}{'' if self.is_alive else ' ended'}>"

    @property
    def unique_id(self) -> str:
        """The same as ``node_id``."""
        return self.node_id

    @property
    def is_alive(self) -> bool:
        """True while its daemon runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of its daemon; None while it runs."""
        return self._process.poll()

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of ``nodes()`` as this node knows them, by node ID.

        Raises:
            ConnectionError, TimeoutError: the node does not answer.
        """
        with Observer(self.address) as observer:
            return {row["NodeID"]: row for row in observer.request("nodes")}

    def errors(self) -> str:
        """The text that the daemon has written to its standard error."""
        if not self._errors.closed:
            self._errors.seek(0)
            self._last_errors = self._errors.read().decode(errors="replace")
        return self._last_errors

    def ask_to_end(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def end(self) -> None:
        """Waits until the node has ended and nothing of it is left. Kills what does not end in time."""
        try:
            self._process.wait(2 * STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
        sessions.clean_up(self.session_dir, STOP_DEADLINE)
        self.errors()
        self._held.close()

    def kill(self) -> None:
        """Kills the daemon. Its zygote, which outlives it for a moment, ends everything that it has started."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """Several nodes on this machine: a cluster as programs see it.

    Args:
        initialize_head: start the head at once.
        connect: make this program a driver of the cluster at once.
        head_node_args: as ``add_node``, for the head.

    In asyncio code use ``async with``, and call methods that wait in a thread, for example
    ``await asyncio.to_thread(cluster.add_node)``.

    Raises:
        AsyncrayError: the head did not start.

    Example::

        with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
            node = cluster.add_node(num_cpus=4, resources={"disk": 1})
            cluster.connect()
            cluster.remove_node(node, allow_graceful=False)  # as if its power failed
    """

    def __init__(
        self,
        initialize_head: bool = False,  # noqa: FBT001 - as in Ray
        connect: bool = False,  # noqa: FBT001 - as in Ray
        head_node_args: Mapping[str, Any] | None = None,
    ) -> None:
        # In the order in which they were started.
        self._nodes: list[ClusterNode] = []
        # IDs of nodes that were removed.
        self._removed: set[str] = set()
        self.head_node: ClusterNode | None = None
        self.connected = False
        if head_node_args and not initialize_head:
            raise ValueError("head_node_args are for initialize_head=True.")
        if connect and not initialize_head:
            raise ValueError("connect=True needs initialize_head=True: there is no node yet.")
        if initialize_head:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    def __repr__(self) -> str:
        where = "without a head" if self.head_node is None else self.head_node.cluster_address
        return f"<Cluster {where}, {len(self._nodes)} nodes>"

    @property
    def address(self) -> str:
        """HOST:PORT of the head, for ``init`` and for ``asyncray node --address``.

        Raises:
            RuntimeError: the cluster has no head.
        """
        if self.head_node is None:
            raise RuntimeError("The cluster has no head yet: call add_node() first.")
        return self.head_node.cluster_address

    @property
    def gcs_address(self) -> str:
        """The same as ``address``, by Ray's name."""
        return self.address

    @property
    def worker_nodes(self) -> list[ClusterNode]:
        """The nodes besides the head."""
        return [node for node in self._nodes if node is not self.head_node]

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed: the head first, if it has one."""
        return list(self._nodes)

    def connect(self, namespace: str | None = None) -> Context:
        """Makes this program a driver of the cluster. It is attached to the node with the head.

        Args:
            namespace: as in ``init``.
        """
        context = sync.init(self.address, namespace=namespace)
        self.connected = True
        return context

    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:  # noqa: FBT001 - as in Ray
        """Starts a node: the first one is the head, the others join it. The environment of this program is the node's.

        Args:
            wait: return when all nodes know it.
            node_args: num_cpus (1), num_gpus (0), memory and object_store_memory in bytes, resources as a dict of names
                and amounts, labels as a dict of names and texts, node_name.

        Raises:
            AsyncrayError: it did not start.
            TimeoutError: the nodes did not learn of it in time.
            TypeError: an unknown argument.
        """
        options, variables = _options(node_args), {}
        if self.head_node is None:
            options += ["--head"]
        else:
            options += ["--address", self.address]
            # Named, because the environment may name another directory of sessions by now, or another token.
            variables = {
                cluster_tokens.TOKEN_VARIABLE: "",
                cluster_tokens.TOKEN_FILE_VARIABLE: os.path.join(self.head_node.session_dir, sessions.TOKEN_FILE),
            }
        node = start_daemon(options, variables)
        self._nodes.append(node)
        if self.head_node is None:
            self.head_node = node
        if wait:
            self.wait_for_nodes()
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:  # noqa: FBT001 - as in Ray
        """Ends a node. Returns when nothing of it is left on this machine; others may learn of it a moment later.

        Args:
            allow_graceful: it stops in order. False: it is killed, as if its power failed.

        Raises:
            ValueError: no node of this cluster.
        """
        if node not in self._nodes:
            raise ValueError(f"{node!r} is no node of this cluster, or was removed before.")
        if allow_graceful:
            node.ask_to_end()
        else:
            node.kill()
        self._forget(node)

    def _forget(self, node: ClusterNode) -> None:
        self._nodes.remove(node)
        self._removed.add(node.node_id)
        if node is self.head_node:
            self.head_node = None
        node.end()

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Waits until each node knows that all nodes live, and that all removed nodes do not.

        Raises:
            TimeoutError: that takes longer than ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        wanted = {node.node_id for node in self._nodes}
        for node in self._nodes:
            _wait(partial(self._problem_of, node, wanted), end)

    def _problem_of(self, node: ClusterNode, wanted: set[str]) -> str:
        """Says what a node does not know; empty if it knows all."""
        try:
            alive = {other for other, row in node.rows().items() if row["Alive"]}
        except (ConnectionError, TimeoutError) as error:
            return f"{node!r} does not answer: {error}"
        if missing := wanted - alive:
            return f"{node!r} does not know the nodes {', '.join(sorted(missing))}"
        if ended := self._removed & alive:
            return f"{node!r} takes the removed nodes {', '.join(sorted(ended))} to be alive"
        return ""

    def shutdown(self) -> None:
        """Ends the session of this program, if it is connected by ``connect``, and all nodes."""
        try:
            if self.connected:
                self.connected = False
                sync.shutdown()
        finally:
            # The head comes last: the others would end with it, as if by an accident.
            self._end_all(self.worker_nodes)
            self._end_all(self._nodes)

    def _end_all(self, nodes: list[ClusterNode]) -> None:
        """Ends nodes side by side. If one makes trouble, the others still end."""
        with contextlib.ExitStack() as steps:
            for node in list(nodes):
                node.ask_to_end()
                steps.callback(self._forget, node)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await ThreadCall(self.shutdown).finished()


def _wait(problem: Callable[[], str], end: float) -> None:
    """Waits until there is no problem."""
    while found := problem():
        if time.monotonic() > end:
            raise TimeoutError(f"The nodes of the cluster did not learn of each other in time: {found}.")
        time.sleep(_POLL)


def _options(given: Mapping[str, Any]) -> list[str]:
    """The options of ``asyncray node`` for the arguments of ``add_node``."""
    arguments = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": _STORE, **given}
    options = []
    for name, value in arguments.items():
        if name not in _OPTIONS:
            raise TypeError(f"add_node() has no argument {name!r}.{did_you_mean(name, _OPTIONS)}")
        if value is not None:
            text = json.dumps(dict(value)) if name in ("resources", "labels") else str(value)
            options += [_OPTIONS[name], text]
    return options


_OPTIONS = {
    "num_cpus": "--num-cpus",
    "num_gpus": "--num-gpus",
    "memory": "--memory",
    "object_store_memory": "--object-store-memory",
    "resources": "--resources",
    "labels": "--labels",
    "node_name": "--name",
}
"""The arguments of ``add_node`` and the options of ``asyncray node``."""


def start_daemon(options: list[str], variables: Mapping[str, str], prefix: Sequence[str] = ()) -> ClusterNode:
    """Starts a daemon, and waits until programs can connect to it.

    Args:
        options: of ``asyncray node``.
        variables: of the environment, besides those of this process.
        prefix: a command that runs the command which follows it, in its own process.

    Raises:
        AsyncrayError: it did not start.
    """
    command = [*prefix, *command_line("asyncray.cli"), "node", "--json", "--until-eof", *options]
    environment = {**os.environ, **variables}
    with contextlib.ExitStack() as undo:
        errors = undo.enter_context(tempfile.TemporaryFile())
        # A child that is forked meanwhile does not keep the node alive.
        with forking.lock:
            its_end, ours = os.pipe()
            undo.callback(forking.close, forking.own(ours))
        with os.fdopen(its_end) as standard_input:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        undo.callback(process.wait)
        undo.callback(process.kill)
        assert process.stdout is not None
        with process.stdout as output:
            line = _first_line(output.fileno())
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_DEADLINE)
            errors.seek(0)
            raise AsyncrayError(errors.read().decode(errors="replace").strip() or "The node did not start in time.")
        held = contextlib.ExitStack()
        node = ClusterNode(process, held, errors, json.loads(line))
        held.push(undo.pop_all())
        return node


def _first_line(descriptor: int) -> bytes:
    """The first line that a stream brings; empty if it ends before, or brings none in time."""
    end = time.monotonic() + START_DEADLINE
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, end - time.monotonic())):
            data = os.read(descriptor, 65536)
            if not data:
                return b""
            line += data
    return line if line.endswith(b"\n") else b""
