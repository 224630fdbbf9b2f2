"""Requests for room in the object store: the order in which they wait, their deadline, and the end of the process."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.config import STORE_FULL_DEADLINE
from asyncray.messages import ALLOCATE, RUN_GC
from tests.core.host import CAPACITY
from tests.core.programs import Recipe
from tests.core.test_objects import share
from tests.core.world import World


def test_a_full_store_asks_for_garbage_and_serves_claims_in_order() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    ref = share(world, one, CAPACITY - 2048)
    one.drop(ref)
    one.state.refs.clear()
    world.talk()
    places: list[Any] = []
    for size in (4000, 3000):
        two.allocate(size, places.append)
    world.host.hear(two, 2)
    assert [message[0] for message in one.inbox] == [RUN_GC]
    world.deliver()
    assert [place[2] for place in places] == [4000, 3000]


def test_a_worker_that_waits_for_room_lends_its_cpu_and_returns_the_tasks_sent_ahead() -> None:
    world = World(CPU=1)
    driver = world.driver()
    kept = share(world, driver, CAPACITY)
    ref = driver.submit(ending="shared")
    other = driver.submit()
    for _ in range(50):
        world.deliver()
        world.run()
    assert other in driver.values  # it ran meanwhile, on the same CPU
    assert ref not in driver.values
    world.machine.check()
    driver.drop(kept)
    world.settle()
    assert ref in driver.values
    assert world.machine.resources.available["CPU"] == 10_000


def test_a_full_store_is_an_error_in_time() -> None:
    world = World()
    driver = world.driver()
    share(world, driver, CAPACITY - 2048)
    answers: list[Any] = []
    driver.allocate(4000, answers.append)
    world.deliver()
    assert world.machine.needs_fast_tick
    world.wait(STORE_FULL_DEADLINE / 2)
    world.deliver()
    assert answers == []
    world.wait(STORE_FULL_DEADLINE)
    world.deliver()
    assert answers == [None]
    driver.allocate(CAPACITY + 1, answers.append)
    world.deliver()
    assert answers == [None, None], "what can never fit is refused at once"


def test_a_nested_task_that_waits_for_room_gives_none_back() -> None:
    world = World(CPU=1)
    world.machine.scheduler.nest_after = 1
    driver = world.driver()
    never = Recipe(extra=("R", 1))  # a resource that the node does not have
    host = driver.submit(steps=(("spawn", never), ("get", 0)))
    for _ in range(5):
        world.deliver()
        world.run()
    held = share(world, driver, CAPACITY)
    ref = driver.submit(arguments=(driver.state.refs.index(held),), ending="shared")
    world.deliver()
    assert sum(len(worker.nested) for worker in world.machine.pool.workers.values()) == 1
    world.settle()  # the wait for room ends in time, although the task holds memory and waits for no object
    assert ref in driver.values
    driver.state.cancel(driver.state.refs.index(host))
    world.settle()
    assert host in driver.values
    world.end()


def test_a_segment_that_cannot_be_made_fails_the_first_claim() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    answers: list[Any] = []
    one.allocate(100, lambda place: answers.append(("one", place)))
    two.allocate(100, lambda place: answers.append(("two", place)))
    world.talk()
    world.host.segment(works=False)
    world.deliver()
    assert sorted((who, place is None) for who, place in answers) == [("one", True), ("two", False)]


@pytest.mark.parametrize("size", [-1, 1.5, "much", None])
def test_a_size_that_is_none_is_the_clients_fault(size: Any) -> None:
    world = World()
    driver = world.driver()
    driver.allocate(100, lambda place: None)  # makes the next request wait
    world.talk()
    with pytest.raises(ValueError, match="wants"):
        world.machine.receive(driver.client, [(ALLOCATE, 1, size)])


def test_the_claim_of_a_process_that_ends_while_it_waits_is_forgotten() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    share(world, one, CAPACITY - 2048)
    two.allocate(4000, lambda place: None)
    world.talk()
    assert world.machine.store.waiting
    world.die(two)
    world.deliver()
    world.wait(0)  # no time passes, so the claim does not end at its deadline
    assert not world.machine.store.waiting
    world.end()


def test_room_is_waited_for_while_a_task_runs_that_has_read_what_fills_the_store() -> None:
    world = World(CPU=2)
    driver, other = world.driver(), world.driver()
    host = driver.submit(steps=(("spawn", Recipe(ending="shared")), ("get", 0), ("spawn", Recipe())))
    while not any(worker.client and worker.client.pinned for worker in world.machine.pool.workers.values()):
        world.deliver()
        world.run()
    answers: list[Any] = []
    other.allocate(CAPACITY, answers.append)
    world.deliver()
    world.wait(2 * STORE_FULL_DEADLINE)
    world.deliver()
    assert answers == []
    world.settle()
    assert host in driver.values
    assert answers == [None], "the task has ended, and others still need what it has read"
    world.end()
