"""Cancelling: a task in any state, by force, with its children, and after the end of its submitter."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import World


def busy(world: World) -> Worker:
    """The only worker that has something to do."""
    (worker,) = (worker for worker in world.workers if worker.queue or worker.running)
    return worker


def index(driver: Driver, ref: bytes) -> int:
    return driver.state.refs.index(ref)


@pytest.mark.parametrize("where", ["waiting", "queued", "sent", "running", "blocked"])
@pytest.mark.parametrize("retries", [0, 2])
def test_a_task_can_be_cancelled_in_any_state(where: str, retries: int) -> None:
    world = World(CPU=1)
    driver = world.driver()
    never = driver.submit(extra=("moon", 1))
    wait: dict[str, Any] = {"steps": (("get", 0),), "nested": (index(driver, never),)}
    late: dict[str, Any] = {"arguments": (index(driver, never),)}
    hog: dict[str, Any] = {"cpus": 1 if where == "queued" else 0}
    driver.submit(**hog)
    more: dict[str, Any] = {"waiting": late, "blocked": wait}.get(where, {})
    ref = driver.submit(retries=retries, **more)
    world.deliver()
    for worker in world.workers:
        if where in ("running", "blocked"):
            for _ in range(1 if where == "running" else 2):
                worker.step()
    world.talk()
    world.host.order(CANCEL, ref[:TASK_SIZE], False, False)
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    world.end()


def test_cancelling_by_force_kills_the_worker_and_is_no_crash() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(retries=5)
    world.deliver()
    busy(world).step()
    world.host.order(CANCEL, ref[:TASK_SIZE], True, False)
    assert world.host.doomed
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    assert world.starts[ref[:TASK_SIZE]] == 1


@pytest.mark.parametrize("recursive", [True, False])
def test_children_are_cancelled_with_their_parent_if_wanted(recursive: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(steps=(("spawn", Recipe(extra=("moon", 1))), ("get", 0)))
    world.settle()
    world.host.order(CANCEL, ref[:TASK_SIZE], False, recursive)
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    assert len(world.machine.work.tasks) == (0 if recursive else 1)
    world.end()


def test_a_second_cancellation_takes_nothing_back() -> None:
    """The first cancellation is recursive, and the task does not know of it yet: it also reaches later children."""
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    busy(world).step()
    for recursive in (True, False):
        world.host.order(CANCEL, ref[:TASK_SIZE], False, recursive)
    assert world.machine.work.tasks[ref[:TASK_SIZE]].cancelled_with_children
    world.settle()
    world.end()


def test_an_actor_is_not_cancelled_with_the_task_that_made_it() -> None:
    """The tasks that its constructor has submitted are not cancelled either: the constructor would fail."""
    world = World(CPU=3)
    driver = world.driver()
    moon = Recipe(extra=("moon", 1))
    actor = Recipe(steps=(("spawn", moon),), detached=True, restarts=1)
    ref = driver.submit(steps=(("make", actor), ("spawn", moon), ("get", 0)))
    world.settle()
    assert len(world.machine.work.tasks) == 4
    world.host.order(CANCEL, ref[:TASK_SIZE], False, True)
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    (made,) = world.machine.actors.table.values()
    assert made.state == "alive"
    assert len(world.machine.work.tasks) == 2  # the constructor, which may run again, and the task that it submitted


def test_children_of_a_crashed_task_that_nobody_else_wants_are_cancelled() -> None:
    world = World(CPU=1)
    driver = world.driver()
    parent = Recipe(steps=(("spawn", Recipe(extra=("R", 1))), ("get", 0)), ending="plain")
    driver.submit(parent)
    world.deliver()
    worker = busy(world)
    while worker.main is None or not worker.main.blocked:
        worker.step()
        world.talk()
    assert len(world.machine.work.tasks) == 2
    world.die(worker)
    world.deliver()
    assert not world.machine.work.tasks
