"""Placements on a node that is alone: affinity, labels, spreading."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.placements import EXISTS, IN
from asyncray.core.states import DEAD
from asyncray.ids import TASK_SIZE
from tests.core.world import NODE_ID, World

OTHER = b"othernod"
LABELLED = [("ray.io/node-id", IN, [NODE_ID.hex()])]
LACKING: list[tuple[str, str, list[str]]] = [("zone", EXISTS, [])]

MET: list[tuple[Any, ...]] = [
    ("spread",),
    ("affinity", NODE_ID, False),
    ("affinity", NODE_ID, True),
    ("affinity", OTHER, True),
    ("labels", LABELLED, []),
    ("labels", [], LACKING),
    ("selectors", [LACKING, LABELLED]),
]


@pytest.mark.parametrize("where", MET, ids=repr)
def test_placements_that_this_node_meets(where: tuple[Any, ...]) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(where=where)
    call = driver.call(driver.create(where=where))
    world.settle()
    assert ref in driver.values
    assert not isinstance(driver.values[ref], list)
    assert not isinstance(driver.values[call], list)
    world.end()


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (("affinity", OTHER, False), f"the node {OTHER.hex()} does not exist (any more)"),
        (("labels", LACKING, []), "no node has the labels that it needs: zone exists"),
    ],
)
def test_placements_that_can_never_be_met(where: tuple[Any, ...], why: str) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref, other = driver.submit(where=where), driver.submit()
    handle = driver.create(where=where)
    call = driver.call(handle)
    world.settle()
    assert driver.error(ref) == "TaskUnschedulableError"
    assert driver.message(ref) == f"call 1 cannot run: {why}"
    assert driver.error(call) == "ActorUnschedulableError"
    assert world.machine.actors.table[handle[:TASK_SIZE]].state == DEAD
    assert other in driver.values
    again = driver.submit(where=where)
    world.settle()
    assert driver.error(again) == "TaskUnschedulableError"
    world.end()


def test_hard_affinity_to_a_node_that_can_never_run_the_task() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(where=("affinity", NODE_ID, False), cpus=2)
    world.settle()
    assert driver.message(ref).endswith("its node needs 2 CPU, more than this node has (1 CPU)")
    world.end()


def test_a_task_that_waits_for_its_arguments_fails_when_it_is_ready() -> None:
    world = World(CPU=1)
    driver = world.driver()
    argument = driver.submit()
    ref = driver.submit(where=("affinity", OTHER, False), arguments=(driver.state.refs.index(argument),))
    world.deliver()
    assert ref not in driver.values
    world.settle()
    assert driver.error(ref) == "TaskUnschedulableError"
    world.end()


def test_tasks_with_a_selector_wait_for_a_node_with_the_labels() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(where=("selectors", [LACKING, [("disk", IN, ["ssd"])]]))
    world.settle()
    assert ref not in driver.values
    assert world.machine.stalls.rows()[0]["why"] == "waits for a node with the labels zone exists or disk in ssd"
    driver.state.cancel(driver.state.refs.index(ref))
    world.settle()
    world.end()
