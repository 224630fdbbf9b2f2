"""Requests about placement groups, and the groups that end with their creators."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.group_records import CREATED, GROUP_PENDING, REMOVED
from asyncray.core.group_requests import group_for_people
from asyncray.ids import TASK_SIZE
from asyncray.messages import NOTICE, PLAIN, REQUEST
from asyncray.units import UNIT
from tests.core.grouping import ask, make, ready, state
from tests.core.processes import Worker
from tests.core.world import World


def test_create_answers_when_the_group_is_registered() -> None:
    world = World(CPU=1)
    driver = world.driver()
    group = driver.next_id()
    answers = ask(driver, "create_group", group, "", "PACK", [([("CPU", 2 * UNIT)], [])], False)
    world.talk()
    assert answers == [None]
    assert state(world, group) == GROUP_PENDING
    world.end()


def test_a_group_that_can_never_be_met_is_told_to_its_driver_once() -> None:
    world = World(CPU=1)
    driver = world.driver()
    make(driver, {"CPU": 2}, name="large")
    world.settle()
    world.wait(5)
    world.settle()
    notices = [message[2] for message in driver.news if message[0] == NOTICE]
    assert notices == ["The placement group large waits: no node has the 2 CPU of bundle 0."]
    world.end()


def test_a_name_that_is_taken() -> None:
    world = World(CPU=2)
    driver, other = world.driver(), world.driver()
    make(driver, {"CPU": 1}, name="training")
    refused = ask(other, "create_group", other.next_id(), "training", "PACK", [([("CPU", UNIT)], [])], False)
    found, missing = ask(other, "find_group", "training"), ask(other, "find_group", "inference")
    world.settle()
    assert "'training' already exists" in refused[0]
    assert found[0]["name"] == "training"
    assert missing == [None]
    world.end()


def test_rows() -> None:
    world = World(CPU=2)
    driver = world.driver()
    groups = [make(driver, {"CPU": 1}) for _ in range(2)]
    world.settle()
    ask(driver, "remove_group", groups[0])
    everything, one, unknown = ask(driver, "groups", None), ask(driver, "groups", groups[1]), ask(driver, "groups", b"")
    world.settle()
    assert [(row["group_id"], row["state"]) for row in everything[0]] == [(groups[1], CREATED), (groups[0], REMOVED)]
    assert one[0]["nodes"] == [world.machine.node_id]
    assert unknown == [None]
    (shown,) = world.machine.group_requests.rows()
    assert shown == group_for_people(one[0])
    everything_for_people = ask(driver, "placement_groups")
    world.settle()
    assert everything_for_people[0] == [group_for_people(row) for row in everything[0]]
    assert (shown["group_id"], shown["bundles"]) == (groups[1].hex(), [{"CPU": 1}])
    world.end()


@pytest.mark.parametrize("fits", [True, False])
def test_the_object_of_ready(fits: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    group = make(driver, {"CPU": 1 if fits else 2})
    ref = ready(driver, group)
    world.settle()
    assert (ref in driver.values) == fits
    ask(driver, "remove_group", group)
    world.settle()
    late = ready(driver, group)
    world.settle()
    assert driver.error(late) == "TaskPlacementGroupRemoved"
    if fits:
        assert driver.values[ref] == b"the group"
    else:
        assert driver.error(ref) == "TaskPlacementGroupRemoved"
    world.end()


def test_the_object_of_ready_is_broken_with_its_process() -> None:
    world = World(CPU=1)
    driver, other = world.driver(), world.driver()
    group = make(driver, {"CPU": 2})
    ref = ready(other, group)
    world.talk()
    driver.hold(ref)
    driver.subscribe(ref)
    world.talk()
    world.die(other)
    world.settle()
    assert driver.error(ref) == "OwnerDiedError"
    ask(driver, "remove_group", group)
    world.settle()
    world.end()


@pytest.mark.parametrize("detached", [False, True])
def test_a_group_ends_with_its_driver_unless_it_is_detached(detached: bool) -> None:
    world = World(CPU=2)
    driver, other = world.driver(), world.driver()
    group = make(driver, {"CPU": 1}, detached=detached)
    world.settle()
    world.die(driver)
    world.settle()
    assert state(world, group) == (CREATED if detached else REMOVED)
    ask(other, "remove_group", group)
    world.settle()
    assert world.machine.resources.available["CPU"] == 2 * UNIT
    world.end()


def test_a_group_of_a_detached_actor_ends_with_the_actor() -> None:
    world = World(CPU=2)
    driver, other = world.driver(), world.driver()
    handle = driver.create(detached=True)
    world.settle()
    actor = world.machine.actors.table[handle[:TASK_SIZE]]
    assert actor.worker is not None
    worker = next(worker for worker in world.workers if worker.number == actor.worker.number)
    group = make(worker, {"CPU": 1})
    world.settle()
    world.die(driver)
    world.settle()
    assert state(world, group) == CREATED
    world.host.order(21, actor.id, True)
    world.settle()
    assert state(world, group) == REMOVED
    assert isinstance(worker, Worker)
    assert other.alive
    world.end()


def test_a_tool_creates_no_groups() -> None:
    world = World(CPU=1)
    machine = world.machine
    bundles: list[Any] = [([("CPU", UNIT)], [])]
    machine.receive(world.host.tool, [(REQUEST, 1, "create_group", (b"g" * 22, "", "PACK", bundles, False))])
    assert world.host.tool.out[-1][:3] == (45, 1, "ValueError")
    assert PLAIN == 0
