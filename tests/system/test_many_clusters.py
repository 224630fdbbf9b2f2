"""Five clusters on one machine, started at the same moment, never meet."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyncray.io.session_names import name_of
from asyncray.testing import Cluster
from tests.system.conftest import shared_memory, sockets

CLUSTERS = 5
DEADLINE = 60.0

PROGRAM = """\
import sys
import numpy as np
import asyncray.sync as ray

with ray.init(sys.argv[1], namespace="shared") as context:
    @ray.remote(num_cpus=0)
    class Keeper:
        def __init__(self, value):
            self.value = value

        def get(self):
            return self.value

    # The same names, and values in shared memory, in all clusters at the same time.
    keeper = Keeper.options(name="keeper").remote(sys.argv[1])
    print(ray.get(ray.get_actor("keeper").get.remote()))
    array = ray.put(np.full(1_000_000, int(sys.argv[2])))
    print(int(ray.get(array).sum()))
    print(" ".join(sorted(row["NodeID"] for row in ray.nodes())), flush=True)
    input()
"""


def token_of(cluster: Cluster) -> str:
    head = cluster.head_node
    assert head is not None
    return Path(head.session_dir, "cluster.token").read_text()


def test_five_clusters_that_start_at_once_share_nothing() -> None:
    base = Path(os.environ["ASYNCRAY_TMPDIR"])
    barrier = threading.Barrier(CLUSTERS)

    def start(cluster: Cluster) -> None:
        barrier.wait(DEADLINE)
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)

    with ExitStack() as stack:
        clusters = [stack.enter_context(Cluster()) for _ in range(CLUSTERS)]
        with ThreadPoolExecutor(CLUSTERS) as pool:
            list(pool.map(start, clusters))
        nodes = [node for cluster in clusters for node in cluster.list_all_nodes()]
        for values in (
            {cluster.address for cluster in clusters},
            {token_of(cluster) for cluster in clusters},
        ):
            assert len(values) == CLUSTERS
        for values in ({node.node_id for node in nodes}, {name_of(node.session_dir) for node in nodes}):
            assert len(values) == 2 * CLUSTERS
        for cluster in clusters:
            own = {node.node_id for node in cluster.list_all_nodes()}
            for node in cluster.list_all_nodes():
                assert set(node.rows()) == own
        check_programs(clusters)
    assert not shared_memory(base)
    assert not sockets(base)
    assert list((base / "clusters").iterdir()) == []


def check_programs(clusters: list[Cluster]) -> None:
    """Runs a program in each cluster at the same time; each sees its own cluster only."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, cluster.address, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, cluster in enumerate(clusters)
    ]
    with ExitStack() as stack:
        for program in programs:
            stack.enter_context(program)
            stack.callback(program.kill)
        for number, (program, cluster) in enumerate(zip(programs, clusters, strict=True)):
            assert program.stdout is not None
            assert program.stdout.readline() == f"{cluster.address}\n"
            assert program.stdout.readline() == f"{number * 1_000_000}\n"
            assert program.stdout.readline().split() == sorted(node.node_id for node in cluster.list_all_nodes())
        for program in programs:
            program.communicate("\n", DEADLINE)
            assert program.returncode == 0


def test_the_token_of_one_cluster_opens_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster(initialize_head=True) as one, Cluster(initialize_head=True) as two:
        with tempfile.TemporaryDirectory(dir="/tmp") as elsewhere:
            monkeypatch.setenv("ASYNCRAY_TMPDIR", elsewhere)
            monkeypatch.setenv("ASYNCRAY_TOKEN", token_of(one))
            command = [sys.executable, "-m", "asyncray", "node", "--address", two.address]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 1
        assert done.stderr == "Error: The node did not start: the token is wrong, or missing\n"
        assert two.head_node is not None
        assert len(two.head_node.rows()) == 1
