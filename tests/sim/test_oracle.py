"""The oracle excuses the loss of an object with its owner, and only that."""

from __future__ import annotations

import pytest

from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost

READER = Recipe(detached=True, name="ann", lives_on=1, nested=(0,), steps=(("keep", 1), ("get", 0)))
"""A detached actor, which lives at the head's node. Its constructor reads and keeps the first object of its creator."""


def promised() -> tuple[Cluster, ClusterHost, Driver, bytes]:
    """Two nodes, a driver at the second, and an object that it has promised, put and read."""
    cluster = Cluster(0, 2)
    cluster.run(2.0)
    _, owner = cluster.living
    driver = owner.driver()
    assert driver is not None
    driver.state.promise(900)
    owner.wake()
    cluster.run(1.0)
    (ref,) = driver.state.refs
    assert ref in cluster.oracle.truth
    return cluster, owner, driver, ref


def test_a_promised_object_is_lost_with_its_owner() -> None:
    """A process has read the value before the owner is lost, and another process reads the loss."""
    cluster, owner, driver, ref = promised()
    head, _ = cluster.living
    driver.state.make(READER)
    owner.wake()
    while not head.node.actors():
        cluster.run(0.0001)
    cluster.kill(owner)
    cluster.run(10.0)
    (fault,) = (worker.values[ref] for worker in head.node.workers if ref in worker.values)
    assert fault[0] == "OwnerDiedError"


def test_a_promised_object_is_not_lost_while_its_owner_lives() -> None:
    cluster, owner, driver, ref = promised()
    head, _ = cluster.living
    lost = head.machine.objects.dead_refs.fault(ref)
    owner.node.die(driver)
    with pytest.raises(AssertionError, match="is lost, and its owner lives"):
        cluster.oracle.agrees(ref, lost)
    cluster.kill(owner)
    cluster.oracle.agrees(ref, lost)
