"""Tasks that wait in a cluster: the notices about them, which their home sends, and the rows for people."""

from __future__ import annotations

from asyncray.core.stalls import PATIENCE
from asyncray.messages import NOTICE
from tests.core.cluster.pair import B, C, Pair
from tests.core.cluster.test_far_notices import news
from tests.core.processes import Driver


def let_stall(world: Pair) -> None:
    """So much time passes that a task which is stuck gets a notice."""
    for _ in range(4):
        world.wait(PATIENCE / 2)
        world.deliver()


def notices(driver: Driver) -> list[str]:
    return [text for _, text in news(driver, NOTICE)]


def test_what_no_node_has_is_a_notice_at_once_and_what_another_node_has_is_none() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    driver.submit(extra=("R", 1))
    ref = driver.submit(extra=("R", 2))
    world.deliver()
    why = "needs 1 CPU, 2 R, and no node of the cluster has that much"
    assert notices(driver) == [f"spawn {why}. It waits for one that has."]
    (row,) = world.machine.stalls.rows()
    assert row["why"] == why
    driver.state.cancel(driver.state.refs.index(ref))
    world.end()


def test_actors_at_home_are_no_reason_to_wait_while_another_node_could_serve_a_task() -> None:
    """It is only busy."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    driver.create(lives_on=1)
    world.settle()
    for _ in range(3):
        driver.submit()
    world.deliver()
    let_stall(world)
    assert not notices(driver)
    world.settle()
    world.end()


def test_a_task_that_waits_at_another_node_for_the_end_of_an_actor_is_a_notice_of_its_home() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    actor = driver.create(lives_on=0, extra=("R", 1))
    world.settle()
    ref = driver.submit(extra=("R", 1))
    other = driver.submit(extra=("R", 1))
    world.deliver()
    (row,) = world.members[B].host.machine.stalls.rows()
    assert row["why"] == "needs 1 R, and actors hold 1 R of 1 R"
    (row,) = world.machine.stalls.rows()
    assert (
        row["why"]
        == "needs 1 CPU, 1 R, and actors or placement groups hold too much of that on each node that could serve it"
    )
    let_stall(world)
    (text,) = notices(driver)
    assert text.startswith(
        "spawn needs 1 CPU, 1 R, and actors or placement groups hold too much of that on each node that could serve it"
    )
    driver.lose(actor)
    world.settle()
    assert {ref, other} <= driver.values.keys()
    world.end()


def test_an_actor_that_waits_at_another_node_is_a_notice_of_that_node() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    first = driver.create(lives_on=0, extra=("R", 1))
    world.settle()
    driver.create(lives_on=0, extra=("R", 1))
    world.deliver()
    let_stall(world)
    (text,) = notices(driver)
    assert text.startswith(f"node {B.hex()} at node000B:1: make needs 1 R, and actors hold 1 R of 1 R. It waits")
    driver.lose(first)
    world.settle()
    world.end()


def test_a_task_for_one_node_waits_for_the_actors_of_that_node_only() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    actor = driver.create(lives_on=1, where=("affinity", B, False))
    world.settle()
    here = driver.submit(where=("affinity", C, False))
    stuck = driver.submit(where=("affinity", B, False))
    world.deliver()
    let_stall(world)
    assert len(notices(driver)) == 1
    world.settle()
    assert here in driver.values
    assert stuck not in driver.values
    driver.lose(actor)
    world.settle()
    world.end()


def test_tasks_that_stand_in_no_queue_have_rows() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    driver.submit(where=("spread",), extra=("R", 1))
    for _ in range(2):
        driver.submit(where=("spread",), extra=("S", 1))
    world.deliver()
    rows = {row["why"]: row["tasks"] for row in world.machine.stalls.rows()}
    assert rows == {
        "needs 1 CPU, 1 R, and no node of the cluster has that much": 1,
        "needs 1 CPU, 1 S, and no node of the cluster has that much": 2,
    }
    for index in range(3):
        driver.state.cancel(index)
    world.settle()
    assert world.machine.stalls.rows() == []
    assert repr(world.machine.stalls.others).startswith("<WaitingTasks <Feeding")
    world.end()


def test_tasks_for_a_full_node_have_a_row() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    for _ in range(5):
        driver.submit(where=("affinity", B, False))
    world.deliver()
    (row,) = [row for row in world.machine.stalls.rows() if "room" in row["why"]]
    assert row["why"] == f"waits for room at node {B.hex()}"
    assert row["needs"] == {"CPU": 1}
    assert 0 < row["tasks"] < 5
    world.settle()
    world.end()
