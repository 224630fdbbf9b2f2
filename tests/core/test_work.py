"""Tasks from submission to result: failures, retries, cancellation, and answers that come late or twice."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.outbox import KillWorker
from asyncray.ids import FIRST_RETURN, PUT_INDEX, TASK_SIZE
from asyncray.messages import BUFFERS, CANCEL, DONE, DONE_MANY, FAILED, NOT_STARTED, PLAIN, PUT, SHARED, SUBMIT
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World


def busy(world: World) -> Worker:
    """The only worker that has something to do."""
    (worker,) = (worker for worker in world.workers if worker.queue or worker.running)
    return worker


def index(driver: Driver, ref: bytes) -> int:
    return driver.state.refs.index(ref)


# Dependencies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_an_error_passes_to_whoever_depends_on_it(early: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    bad = driver.submit(ending="raise")
    if early:
        world.settle()
    heir = driver.submit(arguments=(0,))
    both = driver.submit(arguments=(0, 1, 0))
    world.settle()
    assert driver.values[heir] == driver.values[both] == driver.values[bad]
    world.end()


def test_a_chain_of_a_hundred_thousand_fails_without_recursion() -> None:
    world = World(CPU=1)
    driver = world.driver()
    number = driver.template(Recipe().spec("spawn"))
    tasks = [driver.next_id() for _ in range(100_000)]
    refs = [task + b"\0\0\0\1" for task in tasks]
    for before, task in zip([None, *refs], tasks, strict=False):
        driver.send((SUBMIT, task, number, PLAIN, b"", before and [before], None, None, None), [task + b"\0\0\0\1"])
    world.host.hear(driver, len(driver.wire))
    world.host.order(CANCEL, tasks[0], False, False)
    assert not world.machine.work.tasks
    for ref in refs:
        driver.drop(ref)
    world.talk()
    assert not world.machine.objects.table


def test_the_same_argument_twice_is_waited_for_once() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit()
    ref = driver.submit(arguments=(0, 0))
    world.settle()
    assert ref in driver.values
    world.end()


# Returns --------------------------------------------------------------------------------------------------------------


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


# Crashes --------------------------------------------------------------------------------------------------------------


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


def test_nobody_kills_a_process_that_is_known_to_be_gone() -> None:
    world = World(CPU=1)
    world.driver().submit()
    world.deliver()
    worker = busy(world)
    world.machine.worker_exited(worker.number, "killed")
    assert KillWorker(worker.number) not in world.machine.outbox.commands


def test_what_had_not_started_is_not_charged_for_the_crash() -> None:
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
    world.host.exit_seen()  # and only then what it wrote is read
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


def test_a_task_that_submits_its_successor_keeps_no_memory_of_its_ancestors() -> None:
    world = World(CPU=1)
    driver = world.driver()
    recipe = Recipe()
    for _ in range(5):
        recipe = Recipe(steps=(("spawn", recipe),))
    driver.submit(recipe)
    for _ in range(40):
        world.deliver()
        world.run()
        for task in world.machine.work.tasks.values():
            assert task.parent is None or task.parent.id in world.machine.work.tasks


# Cancelling -----------------------------------------------------------------------------------------------------------


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
    """A task that was cancelled with its children cancels those that it submits before it knows, also after another."""
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
    """Nor what its constructor has submitted: it would fail by that."""
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
    assert len(world.machine.work.tasks) == 2  # the constructor, for it may run again, and what it has submitted


def test_arguments_that_fit_in_no_message_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncray.core.work._MANY", 2)
    monkeypatch.setattr("asyncray.core.work.ARGUMENTS_LIMIT", 250)
    world = World(CPU=1)
    driver = world.driver()
    refs = []
    for kind, payload in ((PLAIN, b"x" * 100), (BUFFERS, [b"x" * 50, b"x" * 50]), (PLAIN, b"x" * 100)):
        refs.append(driver.next_id() + PUT_INDEX)
        driver.send((PUT, refs[-1], kind, payload, None), [refs[-1]])
    number = driver.template(Recipe().spec("call"))
    task = driver.next_id()
    driver.send((SUBMIT, task, number, PLAIN, b"", refs, None, None, None), [task + FIRST_RETURN])
    world.talk()
    fault = world.machine.objects.table[task + FIRST_RETURN].payload
    assert fault[0] == "AsyncraySystemError"
    assert "3 small objects" in fault[1]["message"]
    assert not world.machine.work.tasks


def test_a_cancelled_task_that_comes_back_unstarted_is_over() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    worker = busy(world)
    world.host.order(CANCEL, ref[:TASK_SIZE], False, False)
    worker.inbox.clear()  # it gave the task back before it read that
    worker.queue.clear()
    world.machine.receive(worker.client, [(NOT_STARTED, [ref[:TASK_SIZE]])])
    world.settle()
    assert driver.error(ref) == "TaskCancelledError"
    world.end()


# Jobs -----------------------------------------------------------------------------------------------------------------


def test_the_end_of_a_driver_ends_its_tasks_wherever_they_are() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(extra=("moon", 1))
    driver.submit(arguments=(0,))
    driver.submit(retries=3)
    driver.submit(steps=(("get", 0),), nested=(0,))
    world.settle()
    world.die(driver)
    world.settle()
    world.nothing_is_left()


def test_what_a_detached_actor_submits_goes_on_after_its_driver_and_ends_with_it() -> None:
    world = World(CPU=2)
    driver = world.driver()
    grandchild = Recipe(extra=("moon", 1))
    child = Recipe(steps=(("spawn", grandchild), ("get", 0)))
    handle = driver.create(detached=True)
    driver.call(handle, steps=(("spawn", child),), ending="plain")
    world.settle()
    world.die(driver)
    world.settle()
    assert len(world.machine.work.tasks) == 2
    assert [job.driver_ended for job in world.machine.jobs.table.values()] == [True]
    world.end()


def test_a_worker_that_still_runs_an_aborted_task_is_used_again_after_it() -> None:
    """1. a worker runs a driver's task, with one of a detached actor behind it; 2. the driver ends; 3. DONE comes."""
    world = World(CPU=1)
    driver = world.driver()
    quick = Recipe(retries=1)
    handle = driver.create(detached=True)
    driver.submit(quick)
    world.settle()
    driver.submit(quick)
    driver.call(handle, steps=(("spawn", quick), ("keep", 1)))
    world.deliver()
    actor = next(worker for worker in world.workers if worker.is_actor)
    for _ in range(5):
        actor.step()
    world.deliver()
    worker = next(worker for worker in world.workers if worker.queue)
    assert len(worker.queue) == 2
    worker.step()
    world.die(driver)
    world.deliver()
    assert worker.alive
    world.settle()
    assert not world.unresolved()
    world.end()


def test_another_drivers_calls_of_an_actor_end_with_that_driver_only() -> None:
    world = World(CPU=1)
    creator, other = world.driver(), world.driver()
    handle = creator.create()
    world.talk()
    other.hold(handle)
    other.state.handles.append(handle)
    mine, theirs = creator.call(handle), other.call(handle)
    world.deliver()
    world.die(other)
    world.settle()
    assert mine in creator.values
    assert theirs[:TASK_SIZE] not in world.machine.work.tasks
    world.end()


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_name_for_each_call_makes_no_template_and_keeps_the_mean() -> None:
    world = World(CPU=1)
    driver = world.driver()
    for _ in range(40):  # every other one has a name, and the worker checks that it learns it
        driver.submit()
    world.settle()
    job = driver.client.job
    assert job is not None
    (template,) = job.templates.values()
    assert template.mean is not None
    assert [worker.defined for worker in world.workers if worker.defined] == [{template.number}]
    assert driver.client.templates == {2: template}


def test_the_name_of_a_call_stands_in_its_error() -> None:
    world = World(CPU=1)
    driver = world.driver()
    lost = driver.submit(ending="crash")  # the first call of a process has an odd number, and so a name
    world.settle()
    assert "that ran call 1 died" in driver.message(lost)
