"""A process of a cluster dies: nobody hangs, and nothing of it is left on any machine after five seconds.

The cluster has a head and another node. A program at one of them, or at a small node that has joined for it from
"another machine" (another directory for sessions), waits for a task that never returns and has started a process.
In the last tests that task runs on the other node.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from asyncray.io.session_names import name_of
from asyncray.io.sessions import is_running
from asyncray.testing import Cluster
from tests.system.conftest import DEADLINE as CLEAN_UP_DEADLINE
from tests.system.waiting import until

HEAD, NODE, SMALL = "head", "node", "small node"
PLACES = pytest.mark.parametrize("place", [HEAD, NODE, SMALL])
SIGNALS = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])

PROGRAM = """\
import subprocess
import sys
import numpy as np
import asyncray.sync as ray

context = ray.init(sys.argv[1])

@ray.remote(num_cpus=0, max_retries=0, resources={"far": 1} if sys.argv[2] == "far" else None)
def sleep(array, seconds):
    subprocess.run(["sleep", seconds])

array = ray.put(np.zeros(1_000_000))
ref = sleep.remote(array, sys.argv[3])
print(context["node_id"], context["session_dir"], flush=True)
try:
    ray.get(ref)
except Exception as error:
    print(type(error).__name__, flush=True)
ray.shutdown()
"""


_NUMBERS = itertools.count()


def wait_for_process(command: list[str]) -> psutil.Process:
    """Waits until a process with this command runs."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == command]
        return bool(found)

    until(look)
    return found[0]


class Program:
    """A driver that waits for a task which never returns.

    Args:
        place: where it is.
        directory: of its sessions.
        task: "near" or "far".
    """

    def __init__(self, cluster: Cluster, place: str, directory: str, task: str = "near") -> None:
        head, node = cluster.list_all_nodes()
        address = {HEAD: head.address, NODE: node.address, SMALL: cluster.address}[place]
        seconds = f"{1000 + next(_NUMBERS)}.{os.getpid()}"  # as those of no other process on this machine
        variables = {"ASYNCRAY_TMPDIR": directory} if place == SMALL else {}
        variables["ASYNCRAY_TOKEN"] = Path(head.session_dir, "cluster.token").read_text()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, task, seconds],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.node_id, self.session_dir = self.process.stdout.readline().split()
        self.child = wait_for_process(["sleep", seconds])
        self.daemon = self._daemon()
        self.zygote = next(p for p in self.daemon.children() if "asyncray.worker.zygote" in " ".join(p.cmdline()))
        self.tree = [*self.daemon.children(recursive=True), self.daemon]

    def _daemon(self) -> psutil.Process:
        """The first ancestor of the task that is no worker and no zygote."""
        worker, zygote, daemon, *_ = self.child.parents()
        assert "asyncray.worker.zygote" in " ".join(zygote.cmdline()), (worker, zygote)
        return daemon

    def error(self) -> str:
        """Waits for the end of the program. Returns the error that its ``get`` raised."""
        output, _ = self.process.communicate(timeout=30)
        return output.strip()

    def check_nothing_left(self) -> None:
        """Nothing of the node is left within the time that is promised."""
        _, alive = psutil.wait_procs(self.tree, timeout=CLEAN_UP_DEADLINE)
        assert not alive
        assert not is_running(self.session_dir)
        assert os.listdir(self.session_dir) == ["logs"]
        assert not [name for name in os.listdir("/dev/shm") if name.startswith(name_of(self.session_dir))]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    with Cluster(initialize_head=True) as made:
        made.add_node(resources={"far": 1})
        yield made


@pytest.fixture
def program(cluster: Cluster, place: str) -> Iterator[Program]:
    with tempfile.TemporaryDirectory(dir=os.environ["ASYNCRAY_TMPDIR"]) as directory:
        made = Program(cluster, place, directory)
        yield made
        made.close()
        until(lambda: place != SMALL or not made.daemon.is_running())


def state(cluster: Cluster, program: Program) -> str:
    """The state of the program's node, as the head knows it."""
    assert cluster.head_node is not None
    return str(cluster.head_node.rows()[program.node_id]["State"])


@PLACES
@SIGNALS
def test_a_daemon(cluster: Cluster, program: Program, place: str, how: signal.Signals) -> None:
    head, node = cluster.list_all_nodes()
    program.daemon.send_signal(how)
    assert program.error() == "LocalNodeDiedError"
    program.check_nothing_left()
    if place != HEAD:
        wanted = "LOST" if how == signal.SIGKILL else "LEFT"
        until(lambda: state(cluster, program) == wanted)
    elif how == signal.SIGTERM:
        until(lambda: not node.is_alive)
        assert node.exit_code == 3
    else:
        assert node.is_alive  # it waits for the head for a minute
    assert head.is_alive == (place != HEAD)


@PLACES
def test_a_zygote(cluster: Cluster, program: Program, place: str) -> None:
    program.zygote.kill()
    assert program.error() == "WorkerCrashedError"
    _, alive = psutil.wait_procs([program.child], timeout=CLEAN_UP_DEADLINE)
    assert not alive
    if place == SMALL:
        program.check_nothing_left()  # it ends with the program, in order
        until(lambda: state(cluster, program) == "LEFT")
    else:
        assert state(cluster, program) == "ALIVE"


@PLACES
@SIGNALS
def test_a_driver(cluster: Cluster, program: Program, place: str, how: signal.Signals) -> None:
    program.process.send_signal(how)
    _, alive = psutil.wait_procs([program.child], timeout=CLEAN_UP_DEADLINE)
    assert not alive
    if place == SMALL:
        program.check_nothing_left()
        until(lambda: state(cluster, program) == "LEFT")
    else:
        assert state(cluster, program) == "ALIVE"


@pytest.fixture
def far(cluster: Cluster) -> Iterator[Program]:
    """A program at a small node, its task on the other. ``daemon``, ``zygote`` and ``child`` are those of the task."""
    with tempfile.TemporaryDirectory(dir=os.environ["ASYNCRAY_TMPDIR"]) as directory:
        made = Program(cluster, SMALL, directory, "far")
        yield made
        made.close()
        until(lambda: not is_running(made.session_dir))


@SIGNALS
def test_the_daemon_of_a_task_elsewhere(cluster: Cluster, far: Program, how: signal.Signals) -> None:
    _, node = cluster.list_all_nodes()
    assert far.daemon.pid == node.pid
    far.daemon.send_signal(how)
    assert far.error() == "NodeDiedError"
    _, alive = psutil.wait_procs(far.tree, timeout=CLEAN_UP_DEADLINE)
    assert not alive


def test_the_zygote_of_a_task_elsewhere(far: Program) -> None:
    far.zygote.kill()
    assert far.error() == "WorkerCrashedError"
    _, alive = psutil.wait_procs([far.child], timeout=CLEAN_UP_DEADLINE)
    assert not alive


@SIGNALS
def test_the_driver_of_a_task_elsewhere(cluster: Cluster, far: Program, how: signal.Signals) -> None:
    _, node = cluster.list_all_nodes()
    far.process.send_signal(how)
    _, alive = psutil.wait_procs([far.child], timeout=CLEAN_UP_DEADLINE)
    assert not alive
    assert node.is_alive
    until(lambda: node.rows()[node.node_id]["Available"].get("far") == 1)
    assert state(cluster, far) == "LEFT"


def test_the_small_node_of_the_driver_of_a_task_elsewhere(cluster: Cluster, far: Program) -> None:
    _, node = cluster.list_all_nodes()
    (small,) = psutil.Process(far.process.pid).children()
    left = [small, *small.children(recursive=True), far.child]
    small.kill()
    assert far.error() == "LocalNodeDiedError"
    _, alive = psutil.wait_procs(left, timeout=CLEAN_UP_DEADLINE)
    assert not alive
    until(lambda: node.rows()[node.node_id]["Available"].get("far") == 1)
    assert state(cluster, far) == "LOST"
