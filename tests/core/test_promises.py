"""Objects that a process puts later: tasks that depend on them wait, until the value arrives or the process ends."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.ids import FIRST_RETURN, PUT_INDEX
from asyncray.messages import FAULT, PLAIN, PROMISE, PUT, SEAL, SUBMIT, UNRESOLVED
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import World

FULL = ["ObjectStoreFullError", {"message": "full"}]


def promise(driver: Driver) -> bytes:
    ref = driver.next_id() + PUT_INDEX
    driver.send((PROMISE, ref), [ref])
    return ref


def depend(driver: Driver, ref: bytes) -> bytes:
    """A task with the object as an argument."""
    number = driver.template(Recipe().spec("call"))
    task = driver.next_id()
    driver.send((SUBMIT, task, number, PLAIN, b"", [ref], None, None, None), [task + FIRST_RETURN])
    return task + FIRST_RETURN


def entry(world: World, ref: bytes) -> Any:
    return world.machine.objects.table[ref]


def test_a_task_waits_for_a_promised_object() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = promise(driver)
    depend(driver, ref)
    world.talk()
    (task,) = world.machine.work.tasks.values()
    assert (task.missing, task.state) == (1, "waiting")
    world.machine.receive(driver.client, [(PUT, ref, PLAIN, b"", None)])
    assert not task.missing
    assert task.state != "waiting"
    assert driver.client.promised == {}
    world.check()


def test_a_promise_that_becomes_an_error_fails_what_depends_on_it() -> None:
    world = World(CPU=1)
    one, two = world.driver(), world.driver()
    ref = promise(one)
    result = depend(one, ref)
    two.hold(ref)
    two.subscribe(ref)
    world.talk()
    assert ref not in two.values
    one.send((PUT, ref, FAULT, FULL, None))
    world.talk()
    assert (entry(world, result).kind, entry(world, result).payload) == (FAULT, FULL)
    assert (one.values[ref], two.values[ref]) == (FULL, FULL)
    assert not world.machine.work.tasks


def test_memory_of_a_promise_that_nobody_wants_any_more_is_free() -> None:
    world = World()
    driver = world.driver()
    ref = promise(driver)
    places: list[Any] = []
    driver.allocate(501, places.append)
    world.talk()
    world.host.segment()
    world.talk()
    driver.drop(ref)
    world.talk()
    assert entry(world, ref).kind == UNRESOLVED
    driver.send((SEAL, ref, *places[0][:2], None))
    world.talk()
    assert world.machine.store.allocator.used == 0
    assert not world.machine.objects.table


def test_the_death_of_its_maker_is_the_error_of_a_promise() -> None:
    world = World(CPU=1)
    one, two = world.driver(), world.driver()
    ref = promise(one)
    world.talk()
    two.hold(ref)
    two.subscribe(ref)
    world.talk()
    world.die(one)
    world.settle()
    assert two.values[ref][0] == "OwnerDiedError"
    two.drop(ref)
    world.end()


def test_what_exists_is_not_promised() -> None:
    world = World()
    driver = world.driver()
    ref = promise(driver)
    world.talk()
    with pytest.raises(ValueError, match="again"):
        world.machine.receive(driver.client, [(PROMISE, ref)])
