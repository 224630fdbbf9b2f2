"""The end of a driver reaches every node that has a part of its job, whatever happens to links and nodes then.

A tells the job to B, and B to C; tasks at B and C wait for ever. The driver dies, and in the same moment a link is cut
or B is lost. The head stays reachable, so the job ends everywhere at once. The messages
on such a link arrive once it heals.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncray.core.states import IDLE
from tests.core.processes import Process
from tests.core.programs import Recipe
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost
from tests.sim.days import end

NODES = [{"CPU": 1.0}] * 4
SEEDS = 10

B, C = b"node0003", b"node0004"
FOR_EVER = Recipe(extra=("moon", 1))
AT_C = Recipe(where=("affinity", C, False), steps=(("spawn", FOR_EVER), ("get", 1)), nested=(0,))
AT_B = Recipe(where=("affinity", B, False), steps=(("put", 1), ("spawn", AT_C), ("get", 2)), nested=(0,))


def begin(seed: int) -> tuple[Cluster, Process]:
    """Four nodes, and a driver at the second, whose job has come to the third and the fourth."""
    cluster = Cluster(seed, len(NODES), NODES)
    cluster.run(2.0)
    _, home, *others = cluster.living
    driver = home.driver()
    assert driver is not None
    driver.state.do(("put", 1))
    driver.state.spawn(AT_B)
    home.wake()
    for _ in range(2000):
        cluster.run(0.01)
        if all(busy(host) for host in others):
            return cluster, driver
    raise AssertionError("the job has not come to all nodes")


def busy(host: ClusterHost) -> bool:
    """True while a worker runs a task that waits."""
    return any(worker.running for worker in host.node.workers)


def nothing(cluster: Cluster) -> None:
    """No accident."""


def cut(one: int, other: int) -> Callable[[Cluster], None]:
    """A link between two nodes is cut."""

    def cuts(cluster: Cluster) -> None:
        hosts = list(cluster.hosts.values())
        cluster.net.cuts.add(frozenset((hosts[one].name, hosts[other].name)))

    return cuts


def lose(node: int) -> Callable[[Cluster], None]:
    """A node dies."""

    def dies(cluster: Cluster) -> None:
        cluster.kill(list(cluster.hosts.values())[node])

    return dies


def nothing_of_the_job_is_left(host: ClusterHost) -> None:
    machine = host.machine
    assert not machine.jobs.table
    assert not machine.work.tasks
    workers = machine.pool.workers.values()
    assert not [worker for worker in workers if worker.state != IDLE or worker.job is not None]
    assert not [client.made for client in machine.clients.values() if client.made]


@pytest.mark.parametrize("accident", [nothing, cut(1, 2), cut(2, 3), cut(1, 3), lose(1), lose(2), lose(3)])
def test_a_job_ends_everywhere(accident: Callable[[Cluster], None]) -> None:
    for seed in range(SEEDS):
        cluster, driver = begin(seed)
        accident(cluster)
        if driver.host.machine.node_id in {host.id for host in cluster.living}:
            driver.host.die(driver)
            cluster.host_of(driver).wake()
        cluster.run(8.0)
        for host in cluster.living:
            nothing_of_the_job_is_left(host)
        cluster.heal()
        end(cluster)
