"""Bundles on a node of a cluster, and tasks that go to bundles of other nodes. The test plays the head."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import (
    ABORT,
    ANSWER,
    ASK,
    BACK,
    COMMIT,
    COMMITTED,
    GROUP,
    PREPARE,
    PREPARED,
    RELEASE_BUNDLES,
    TASK,
    UNSURE,
)
from asyncray.core.bundles import UNSURE_AFTER
from asyncray.units import UNIT
from tests.core.cluster.pair import A, B, Pair
from tests.core.grouping import ask, inside, make, ready

GROUP_ID = A + b"\0" * 13 + b"g"
ONE = (("CPU", UNIT),)


def row(*nodes: bytes | None, state: str = "CREATED", group: bytes = GROUP_ID) -> Any:
    return {
        "group_id": group,
        "namespace": "ns",
        "name": "",
        "strategy": "PACK",
        "state": state,
        "bundles": [ONE for _ in nodes],
        "nodes": list(nodes),
        "attempts": 1,
        "detached": True,
        "why": "",
    }


def said(world: Pair, node: bytes, *kinds: int) -> list[Any]:
    """The messages of these kinds that a node has sent to the head since the last time."""
    member = world.members[node]
    found = [message for message in member.said if message[0] in kinds]
    member.said = [message for message in member.said if message[0] not in kinds]
    return found


def head_says(world: Pair, node: bytes, *message: Any) -> None:
    world.members[node].hear_head(*message)
    world.members[node].host.after()
    world.talk()


def hold(world: Pair, node: bytes, index: int) -> None:
    """The node has the bundle."""
    head_says(world, node, PREPARE, GROUP_ID, [[index, 1, [["CPU", UNIT]]]], False)
    head_says(world, node, COMMIT, GROUP_ID, [[index, 1]])


def show(world: Pair, *nodes: bytes | None, state: str = "CREATED") -> None:
    for node in world.members:
        head_says(world, node, GROUP, row(*nodes, state=state))


def test_two_phases_on_a_node() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    resources = world.members[B].host.machine.resources
    head_says(world, B, PREPARE, GROUP_ID, [[0, 1, [["CPU", UNIT]]]], False)
    assert said(world, B, PREPARED) == [(PREPARED, GROUP_ID, [(0, 1)], True)]
    assert resources.available["CPU"] == UNIT
    head_says(world, B, PREPARE, GROUP_ID, [[1, 1, [["CPU", 2 * UNIT]]]], False)
    assert said(world, B, PREPARED) == [(PREPARED, GROUP_ID, [(1, 1)], False)]
    head_says(world, B, COMMIT, GROUP_ID, [[0, 1]])
    assert said(world, B, COMMITTED) == [(COMMITTED, GROUP_ID, [[0, 1]])]
    head_says(world, B, RELEASE_BUNDLES, GROUP_ID, [[0, 1]])
    assert resources.available["CPU"] == 2 * UNIT
    head_says(world, B, PREPARE, GROUP_ID, [[0, 2, [["CPU", UNIT]]]], False)
    head_says(world, B, ABORT, GROUP_ID, [[0, 2]])
    assert resources.available["CPU"] == 2 * UNIT


def test_a_node_that_waits_long_for_a_decision_asks() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    head_says(world, B, PREPARE, GROUP_ID, [[0, 1, [["CPU", UNIT]]]], False)
    world.wait(UNSURE_AFTER)
    assert said(world, B, UNSURE) == [(UNSURE, GROUP_ID, [(0, 1)])]


def test_tasks_go_to_the_node_of_their_bundle() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    hold(world, A, 0)
    hold(world, B, 1)
    show(world, A, B)
    refs = [driver.submit(where=inside(GROUP_ID, index)) for index in (0, 1, 1)]
    world.settle()
    assert world.kinds(A, B).count(TASK) == 2
    assert all(ref in driver.values for ref in refs)
    assert not any(isinstance(driver.values[ref], list) for ref in refs)


def test_tasks_wait_at_home_until_the_place_of_their_bundle_is_known() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    ref = driver.submit(where=inside(GROUP_ID, 0))
    world.settle()
    ((_, number, _, arguments),) = [asked for asked in said(world, A, ASK) if asked[2] == "watch_group"]
    assert list(arguments) == [GROUP_ID]
    hold(world, B, 0)
    head_says(world, A, ANSWER, number, True, row(None, state="PENDING"))
    world.settle()
    assert TASK not in world.kinds(A, B)
    show(world, B)
    world.settle()
    assert world.kinds(A, B).count(TASK) == 1
    assert ref in driver.values


def test_a_task_that_comes_by_an_old_row_goes_back_and_finds_its_bundle() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    show(world, B)
    ref = driver.submit(where=inside(GROUP_ID, 0))
    driver.host.hear(driver, len(driver.wire))
    assert world.deliver_until(A, B, TASK)
    assert world.deliver_until(B, A, BACK)
    hold(world, A, 0)
    show(world, A)
    world.settle()
    assert ref in driver.values
    assert not isinstance(driver.values[ref], list)


def test_the_removal_of_a_group_ends_its_tasks_on_all_nodes() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    hold(world, B, 0)
    show(world, B)
    running = driver.submit(where=inside(GROUP_ID, 0))
    waiting = [driver.submit(where=inside(GROUP_ID, 0)) for _ in range(3)]
    begin(world)
    head_says(world, B, RELEASE_BUNDLES, GROUP_ID, [[0, 1]])
    show(world, B, state="REMOVED")
    late = driver.submit(where=inside(GROUP_ID, 0))
    world.settle()
    for ref in (running, *waiting, late):
        assert driver.error(ref) == "TaskPlacementGroupRemoved"
    assert world.members[B].host.machine.resources.available["CPU"] == 2 * UNIT


def begin(world: Pair) -> None:
    """Everything happens but the end of tasks."""
    while world.talk() | world.chores():
        pass


def test_the_head_answers_what_clients_ask() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    said(world, A, ASK)
    group = make(driver, {"CPU": 1})
    ref = ready(driver, group)
    table = ask(driver, "groups", None)
    world.talk()
    asked = said(world, A, ASK)
    assert [message[2] for message in asked] == ["create_group", "watch_group", "groups"]
    head_says(world, A, ANSWER, asked[0][1], True, row(None, state="PENDING", group=group))
    head_says(world, A, ANSWER, asked[2][1], True, [row(None, state="PENDING", group=group)])
    world.talk()
    assert table[0][0]["state"] == "PENDING"
    assert ref not in driver.values
    head_says(world, A, GROUP, row(B, group=group))
    world.talk()
    assert driver.values[ref] == b"the group"
