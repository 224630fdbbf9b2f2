"""A node whose way to the head is slow, is cut in the middle of frames, or goes silent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import asyncray.sync as ray
from asyncray.testing import Cluster, ClusterNode
from asyncray.testing.local_cluster import start_daemon
from tests.proxy import Proxy, proxied
from tests.system.waiting import until

CUTS = 10


class _Holder:
    """Holds a CPU while it lives, so that the row of its node changes."""

    def ready(self) -> bool:
        return True


Holder = ray.remote(num_cpus=1)(_Holder)


@contextmanager
def node_behind(proxy: Proxy, head: ClusterNode) -> Iterator[ClusterNode]:
    """A node that has joined through the proxy."""
    variables = {"ASYNCRAY_TOKEN": Path(head.session_dir, "cluster.token").read_text()}
    node = start_daemon(["--num-cpus", "1", "--address", proxy.address], variables)
    try:
        yield node
    finally:
        node.ask_to_end()
        node.end()


@pytest.fixture
def head(nothing_left: object) -> Iterator[ClusterNode]:
    with Cluster(initialize_head=True) as cluster:
        assert cluster.head_node is not None
        yield cluster.head_node


def free_cpus(head: ClusterNode, node: ClusterNode) -> float:
    """The free CPUs of a node, as the head knows them."""
    return float(head.rows()[node.node_id]["Available"].get("CPU", 0))


def check_news_arrive(head: ClusterNode, node: ClusterNode) -> None:
    """The connected program changes the row of its node and changes it back, and the head learns both."""
    holder = Holder.remote()
    assert ray.get(holder.ready.remote())
    until(lambda: free_cpus(head, node) == 0)
    ray.kill(holder)
    until(lambda: free_cpus(head, node) == 1)


def test_a_node_behind_a_slow_network_joins_and_is_known(head: ClusterNode) -> None:
    with proxied(head.cluster_address, delay=0.2) as proxy, node_behind(proxy, head) as node:
        with ray.init(node.address):
            check_news_arrive(head, node)
        assert proxy.carried == 2  # one for the nonces, one that stays
        assert head.rows()[node.node_id]["State"] == "ALIVE"


def test_connections_that_are_cut_in_the_middle_of_frames_lose_nothing(head: ClusterNode) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it if the test fails
    source = random.Random(seed)
    with proxied(head.cluster_address) as proxy, node_behind(proxy, head) as node, ray.init(node.address):
        for _ in range(CUTS):
            before = proxy.carried
            # At least so many that the proof of the node gets through: about 500 bytes.
            proxy.cut_each_after(source.randrange(1000, 2000))
            proxy.cut()
            until(lambda before=before: proxy.carried > before)  # type: ignore[misc]
            check_news_arrive(head, node)
        proxy.cut_each_after(None)
        check_news_arrive(head, node)
        assert {row["State"] for row in head.rows().values()} == {"ALIVE"}


def test_a_silence_that_ends_in_time_costs_nothing(head: ClusterNode) -> None:
    with proxied(head.cluster_address) as proxy, node_behind(proxy, head) as node, ray.init(node.address):
        proxy.hold()
        holder = Holder.remote()
        assert ray.get(holder.ready.remote())
        assert free_cpus(head, node) == 1
        proxy.flow()
        until(lambda: free_cpus(head, node) == 0)
        assert {row["State"] for row in head.rows().values()} == {"ALIVE"}


def test_a_silence_that_lasts_loses_the_node(head: ClusterNode) -> None:
    with proxied(head.cluster_address) as proxy, node_behind(proxy, head) as node:
        proxy.hold()
        until(lambda: head.rows()[node.node_id]["State"] == "LOST")
        assert node.is_alive
        proxy.flow()
        until(lambda: not node.is_alive)
        assert node.exit_code == 3
