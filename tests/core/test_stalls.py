"""Tasks and actors that wait for resources which may never come, and the notices that drivers get about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncray.core.stalls import PATIENCE
from asyncray.messages import NOTICE, RUN_GC
from tests.core.processes import Driver
from tests.core.world import World

if TYPE_CHECKING:
    from asyncray.words import ShapeRow


def told(driver: Driver) -> list[str]:
    """The notices that the node has sent to the driver, read or not."""
    return [message[2] for message in (*driver.news, *driver.inbox) if message[0] == NOTICE]


def rows(world: World) -> list[ShapeRow]:
    return world.machine.stalls.rows()


def test_what_the_node_does_not_have_is_told_at_once_and_once() -> None:
    world = World(CPU=2, R=1)
    driver = world.driver()
    refs = [driver.submit(extra=("R", 3)) for _ in range(2)]
    world.deliver()
    assert told(driver) == ["spawn needs 3 R, more than this node has (1 R), and waits until it has."]
    assert rows(world) == [
        {"name": "call 1", "needs": {"CPU": 1, "R": 3}, "tasks": 2, "why": "needs 3 R, more than this node has (1 R)"}
    ]
    for ref in refs:
        driver.state.cancel(driver.state.refs.index(ref))
    world.end()


def test_many_functions_that_ask_for_the_same_are_told_of_once() -> None:
    world = World(CPU=2, R=1)
    driver = world.driver()
    for returns in (1, 2, 3):  # so many templates
        driver.submit(extra=("R", 3), returns=returns)
    driver.submit(extra=("R", 4))
    world.deliver()
    assert [text.split(",")[0] for text in told(driver)] == ["spawn needs 3 R", "spawn needs 4 R"]
    for index in range(7):
        driver.state.cancel(index)
    world.end()


def test_what_actors_hold_is_told_after_a_while() -> None:
    world = World(CPU=2)
    driver = world.driver()
    actors = [driver.create(lives_on=1) for _ in range(2)]
    world.settle()
    ref = driver.submit()
    world.deliver()
    assert [row["why"] for row in rows(world)] == ["needs 1 CPU, and actors hold 2 CPU of 2 CPU"]
    world.wait(1)
    assert not told(driver)
    for _ in range(3):
        world.wait(PATIENCE)
    world.deliver()
    (text,) = told(driver)
    assert text.startswith("call 3 needs 1 CPU, and actors hold 2 CPU of 2 CPU. It waits until one of them ends.")
    driver.lose(actors[0])
    world.settle()
    assert ref in driver.values
    assert not rows(world)
    world.end()


def test_before_anybody_is_told_all_collect_garbage_once() -> None:
    """The last handle of an actor may be in it."""
    world = World(CPU=1)
    driver = world.driver()
    actor = driver.create(lives_on=1)
    world.settle()
    ref = driver.submit()
    world.deliver()
    for _ in range(5):
        world.wait(1)
    asked = [sum(message[0] == RUN_GC for message in process.inbox) for process in (driver, *world.workers)]
    assert asked[:2] == [1, 1]
    assert sum(asked) == 2  # workers that have worked for no job have no garbage of it
    assert not told(driver)
    driver.lose(actor)
    world.settle()
    assert ref in driver.values
    world.end()


def test_whose_turn_comes_is_no_news() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    other = driver.submit(cpus=0.5)
    world.deliver()
    for _ in range(3):
        world.wait(PATIENCE)
    world.deliver()
    assert not told(driver)
    world.settle()
    assert {ref, other} <= driver.values.keys()
    world.end()


def test_a_queue_of_actors_that_moves_on_is_no_news() -> None:
    world = World(CPU=1)
    driver = world.driver()
    actors = [driver.create(lives_on=1) for _ in range(4)]
    for actor in actors:
        while world.talk() | world.chores() | world.run():
            pass  # and no time passes
        for _ in range(3):
            world.wait(PATIENCE / 4)
        driver.lose(actor)
    world.settle()
    assert not told(driver)
    world.end()


def test_an_actor_that_waits_lends_its_cpu() -> None:
    """It is no reason for others to wait."""
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(extra=("R", 1))
    actor = driver.create(lives_on=1)
    call = driver.call(actor, steps=(("get", 0),), nested=(0,), careful=True)
    world.deliver()
    for _ in range(3):
        world.wait(PATIENCE)
    world.deliver()
    assert [text for text in told(driver) if "actors hold" in text] == []
    driver.state.cancel(0)
    world.settle()
    assert call in driver.values
    world.end()
