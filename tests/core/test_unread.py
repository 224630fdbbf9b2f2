"""Errors that nobody reads, and the daemon's reports of them to the driver."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.config import REPORTED_SINGLY
from asyncray.messages import CANCEL, ERROR_SEEN, KILL, REQUEST, SUBSCRIBE, UNREAD
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import World


def told(driver: Driver) -> list[Any]:
    """The reports that the driver has got, without the function's name."""
    return [tuple(message[2:]) for message in driver.news if message[0] == UNREAD]


def failed(world: World, driver: Driver, **options: Any) -> bytes:
    """The ref of a task that has raised."""
    ref = driver.submit(ending="raise", **options)
    world.settle()
    return ref


def test_a_ref_that_goes_unread_tells(world: World, driver: Driver) -> None:
    ref = failed(world, driver)
    error = driver.values[ref]
    assert not told(driver)
    driver.drop(ref)
    world.settle()
    assert [payload for _, payload, _ in told(driver)] == [error]


def test_a_ref_that_went_before_the_error_tells(world: World, driver: Driver) -> None:
    ref = driver.submit(ending="raise")
    driver.drop(ref)
    world.settle()
    assert len(told(driver)) == 1


def test_an_error_that_is_read_is_no_news(world: World, driver: Driver) -> None:
    ref = failed(world, driver)
    driver.read(ref)
    driver.drop(ref)
    world.settle()
    assert not told(driver)


def test_whoever_got_the_error_of_another_one_waited_for_this_as_well(world: World, driver: Driver) -> None:
    ref = driver.submit(ending="raise")
    driver.send((ERROR_SEEN, [ref]))
    driver.drop(ref)
    world.settle()
    assert not told(driver)


@pytest.mark.parametrize("early", [True, False])
def test_a_borrower_that_asks_reads(world: World, driver: Driver, early: bool) -> None:
    ref = driver.submit(ending="raise")
    other = world.driver()
    if early:
        world.settle()
    else:
        world.deliver()
    other.send((SUBSCRIBE, [ref]))
    world.host.hear(other, len(other.wire))
    driver.drop(ref)
    world.settle()
    assert not told(driver)


def test_an_heir_reads_and_its_own_error_is_news(world: World, driver: Driver) -> None:
    failed(world, driver)
    heir = driver.submit(arguments=(0,))
    world.settle()
    driver.drop(driver.state.refs[0])
    world.settle()
    assert not told(driver)
    driver.drop(heir)
    world.settle()
    assert len(told(driver)) == 1


def test_several_results_of_a_task_are_one_error(world: World, driver: Driver) -> None:
    ref = failed(world, driver, returns=3)
    for index in range(3):
        driver.drop(ref[:-1] + bytes([index + 1]))
    world.settle()
    assert len(told(driver)) == 1


@pytest.mark.parametrize("early", [True, False])
def test_one_of_several_results_may_be_dropped_and_the_error_read_by_another(
    world: World, driver: Driver, early: bool
) -> None:
    ref = driver.submit(ending="raise", returns=3)
    if not early:
        world.settle()
    driver.drop(ref[:-1] + bytes([1]))
    driver.drop(ref[:-1] + bytes([3]))
    world.settle()
    driver.read(ref[:-1] + bytes([2]))
    driver.drop(ref[:-1] + bytes([2]))
    world.settle()
    assert not told(driver)


def test_a_task_without_results_tells_at_once(world: World, driver: Driver) -> None:
    driver.state.spawn(Recipe(ending="raise", returns=0))
    world.settle()
    assert len(told(driver)) == 1


def test_a_cancelled_task_is_no_news(world: World, driver: Driver) -> None:
    ref = driver.submit()
    world.host.order(CANCEL, ref[:-4], False, True)
    driver.drop(ref)
    world.settle()
    assert not told(driver)


def test_a_crash_is_news(world: World, driver: Driver) -> None:
    driver.drop(driver.submit(ending="crash", retries=0))
    world.settle()
    assert [payload[0] for _, payload, _ in told(driver)] == ["WorkerCrashedError"]


def test_a_constructor_that_nobody_waits_for_tells(world: World, driver: Driver) -> None:
    driver.create(ending="raise")
    world.settle()
    assert [payload[0] for _, payload, _ in told(driver)] == ["ActorDiedError"]


def test_the_crash_of_an_actor_is_news_and_its_end_is_none(world: World, driver: Driver) -> None:
    driver.drop(driver.call(driver.create(), ending="crash"))
    world.settle()
    assert [payload[0] for _, payload, _ in told(driver)] == ["ActorDiedError"]
    killed = driver.create()
    driver.drop(driver.call(killed))
    world.host.order(KILL, killed[:-4], True)
    world.settle()
    assert len(told(driver)) == 1


def test_calls_tell_of_the_constructor_if_there_are_any(world: World, driver: Driver) -> None:
    call = driver.call(driver.create(ending="raise"))
    world.settle()
    assert not told(driver)
    driver.drop(call)
    world.settle()
    assert len(told(driver)) == 1


def test_a_flood_is_counted(world: World, driver: Driver) -> None:
    for _ in range(100):
        driver.drop(driver.submit(ending="raise"))
    world.settle()
    assert [count for *_, count in told(driver)] == [*range(1, REPORTED_SINGLY + 1), 100]


def test_goodbye_tells_of_what_is_left(world: World, driver: Driver) -> None:
    failed(world, driver)
    driver.ask(REQUEST, "goodbye", [], lambda answer: None)
    world.settle()
    assert len(told(driver)) == 1
    driver.ask(REQUEST, "goodbye", [], lambda answer: None)
    world.settle()
    assert len(told(driver)) == 1


@pytest.fixture
def world() -> Any:
    world = World(CPU=1)
    yield world
    world.end()


@pytest.fixture
def driver(world: World) -> Driver:
    return world.driver()
