"""Placement groups over several daemons: bundles, tasks and actors on other nodes, and the loss of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.exceptions import TaskPlacementGroupRemoved
from asyncray.testing import Cluster
from asyncray.util import placement_group, placement_group_table, remove_placement_group
from asyncray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy
from tests.system.waiting import until

DEADLINE = 30.0
Inside = PlacementGroupSchedulingStrategy


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    """Three nodes with two CPUs each, and this process as a driver of the first."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as made:
        made.add_node(num_cpus=2, wait=False)
        made.add_node(num_cpus=2)
        made.wait_for_nodes(DEADLINE)
        made.connect()
        try:
            yield made
        finally:
            ray.shutdown()


@ray.remote
def node() -> str:
    return ray.get_runtime_context().get_node_id()


class Resident:
    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def pid(self) -> int:
        return os.getpid()


Residents: Any = ray.remote(Resident)


def places(group: Any) -> list[str]:
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def test_bundles_on_different_nodes(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert ray.get(group.ready(), timeout=DEADLINE) == group
    nodes = places(group)
    assert sorted(nodes) == sorted(row["NodeID"] for row in ray.nodes())
    tasks = [node.options(scheduling_strategy=Inside(group, index)).remote() for index in (0, 1, 2, 2)]
    assert ray.get(tasks, timeout=DEADLINE) == [*nodes, nodes[2]]
    actors = [Residents.options(num_cpus=1, scheduling_strategy=Inside(group, index)).remote() for index in range(3)]
    assert ray.get([actor.node.remote() for actor in actors], timeout=DEADLINE) == nodes
    until(lambda: ray.available_resources()["CPU"] == 3)
    remove_placement_group(group)
    until(lambda: ray.available_resources()["CPU"] == 6)
    with pytest.raises(TaskPlacementGroupRemoved):
        ray.get(node.options(scheduling_strategy=Inside(group, 1)).remote(), timeout=DEADLINE)


def test_a_lost_node_is_replaced(cluster: Cluster) -> None:
    head = cluster.head_node
    assert head is not None
    pair = placement_group([{"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    ray.get(pair.ready(), timeout=DEADLINE)
    lost = next(index for index, place in enumerate(places(pair)) if place != head.node_id)
    victim = next(member for member in cluster.worker_nodes if member.node_id == places(pair)[lost])
    options = {"num_cpus": 1, "max_restarts": 1, "max_task_retries": -1}
    actor = Residents.options(**options, scheduling_strategy=Inside(pair, lost)).remote()
    assert ray.get(actor.node.remote(), timeout=DEADLINE) == victim.node_id
    cluster.remove_node(victim, allow_graceful=False)
    until(lambda: placement_group_table(pair)["state"] == "CREATED" and places(pair)[lost] != victim.node_id)
    inside = node.options(scheduling_strategy=Inside(pair, lost)).remote()
    assert ray.get(inside, timeout=DEADLINE) == places(pair)[lost]
    assert ray.get(actor.node.remote(), timeout=DEADLINE) == places(pair)[lost]


def test_a_new_node_meets_a_group_that_waits(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 4}])
    assert not group.wait(timeout_seconds=0)
    assert placement_group_table(group)["stats"]["why"] == "no node has the 4 CPU of bundle 0"
    large = cluster.add_node(num_cpus=4)
    assert group.wait(timeout_seconds=DEADLINE)
    assert places(group) == [large.node_id]


def test_affinity_to_another_node(cluster: Cluster) -> None:
    wanted = cluster.worker_nodes[0].node_id
    task = node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(wanted, soft=False))
    assert ray.get([task.remote() for _ in range(3)], timeout=DEADLINE) == 3 * [wanted]
