"""Placement groups of a node that is alone: the deciding machine and the bundles in one daemon."""

from __future__ import annotations

from asyncray.core.group_records import CREATED, GROUP_PENDING
from asyncray.units import UNIT
from tests.core.grouping import ask, make, state, why
from tests.core.world import World


def test_a_group_is_created_in_the_batch_that_asks_for_it() -> None:
    world = World(CPU=2)
    driver = world.driver()
    group = make(driver, {"CPU": 1})
    world.talk()
    assert state(world, group) == CREATED
    world.end()


def test_groups_follow_one_another() -> None:
    world = World(CPU=2)
    driver = world.driver()
    first, second = make(driver, {"CPU": 2}), make(driver, {"CPU": 1}, {"CPU": 1})
    world.settle()
    assert (state(world, first), state(world, second)) == (CREATED, GROUP_PENDING)
    ask(driver, "remove_group", first)
    world.talk()
    assert state(world, second) == CREATED
    assert world.machine.resources.available["CPU"] == 0
    ask(driver, "remove_group", second)
    world.talk()
    assert world.machine.resources.available["CPU"] == 2 * UNIT
    world.end()


def test_a_group_that_one_node_can_never_meet_waits_and_says_why() -> None:
    world = World(CPU=4)
    driver = world.driver()
    group = make(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    world.settle()
    assert state(world, group) == GROUP_PENDING
    assert why(world, group) == "STRICT_SPREAD needs 2 nodes that fit, and the cluster has 1 node"
    world.end()
