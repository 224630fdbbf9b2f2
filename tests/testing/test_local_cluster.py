"""Clusters for tests: their nodes and their errors. The leak check is around each test."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.exceptions import AsyncrayError
from asyncray.testing import Cluster, local_cluster

DEADLINE = 30.0


def test_nodes_with_what_they_were_given() -> None:
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2}) as cluster:
        head = cluster.head_node
        assert head is not None
        node = cluster.add_node(num_cpus=3, num_gpus=1, memory=10**9, resources={"disk": 2}, labels={"zone": "east"})
        assert cluster.list_all_nodes() == [head, node]
        assert cluster.worker_nodes == [node]
        rows = {row["NodeID"]: row for row in ray.nodes()}
        assert set(rows) == {head.node_id, node.unique_id}
        assert rows[head.node_id]["Resources"]["object_store_memory"] == 150 << 20
        found = rows[node.node_id]["Resources"]
        assert (found["CPU"], found["GPU"], found["memory"], found["disk"]) == (3, 1, 10**9, 2)
        assert rows[node.node_id]["Labels"]["zone"] == "east"
        assert ray.get_runtime_context().get_node_id() == head.node_id
        assert cluster.gcs_address == cluster.address == node.cluster_address
    assert not ray.is_initialized()
    assert not head.is_alive
    assert (head.exit_code, node.exit_code) == (0, 0)


def test_the_first_node_is_the_head_and_removed_ones_are_known_to_have_ended() -> None:
    with Cluster() as cluster:
        with pytest.raises(RuntimeError, match="no head yet: call add_node"):
            cluster.address  # noqa: B018
        head = cluster.add_node()
        assert cluster.head_node is head
        left, killed = cluster.add_node(wait=False), cluster.add_node(wait=False)
        cluster.wait_for_nodes()
        cluster.remove_node(left)
        assert left.exit_code == 0
        cluster.remove_node(killed, allow_graceful=False)
        assert killed.exit_code == -signal.SIGKILL
        cluster.wait_for_nodes()
        states = {node: row["State"] for node, row in head.rows().items()}
        assert states == {head.node_id: "ALIVE", left.node_id: "LEFT", killed.node_id: "LOST"}
        with pytest.raises(ValueError, match="is no node of this cluster, or was removed before"):
            cluster.remove_node(left)
        cluster.remove_node(head)
        assert cluster.list_all_nodes() == []
        # Another head may follow.
        cluster.add_node()
        assert cluster.head_node is not head


def test_a_node_that_does_not_answer_is_named() -> None:
    with Cluster() as cluster:
        cluster.add_node()
        node = cluster.add_node()
        os.kill(node.pid, signal.SIGKILL)
        with pytest.raises(TimeoutError, match=f"did not learn of each other in time: .*{node.node_id}"):
            cluster.wait_for_nodes(timeout=0.1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"nmu_cpus": 1}, TypeError, r"no argument 'nmu_cpus'. Did you mean 'num_cpus'\?"),
        ({"resources": {"CPU": 1}}, AsyncrayError, "Use num_cpus"),
        ({"object_store_memory": 1}, AsyncrayError, "the minimum allowed is"),
    ],
)
def test_a_node_that_cannot_start_says_why(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with Cluster() as cluster, pytest.raises(error, match=words):
        cluster.add_node(**options)


def test_arguments_that_need_a_head() -> None:
    with pytest.raises(ValueError, match="head_node_args are for initialize_head=True"):
        Cluster(head_node_args={"num_cpus": 1})
    with pytest.raises(ValueError, match="connect=True needs initialize_head=True"):
        Cluster(connect=True)


def test_a_node_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "START_DEADLINE", 0.1)
    monkeypatch.setattr(local_cluster, "STOP_DEADLINE", 0.1)
    monkeypatch.setattr(local_cluster, "command_line", lambda module: [sys.executable, "-c", "input()"])
    with Cluster() as cluster, pytest.raises(AsyncrayError, match="did not start in time"):
        cluster.add_node()


def test_the_environment_around_add_node_reaches_the_workers_of_that_node(monkeypatch: pytest.MonkeyPatch) -> None:
    @ray.remote
    def variable() -> str | None:
        return os.environ.get("WHERE")

    with Cluster(initialize_head=True) as cluster:
        monkeypatch.setenv("WHERE", "on the second")
        # The token of another cluster does not get in the way, nor does another directory for sessions.
        monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
            node = cluster.add_node()
            monkeypatch.undo()
            with ray.init(node.address):
                assert ray.get(variable.remote()) == "on the second"
            cluster.remove_node(node)


async def test_in_asyncio_code(signal_pipe_of_uvloop: None) -> None:
    async with Cluster() as cluster:
        await asyncio.to_thread(cluster.add_node, num_cpus=2)
        await asyncio.to_thread(cluster.add_node, num_cpus=2)
        async with asyncray.init(cluster.address):
            assert (await asyncray.cluster_resources())["CPU"] == 4
    assert cluster.list_all_nodes() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nodes_end_with_a_program_that_is_killed(how: signal.Signals, sessions: Path) -> None:
    program = (
        "from asyncray.testing import Cluster\n"
        "cluster = Cluster(initialize_head=True, connect=True)\n"
        "cluster.add_node()\n"
        "print('ready', flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        nodes = psutil.Process(process.pid).children(recursive=True)
        assert len(nodes) >= 4  # two daemons, each with a zygote
        process.send_signal(how)
        process.wait(DEADLINE)
        _, alive = psutil.wait_procs(nodes, timeout=5)
        assert not alive
