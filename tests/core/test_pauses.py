"""Tasks whose processes crash start again after longer and longer pauses."""

from __future__ import annotations

from asyncray.core.pauses import FIRST_PAUSE, LONGEST_PAUSE, pause_before_retry
from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL, FAILED, FAULT
from tests.core.world import World


def test_the_first_retry_comes_at_once_and_pauses_double_up_to_a_limit() -> None:
    assert [pause_before_retry(retry) for retry in (1, 2, 3, 4)] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause_before_retry(10**6) == LONGEST_PAUSE


def starts(world: World, task: bytes, seconds: float) -> int:
    """All that can happen, for so long: how often the task starts."""
    before = world.starts[task]
    for _ in range(round(seconds / 0.05)):
        while world.chores() | world.talk() | world.run():
            pass
        world.wait(0.05)
    return world.starts[task] - before


def test_a_task_that_crashes_at_once_is_retried_more_and_more_slowly() -> None:
    world = World(CPU=1)
    driver = world.driver()
    task = driver.submit(ending="crash", retries=-1)[:TASK_SIZE]
    assert starts(world, task, 0.05) == 2
    assert 2 < starts(world, task, 3.0) < 6
    assert starts(world, task, 2 * LONGEST_PAUSE) < 6
    assert not world.machine.needs_fast_tick or world.machine.scheduler.pauses.is_near(world.machine.now)
    world.host.order(CANCEL, task, False, False)
    world.check()
    assert starts(world, task, 2 * LONGEST_PAUSE) == 0
    assert not world.machine.scheduler.pauses._until


def test_a_task_whose_zygote_dies_is_retried_at_once_and_is_not_blamed() -> None:
    world = World(CPU=1)
    task = world.driver().submit(retries=-1)[:TASK_SIZE]
    for _ in range(4):
        world.deliver()
        (worker,) = (worker for worker in world.workers if worker.queue)
        world.die(worker)
        world.host.exit_seen(with_zygote=True)
        assert not world.machine.scheduler.pauses._until
    assert not world.machine.work.tasks[task].template.crashes
    world.settle()
    assert world.starts[task] == 1


def test_others_run_while_a_task_pauses() -> None:
    world = World(CPU=1)
    driver = world.driver()
    crashing = driver.submit(ending="crash", retries=3)
    starts(world, crashing[:TASK_SIZE], 0.05)
    other = driver.submit()
    assert starts(world, other[:TASK_SIZE], 0.05) == 1
    assert crashing not in driver.values
    world.settle()
    assert driver.error(crashing) == "WorkerCrashedError"
    assert world.starts[crashing[:TASK_SIZE]] == 4


def test_a_task_that_got_no_thread_pauses_like_one_whose_process_crashed() -> None:
    world = World(CPU=1)
    driver = world.driver()
    task = driver.submit(retries=-1)[:TASK_SIZE]
    for _ in range(2):
        world.deliver()
        (worker,) = (worker for worker in world.workers if worker.queue)
        worker.queue.clear()
        worker.send((FAILED, task, 0, FAULT, ["WorkerCrashedError", {"message": "no thread"}], True, None))
    world.deliver()
    assert list(world.machine.scheduler.pauses._until) == [world.machine.work.tasks[task]]
    world.settle()
    assert world.starts[task] == 1


def test_a_driver_that_ends_takes_its_pausing_tasks_along() -> None:
    world = World(CPU=1)
    driver = world.driver()
    task = driver.submit(ending="crash", retries=-1)[:TASK_SIZE]
    starts(world, task, 1.0)
    world.die(driver)
    world.settle()
    assert not world.machine.scheduler.pauses._until
