"""Tasks at other nodes: how they go, come back, and survive the loss of a node."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import (
    BACK,
    CANCEL_AT_HOME,
    CANCEL_TASK,
    CLAIMED,
    DONE_WITH,
    RESULT,
    SLOTS,
    TAKE_BACK,
    TASK,
)
from asyncray.ids import TASK_SIZE
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe


def far(**changes: object) -> Recipe:
    """A function that only node B can run."""
    return Recipe(extra=("R", 1), **changes)  # type: ignore[arg-type]  # as tests give them


def pair() -> Pair:
    return Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 2.0})


def test_a_task_that_only_another_node_can_run_runs_there() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far())
    world.settle()
    assert not world.unresolved()
    assert TASK in world.kinds(A, B)
    assert world.kinds(B, A).count(RESULT) == 1
    assert CLAIMED not in world.kinds(A, B), "a result without refs needs no answer"
    world.end()


def test_arguments_and_results_with_refs_cross() -> None:
    world = pair()
    driver = world.driver()
    driver.state.put(1)
    driver.state.spawn(far(ending="refs", nested=(0,), steps=(("put", 2),)))
    world.settle()
    driver.state.get(1)
    world.settle()
    assert not world.unresolved()
    assert CLAIMED in world.kinds(A, B)
    world.end()


def test_a_task_that_raises_is_retried_by_its_home() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="retry", retries=2))
    world.settle()
    assert world.kinds(B, A).count(RESULT) == 3
    world.end()


def test_a_task_whose_process_dies_is_retried_by_its_home() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="crash", retries=1))
    world.settle()
    assert world.kinds(B, A).count(RESULT) == 2
    assert not world.unresolved()
    world.end()


def test_a_task_whose_zygote_dies_at_another_node_is_retried_at_once() -> None:
    world = pair()
    world.driver().state.spawn(far(retries=-1))
    there = world.members[B].host
    for deaths in range(4):
        world.deliver()
        assert world.kinds(B, A).count(RESULT) == deaths
        (worker,) = (worker for worker in there.workers if worker.queue)
        there.die(worker)
        there.exit_seen(with_zygote=True)
    world.settle()
    assert not world.unresolved()
    world.end()


def test_r8_a_cancelled_task_keeps_its_arguments_until_the_last_word_about_it() -> None:
    world = pair()
    driver = world.driver()
    driver.state.put(1)
    driver.state.spawn(far(nested=(0,), steps=(("put", 2),), ending="refs"))
    while TASK not in world.kinds(A, B):
        world.host.talk()
        for wire, messages in world.wires.items():
            if messages:
                world.deliver_one(*wire)
    driver.state.cancel(1)
    world.settle()
    assert CANCEL_TASK in world.kinds(A, B)
    assert not world.unresolved()
    world.end()


def test_tasks_of_a_lost_node_run_elsewhere_or_fail() -> None:
    world = pair()
    driver = world.driver()
    for retries in (0, 1):
        driver.state.spawn(far(retries=retries))
    while world.kinds(A, B).count(TASK) < 2:
        world.host.talk()
        for wire, messages in world.wires.items():
            if messages:
                world.deliver_one(*wire)
    world.lose(B)
    world.settle()
    assert len(world.unresolved()) == 1, "the one with a retry waits for another node"
    values = [value for value in driver.values.values() if isinstance(value, list)]
    assert [value[0] for value in values] == ["NodeDiedError"]
    assert B.hex() in values[0][1]["message"]
    world.end_graces()
    world.end()


# Starts without a report ----------------------------------------------------------------------------------------------


def begin(world: Pair) -> None:
    """Everything happens but the end of tasks."""
    while world.talk() | world.chores():
        pass


def sent(world: Pair, ref: bytes) -> list[Any]:
    """The TASK messages of a task."""
    return [message for _, _, message in world.written if message[0] == TASK and message[2] == ref[:TASK_SIZE]]


def test_a_task_behind_another_whose_process_dies_is_given_back_and_sent_alone() -> None:
    """It may have started there without a report. Behind another, it could do so again and again."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    driver.submit(far(retries=1))
    world.settle()
    first, second, third = (driver.submit(far(retries=1)) for _ in range(3))
    begin(world)
    there = world.members[B]
    (worker,) = (worker for worker in there.host.workers if worker.queue)
    attempts = [message[1] for ref in (first, second, third) for message in sent(world, ref)]
    assert len(attempts) == 3, "two are sent ahead"
    while world.starts[third[:TASK_SIZE]] == 0:
        worker.step()
    there.host.die(worker)
    worker.wire.clear()
    there.host.chores()
    there.part.receive(there.part.peer(A, world.now), [(TAKE_BACK, attempts, 3)], world.now)
    there.host.after()
    begin(world)
    assert BACK in world.kinds(B, A)
    assert [message[-1] for message in sent(world, third)] == [True, False]
    world.settle()
    world.end()


def test_a_task_that_failed_elsewhere_is_tried_again_alone() -> None:
    """That node may have started it once more, and does not know."""
    world = pair()
    driver = world.driver()
    driver.submit(far(retries=2))
    world.settle()
    ref = driver.submit(far(ending="retry", retries=2))
    world.settle()
    assert [message[-1] for message in sent(world, ref)] == [True, False, False]
    world.end()


def test_a_task_costs_a_retry_at_the_second_loss_of_its_node_at_the_latest() -> None:
    """Two nodes run two tasks, say that they run only one of them side by side, and are lost."""
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 2.0}, {"CPU": 2.0, "R": 2.0})
    driver = world.driver()
    refs = [driver.submit(far(retries=1)) for _ in range(4)]
    begin(world)
    refs = [ref for ref in refs if sent(world, ref)[0] in [message for _, to, message in world.written if to == B]]
    run_two_and_die(world, B)
    for _ in ("they start", "they end"):
        world.members[C].host.run()
    begin(world)
    run_two_and_die(world, C)
    begin(world)
    one, other = (ref[:TASK_SIZE] for ref in refs)
    assert world.starts[one] == world.starts[other] == 2
    assert driver.error(refs[0]) == "NodeDiedError"
    assert world.machine.work.tasks[other].retries == 0, "it may start once more, as it started once without a report"
    world.end_graces()
    world.end()


def run_two_and_die(world: Pair, node: bytes) -> None:
    assert [worker.step() for worker in world.members[node].host.workers if worker.queue] == [True, True]
    home = world.members[A].part
    number = next(message[3] for _, to, message in world.written if message[0] == TASK and to == node)
    home.receive(home.peer(node, world.now), [(SLOTS, number, 1)], world.now)
    world.lose(node)


# Ends and cancels -----------------------------------------------------------------------------------------------------


def test_a_task_of_a_job_that_has_ended_comes_back() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far())
    world.host.talk()
    world.die(driver)
    world.settle()
    assert BACK not in world.kinds(B, A)
    assert DONE_WITH not in world.kinds(B, A)
    world.end()


def test_a_process_elsewhere_cancels_a_task_by_its_ref() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 2.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("moon", 1)))  # it waits at home
    driver.state.spawn(far(nested=(0,), steps=(("cancel", 0),)))
    world.settle()
    assert CANCEL_AT_HOME in world.kinds(B, A)
    assert not world.unresolved()
    assert [value[0] for value in driver.values.values() if isinstance(value, list)] == ["TaskCancelledError"]
    world.end()
