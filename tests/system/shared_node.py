"""One node for many tests: each test is a driver of its own, and must leave the node as it found it.

Starting a node costs most of a second of CPU time, more than most tests do. A driver that connects to a running node
gets a job of its own: its workers, actors and objects begin and end with it. So tests share the node and nothing else.
After each test ``check`` looks at the node from the inside, for leaks that a check of processes cannot see.

A test that ends or harms the node asks for ``own_node`` instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from asyncray.cli.observer import Observer

START_DEADLINE = 60.0
"""Seconds for a node to start, on a machine that is busy with other tests."""

DEADLINE = 5.0
"""Seconds in which nothing may be left of a driver that has gone, as promised."""

PROGRAM = """
import ctypes, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a test process that is killed leaves no node
from asyncray.cli import main
main()
"""


class SharedNode:
    """`asyncray node` as a child of this process.

    Args:
        directory: for its session, and for the file in which ``init("auto")`` finds it.
        cpus: the number of its CPUs.
    """

    def __init__(self, directory: Path, cpus: int) -> None:
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
        self.directory = directory
        command = [sys.executable, "-c", PROGRAM, "node", "--json", "--num-cpus", str(cpus)]
        environment = {**os.environ, "ASYNCRAY_TMPDIR": str(directory)}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            facts = json.loads(output.readline())
        self.address: str = facts["address"]
        self.session = Path(facts["session_dir"])
        self._daemon = psutil.Process(self._process.pid)
        self.zygote = self._daemon.children()[0]

    def __repr__(self) -> str:
        return f"<SharedNode {self.address} pid={self._process.pid}>"

    def problem(self) -> str:
        """The leftovers by which the node differs from a new one, or the reason why it cannot be used. Or nothing."""
        if self._process.poll() is not None:
            return f"the daemon has ended with status {self._process.returncode}"
        if not self.zygote.is_running() or self.zygote.status() == psutil.STATUS_ZOMBIE:
            return "the zygote has ended"
        with Observer(self.address) as observer:
            status = observer.request("status")
        found = {
            "drivers": status["drivers"],
            "tasks": status["tasks"]["unfinished"],
            "actors": status["actors"],
            "objects": status["objects"],
            "bytes": status["store"]["used"],
            "busy workers": [worker for worker in status["workers"] if worker["running"]],
            "resources in use": [name for name, n in status["resources"].items() if status["available"].get(name) != n],
        }
        left = {name: value for name, value in found.items() if value}
        if left:
            return str(left)
        spare = {worker["pid"] for worker in status["workers"] if worker["state"] in ("starting", "idle")}
        others = {process.pid for process in self.processes()} - spare - {self._process.pid, self.zygote.pid}
        return f"processes: {others}" if others else ""

    def processes(self) -> list[psutil.Process]:
        """The daemon, the zygote, and all that they have started."""
        return [self._daemon, *self._daemon.children(recursive=True)]

    def check(self) -> None:
        """Fails if a test has left something on the node. Waits for tasks and processes that are just ending."""
        end = time.monotonic() + DEADLINE
        while (problem := self.problem()) and time.monotonic() < end:
            time.sleep(0.005)
        assert not problem, f"left on the node that tests share (did the test need `own_node`?): {problem}"

    def stop(self) -> None:
        """Ends it, as people do."""
        self._process.terminate()
        self._process.wait(START_DEADLINE)


class SharedNodes:
    """The shared nodes of this process, by their number of CPUs. Each starts when a test first needs it."""

    def __init__(self) -> None:
        self.directory = Path(f"/tmp/asyncray-test-shared-{os.getpid()}")
        self.nodes: dict[int, SharedNode] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<SharedNodes {self.nodes}>"

    def get(self, cpus: int) -> SharedNode:
        node = self.nodes.get(cpus)
        if node is None:
            self._count += 1
            node = self.nodes[cpus] = SharedNode(self.directory / str(self._count), cpus)
            node.check()
        return node

    def has(self, session: Path) -> bool:
        """True for the session directory of a node that is shared."""
        return any(node.session == session for node in self.nodes.values())

    def check(self, node: SharedNode) -> None:
        """Fails if a test has left something on a node, and then replaces it: no other test shall suffer."""
        try:
            node.check()
        except BaseException:
            self.discard(node)
            raise

    def discard(self, node: SharedNode) -> None:
        """Ends a node that a test has harmed. The next test gets a new one."""
        self.nodes = {cpus: other for cpus, other in self.nodes.items() if other is not node}
        node.stop()

    def stop(self) -> None:
        for node in list(self.nodes.values()):
            self.discard(node)
