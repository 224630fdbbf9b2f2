"""Detached actors in a cluster of real daemons: they outlive their driver and the node of their creator."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.testing import Cluster
from tests.system.waiting import until


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    """A head without CPUs and two more nodes; the first has an R for tasks, both have a P for actors."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_name": "head"}) as made:
        made.add_node(num_cpus=2, resources={"R": 1, "P": 1}, wait=False)
        made.add_node(num_cpus=2, resources={"P": 1})
        yield made


@ray.remote
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self) -> int:
        self.count += 1
        return self.count

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


@ray.remote(resources={"R": 1})
def make(name: str | None) -> tuple[Any, str]:
    options: Any = {"lifetime": "detached", "name": name, "namespace": "n", "max_restarts": -1}
    start = ray.put(5)
    cls: Any = Counter
    counter = cls.options(**options, resources={"P": 1}).remote(start)
    assert ray.get(counter.add.remote()) == 6
    return counter, str(ray.get_runtime_context().get_node_id())


def test_a_detached_actor_survives_its_creator_and_the_node_of_that(cluster: Cluster) -> None:
    with cluster.connect(namespace="n"):
        counter, creator = ray.get(make.remote("ann"))
        there = ray.get(counter.node.remote())
        (lost,) = [node for node in cluster.worker_nodes if node.unique_id == creator]
        cluster.remove_node(lost, allow_graceful=False)
        if there == creator:
            until(lambda: ray.get(counter.__ray_ready__.remote()) or True)
    with cluster.connect(namespace="n"):
        counter = ray.get_actor("ann")
        assert ray.get(counter.add.options(max_task_retries=-1).remote()) in (6, 7)
        assert ray.get(counter.node.remote()) != creator
        ray.kill(counter)


@ray.remote(resources={"R": 1})
def make_with(large: bytes) -> str:
    cls: Any = Holder
    holder = cls.options(name="holder", lifetime="detached", max_restarts=-1, resources={"P": 1}).remote(ray.put(large))
    ray.get(holder.size.remote())
    return str(ray.get_runtime_context().get_node_id())


@ray.remote
class Holder:
    def __init__(self, large: bytes) -> None:
        self.large = large

    def size(self) -> int:
        return len(self.large)

    def pid(self) -> int:
        return os.getpid()


def test_a_detached_actor_cannot_start_again_without_its_large_arguments(cluster: Cluster) -> None:
    with cluster.connect(namespace="n"):
        creator = ray.get(make_with.remote(b"x" * 2_000_000))
        holder = ray.get_actor("holder")
        pid = ray.get(holder.pid.remote())
        (lost,) = [node for node in cluster.worker_nodes if node.unique_id == creator]
        cluster.remove_node(lost, allow_graceful=False)
        until(lambda: sum(row["Alive"] for row in ray.nodes()) == 2)
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ray.exceptions.ActorDiedError, match=creator):
            ray.get(holder.size.options(max_task_retries=-1).remote(), timeout=30)


def test_every_node_finds_a_detached_actor_by_its_name(cluster: Cluster) -> None:
    first, second = cluster.worker_nodes
    with ray.init(first.address, namespace="n"):
        cls: Any = Counter
        counter = cls.options(name="ann", lifetime="detached").remote(1)
        assert ray.get(counter.add.remote()) == 2
        with pytest.raises(ValueError, match="already taken"):
            cls.options(name="ann", lifetime="detached").remote(1)
    for node in (second, first):
        with ray.init(node.address, namespace="n"):
            assert ray.get(ray.get_actor("ann").add.remote()) > 2
    with ray.init(second.address, namespace="n"):
        ray.kill(ray.get_actor("ann"))
        cls.options(name="ann", lifetime="detached").remote(1)
        ray.kill(ray.get_actor("ann"))
