"""Tasks from submission to result: dependencies, ends of their submitters, and names of calls."""

from __future__ import annotations

import pytest

from asyncray.core.outbox import KillWorker
from asyncray.ids import FIRST_RETURN, PUT_INDEX, TASK_SIZE
from asyncray.messages import BUFFERS, CANCEL, PLAIN, PUT, SUBMIT
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import World


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


def test_nobody_kills_a_process_that_is_known_to_be_gone() -> None:
    world = World(CPU=1)
    world.driver().submit()
    world.deliver()
    worker = busy(world)
    world.machine.worker_exited(worker.number, "killed")
    assert KillWorker(worker.number) not in world.machine.outbox.commands


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
    assert [[*worker.known.templates] for worker in world.workers if worker.known.templates] == [[template.number]]
    assert driver.client.templates == {2: template}


def test_the_name_of_a_call_stands_in_its_error() -> None:
    world = World(CPU=1)
    driver = world.driver()
    lost = driver.submit(ending="crash")  # the first call of a process has an odd number, and so a name
    world.settle()
    assert "that ran call 1 died" in driver.message(lost)
