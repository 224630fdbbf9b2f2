"""Outcomes: results of any number, crashes and retries, and reports that come late or twice."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL, DONE, DONE_MANY, FAILED, NOT_STARTED, PLAIN, SHARED
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World


def busy(world: World) -> Worker:
    """The only worker that has something to do."""
    (worker,) = (worker for worker in world.workers if worker.queue or worker.running)
    return worker


def index(driver: Driver, ref: bytes) -> int:
    return driver.state.refs.index(ref)


@pytest.mark.parametrize("returns", [0, 1, 2, 5])
@pytest.mark.parametrize("ending", ["plain", "shared", "refs", "raise"])
def test_any_number_of_returns(returns: int, ending: str) -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.state.spawn(Recipe(returns=returns, ending=ending))
    assert len(driver.state.refs) == returns
    world.settle()
    assert not world.machine.work.tasks
    assert not world.unresolved()
    world.end()


@pytest.mark.parametrize("given", [[], [(PLAIN, b"", None)], [(PLAIN, b"", None)] * 3])
def test_a_wrong_number_of_values_is_an_error_of_all(given: list[Any]) -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(returns=2)
    world.deliver()
    worker = busy(world)
    task = worker.queue.popleft().task
    world.machine.receive(worker.client, [(DONE_MANY, task, 5, given)])
    world.host.after()
    world.talk()
    assert [driver.error(ref) for ref in driver.state.refs] == ["InternalError"] * 2
    world.end()


def test_a_shared_result_that_was_never_allocated_is_an_error() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    worker = busy(world)
    task = worker.queue.popleft().task
    world.machine.receive(worker.client, [(DONE, task, 5, SHARED, [f"{NODE_ID.decode()}-0", 0, 64], None)])
    world.host.after()
    world.talk()
    assert driver.error(ref) == "InternalError"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_crash_is_retried_as_often_as_allowed(retries: int) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(ending="crash", retries=retries)
    world.settle()
    assert driver.error(ref) == "WorkerCrashedError"
    assert world.starts[ref[:TASK_SIZE]] == 1 + retries
    world.end()


@pytest.mark.parametrize("connection_first", [True, False])
def test_the_end_of_a_worker_is_seen_in_either_order(connection_first: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(retries=1)
    world.deliver()
    worker = busy(world)
    world.die(worker)
    if connection_first:
        world.host.disconnect(worker)
    world.host.exit_seen()
    assert not any(number == worker.number for number in world.host.doomed if not connection_first)
    world.settle()
    assert ref in driver.values
    world.end()


def test_tasks_that_had_not_started_are_not_charged_for_the_crash() -> None:
    world = World(CPU=1)
    driver = world.driver()
    quick = Recipe(retries=1)
    driver.submit(quick)
    world.settle()
    refs = [driver.submit(quick) for _ in range(3)]
    world.deliver()
    worker = busy(world)
    worker.step()
    world.die(worker)
    world.settle()
    assert set(refs) <= driver.values.keys()
    left = {ref[:TASK_SIZE]: world.starts[ref[:TASK_SIZE]] for ref in refs}
    assert list(left.values()) == [2, 1, 1]


def test_answers_of_a_process_that_was_given_up_are_not_heard() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(retries=1)
    world.deliver()
    worker = busy(world)
    worker.step()
    worker.step()
    world.die(worker)
    world.host.exit_seen()  # the daemon reads the worker's messages only after that
    world.talk()
    assert ref not in driver.values
    world.settle()
    assert world.starts[ref[:TASK_SIZE]] == 2


def test_an_answer_that_comes_twice_counts_once() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    worker = busy(world)
    worker.step()
    worker.step()
    (answer,) = (message for message, _ in worker.wire if message[0] == DONE)
    world.machine.receive(worker.client, [answer, answer, (FAILED, answer[1], 5, PLAIN, b"", True, None)])
    world.settle()
    assert driver.values[ref] == answer[4]
    world.end()


def test_a_cancelled_task_that_comes_back_unstarted_is_over() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    worker = busy(world)
    world.host.order(CANCEL, ref[:TASK_SIZE], False, False)
    worker.inbox.clear()  # the worker gave the task back before it read CANCEL
    worker.queue.clear()
    world.machine.receive(worker.client, [(NOT_STARTED, [ref[:TASK_SIZE]])])
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    world.end()
