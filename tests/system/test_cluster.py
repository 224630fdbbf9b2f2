"""Several daemons as one cluster: real processes that join, see one another, leave, and are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.cli.observer import Observer

DEADLINE = 30.0
"""Seconds for one event, on a machine that is busy with other tests."""

_PAUSE = threading.Event()


class Daemon:
    """One ``asyncray node``."""

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts
        with Observer(facts["address"]) as observer:
            self.id: str = observer.facts["node_id"].hex()

    def rows(self) -> dict[str, Any]:
        """The rows of all nodes, from this one."""
        with Observer(self.facts["address"]) as observer:
            return {row["NodeID"]: row for row in observer.request("nodes")}

    def states(self) -> dict[str, str]:
        return {node: row["State"] for node, row in self.rows().items()}


@contextmanager
def started(*options: str, **variables: str) -> Iterator[Daemon]:
    command = [sys.executable, "-m", "asyncray", "node", "--json", "--num-cpus", "1", *options]
    environment = {**os.environ, **variables}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Daemon(process, json.loads(process.stdout.readline()))
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(DEADLINE)


@contextmanager
def cluster() -> Iterator[tuple[Daemon, Daemon, Daemon]]:
    """A head and two more nodes, which know one another."""
    with started("--head", "--name", "head") as head:
        address = head.facts["cluster_address"]
        with started("--address", address, "--name", "one") as one, started("--address", address) as two:
            until(lambda: all(list(node.states().values()) == ["ALIVE"] * 3 for node in (head, one, two)))
            yield head, one, two


def until(condition: Callable[[], object]) -> None:
    """Waits for an effect of another process."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        _PAUSE.wait(0.02)


def test_three_nodes_are_one_cluster_for_programs_and_people() -> None:
    with cluster() as (head, one, two):
        assert len({daemon.id for daemon in (head, one, two)}) == 3
        with ray.init(one.facts["address"]):
            assert {row["NodeID"] for row in ray.nodes() if row["Alive"]} == {head.id, one.id, two.id}
            assert ray.cluster_resources()["CPU"] == 3.0
            assert ray.available_resources()["CPU"] == 3.0
        done = subprocess.run([sys.executable, "-m", "asyncray", "status"], capture_output=True, text=True, check=True)
        assert f"Cluster at {head.facts['cluster_address']}" in done.stdout
        for daemon in (head, one, two):
            assert daemon.id in done.stdout
    # Each daemon stopped in order, and the head knew it.
    assert [daemon.process.returncode for daemon in (head, one, two)] == [0, 0, 0]
    log = (Path(head.facts["session_dir"]) / "logs" / "node.log").read_text()
    assert f"node {two.id} at 127.0.0.1 is left: it got SIGTERM" in log


def test_a_killed_daemon_is_lost_everywhere_and_a_stopped_one_is_fenced() -> None:
    with cluster() as (head, killed, stopped):
        killed.process.kill()
        until(lambda: head.states()[killed.id] == stopped.states()[killed.id] == "LOST")
        assert "refuses connections" in head.rows()[killed.id]["DeathReasonMessage"]
        stopped.process.send_signal(signal.SIGSTOP)
        until(lambda: head.states()[stopped.id] == "LOST")
        assert "it was silent" in head.rows()[stopped.id]["DeathReasonMessage"]
        stopped.process.send_signal(signal.SIGCONT)
        assert stopped.process.wait(DEADLINE) == 3
        assert stopped.process.stderr is not None
        assert "Error: The node had to end: " in stopped.process.stderr.read()
        assert list(head.states().values()) == ["ALIVE", "LOST", "LOST"]


def test_nodes_end_at_once_with_a_head_that_is_stopped() -> None:
    with cluster() as (head, one, two):
        head.process.terminate()
        for node in (one, two):
            assert node.process.wait(DEADLINE) == 3
            assert node.process.stderr is not None
            assert node.process.stderr.read() == "Error: The node had to end: the head has ended: it got SIGTERM\n"
        assert head.process.wait(DEADLINE) == 0


def test_a_node_that_asyncray_stop_ends_has_left() -> None:
    with cluster() as (head, one, _):
        with Observer(one.facts["address"]) as observer:
            observer.request("stop")
        assert one.process.wait(DEADLINE) == 0
        until(lambda: head.states()[one.id] == "LEFT")


def test_the_token_is_on_no_command_line_in_no_log_and_in_no_environment_of_workers() -> None:
    with started("--head") as head:
        directory = Path(head.facts["session_dir"])
        token = (directory / "cluster.token").read_text().strip()
        assert len(token) == 64
        address = head.facts["cluster_address"]
        with started("--address", address, ASYNCRAY_TOKEN=token) as node:
            until(lambda: len(head.states()) == 2)
            children = psutil.Process(node.process.pid).children(recursive=True)
            assert children
            for process in (psutil.Process(node.process.pid), psutil.Process(head.process.pid), *children):
                assert token not in " ".join(process.cmdline())
            for process in children:
                assert token not in process.environ().values()
            logs = [*directory.glob("logs/*"), *Path(node.facts["session_dir"]).glob("logs/*")]
            assert not any(token in path.read_text() for path in logs)
        registry = json.loads((directory / "registry.json").read_text())
        assert registry["url"] == f"http://{address}"
        assert token not in registry["token"]
    assert not (directory / "cluster.token").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ASYNCRAY_TOKEN": "ab" * 32}, "the token is wrong, or missing"),
        ({"ASYNCRAY_TOKEN": "secret"}, "ASYNCRAY_TOKEN holds no token"),
        ({"ASYNCRAY_TMPDIR": ""}, "no token for the cluster at"),
    ],
)
def test_a_node_without_a_good_token_says_so_in_one_line(variables: dict[str, str], words: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    given = {name: str(tmp_path) if name == "ASYNCRAY_TMPDIR" else value for name, value in variables.items()}
    with started("--head") as head:
        command = [sys.executable, "-m", "asyncray", "node", "--address", head.facts["cluster_address"]]
        environment = {**os.environ, **given}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("Error: The node did not start: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert list(head.states().values()) == ["ALIVE"]


def test_a_second_head_at_the_same_port_says_so_in_one_line() -> None:
    with started("--head") as head:
        port = head.facts["cluster_address"].rpartition(":")[2]
        command = [sys.executable, "-m", "asyncray", "node", "--head", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 1
        assert f"a head runs at 127.0.0.1:{port} already: join it with" in done.stderr
        assert done.stderr.count("\n") == 1
