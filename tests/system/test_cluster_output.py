"""Output, errors and notices of other nodes reach the driver: real daemons, and programs that run to their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from asyncray.testing import Cluster

DEADLINE = 60.0


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    """A head, a node with 2 R, and a node with 1 S."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as made:
        made.add_node(num_cpus=2, resources={"R": 2}, wait=False)
        made.add_node(num_cpus=1, resources={"S": 1})
        yield made


def start(cluster: Cluster, program: str, directory: Path | None = None) -> subprocess.Popen[str]:
    """Starts a driver at the head, or with another directory for sessions at a small node that joins for it."""
    code = "import os, sys, time\nimport asyncray.sync as ray\n" + dedent(program)
    head = cluster.list_all_nodes()[0]
    address, variables = head.address, {}
    if directory is not None:
        token = Path(head.session_dir, "cluster.token").read_text()
        address, variables = cluster.address, {"ASYNCRAY_TMPDIR": str(directory), "ASYNCRAY_TOKEN": token}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, address],
        env={**os.environ, **variables},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


def run(cluster: Cluster, program: str, directory: Path | None = None) -> tuple[list[str], str]:
    """Runs a driver to its end: the lines of its output without pids, sorted, and its errors."""
    with start(cluster, program, directory) as driver:
        out, err = driver.communicate(timeout=DEADLINE)
    assert driver.returncode == 0, err
    return sorted(re.sub(r"pid=\d+", "pid=N", line) for line in out.splitlines()), err


def test_all_lines_of_other_nodes_reach_the_driver_also_the_last_ones_and_errors(cluster: Cluster) -> None:
    out, err = run(
        cluster,
        """
        @ray.remote(resources={"S": 1})
        def child():
            print("from the child")
            sys.stdout.write("not finished")
            sys.stdout.flush()

        @ray.remote
        def bad():
            raise ValueError("nobody asks")

        @ray.remote(resources={"R": 1})
        def parent():
            print("from the parent", file=sys.stderr)
            bad.remote()
            return [child.remote()]

        ray.init(sys.argv[1])
        (ref,) = ray.get(parent.remote())
        ray.get(ref)
        ray.shutdown()
        """,
    )
    assert out == ["(child pid=N, ip=127.0.0.1) from the child", "(child pid=N, ip=127.0.0.1) not finished"]
    assert re.search(r"\(parent pid=\d+, ip=127.0.0.1\) from the parent", err)
    assert "ValueError: nobody asks" in err


def test_a_program_on_a_machine_without_a_node_gets_its_output_too(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["ASYNCRAY_TMPDIR"]) as directory:
        out, _ = run(
            cluster,
            """
            @ray.remote
            class Speaker:
                def speak(self):
                    print("hello")

            ray.init(sys.argv[1])
            ray.get(Speaker.remote().speak.remote())
            ray.shutdown()
            """,
            Path(directory),
        )
    assert out == ["(Speaker pid=N, ip=127.0.0.1) hello"]


def test_the_output_of_a_detached_actor_reaches_the_driver_that_has_made_it(cluster: Cluster) -> None:
    """The head's node decides about the actor, a third node has its process, and the driver is at a node of its own."""
    program = """
        @ray.remote(resources={"S": 1})
        class Printer:
            def say(self, text):
                print(text)

        ray.init(sys.argv[1])
        printer = Printer.options(lifetime="detached", name="printer").remote()
        printer.say.remote("hello")
        sys.stdin.readline()
        ray.kill(printer)
        """
    with tempfile.TemporaryDirectory(dir=os.environ["ASYNCRAY_TMPDIR"]) as directory:
        with start(cluster, program, Path(directory)) as driver:
            assert driver.stdout is not None
            assert re.fullmatch(r"\(Printer pid=\d+, ip=127.0.0.1\) hello\n", driver.stdout.readline())
            driver.communicate("\n", timeout=DEADLINE)
        assert driver.returncode == 0


def test_a_driver_may_want_no_output_of_other_nodes(cluster: Cluster) -> None:
    out, err = run(
        cluster,
        """
        @ray.remote(resources={"R": 1})
        def speak():
            print("hello")

        ray.init(sys.argv[1], log_to_driver=False)
        ray.get(speak.remote())
        ray.shutdown()
        """,
    )
    assert (out, err) == ([], "")


def test_a_flood_at_another_node_does_not_hold_up_the_program(cluster: Cluster) -> None:
    out, _ = run(
        cluster,
        """
        @ray.remote(resources={"R": 1})
        def flood():
            for number in range(100_000):
                print(number, "x" * 100)

        ray.init(sys.argv[1])
        ray.get(flood.remote())
        ray.shutdown()
        """,
    )
    assert f"(flood pid=N, ip=127.0.0.1) 99999 {'x' * 100}" in out
    assert any("are not shown, see " in line for line in out)


def test_the_driver_hears_of_a_node_that_is_lost_with_its_work(cluster: Cluster) -> None:
    lost = cluster.list_all_nodes()[1]
    driver = start(
        cluster,
        """
        @ray.remote(resources={"R": 1}, max_retries=0)
        def wait():
            print("waits", flush=True)
            time.sleep(1000)

        ray.init(sys.argv[1])
        try:
            ray.get(wait.remote())
        except ray.exceptions.NodeDiedError as error:
            print("lost")
        ray.shutdown()
        """,
    )
    with driver:
        assert driver.stdout is not None
        assert "waits" in driver.stdout.readline()
        os.kill(lost.pid, signal.SIGKILL)
        out, err = driver.communicate(timeout=DEADLINE)
    assert out == "lost\n"
    assert err.count(f"node {lost.node_id} at 127.0.0.1:") == 1
    assert "is lost: " in err
    cluster.remove_node(lost, allow_graceful=False)


@pytest.mark.parametrize(("which", "how"), [(1, signal.SIGSTOP), (1, signal.SIGKILL), (0, signal.SIGKILL)])
def test_a_daemon_that_does_not_answer_does_not_hold_up_the_end_of_a_driver(
    cluster: Cluster, which: int, how: signal.Signals
) -> None:
    """The daemon of the other node stands still or has died, or the daemon of the driver's own node dies."""
    node = cluster.list_all_nodes()[which]
    driver = start(
        cluster,
        """
        @ray.remote(resources={"R": 1})
        def speak():
            print("hello", flush=True)

        ray.init(sys.argv[1])
        ray.get(speak.remote())
        sys.stdin.readline()
        ray.shutdown()
        """,
    )
    with driver:
        assert driver.stdout is not None
        assert "hello" in driver.stdout.readline()
        os.kill(node.pid, how)
        driver.communicate("\n", timeout=DEADLINE)
    assert driver.returncode == 0
    cluster.remove_node(node, allow_graceful=False)
