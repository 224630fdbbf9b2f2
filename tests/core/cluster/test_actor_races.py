"""Golden scenarios: the races of actors between nodes, one by one. R and H numbers are those of the design.

A is the home of the actor, which only B and C can have. C calls it, too.
"""

from __future__ import annotations

from typing import Any

from asyncray.core.lives import Actor
from asyncray.core.states import ALIVE, DEAD
from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL, KILL
from tests.core.cluster.pair import A, B, C
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.sim.script import Script

R: Any = ("R", 1.0)


def three() -> Script:
    """A has no R, B has one, and C gets its calls through a driver of its own."""
    return Script({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0}, {"CPU": 2.0, "R": 1.0})


def made(world: Script, **changes: Any) -> tuple[Driver, Actor]:
    """An actor of A that is ALIVE at another node."""
    driver = world.driver()
    driver.state.make(Recipe(extra=R, **changes))
    world.settle()
    world.share_rows()
    (actor,) = world.machine.actors.table.values()
    assert actor.state == ALIVE
    world.story()
    return driver, actor


def place(world: Script, actor: Actor) -> tuple[bytes, bytes]:
    """The node with the process of the actor, and the other one that could have it."""
    there = actor.peer.id  # type: ignore[union-attr]
    return there, C if there == B else B


def call(driver: Driver, name: str, **changes: Any) -> bytes:
    return driver.call(driver.state.handles[0], name=name, **changes)


def kill_process(world: Script, node: bytes) -> None:
    """The process of the actor dies, and its daemon learns of that."""
    host = world.members[node].host
    world.die(next(worker for worker in host.workers if worker.is_actor))
    world.work(node)


def caller_at(world: Script, node: bytes, driver: Driver) -> Driver:
    """A driver at another node that has got a handle of the actor."""
    other = world.members[node].host.driver()
    handle = driver.state.handles[0]
    other.hold(handle)
    other.has_foreign_refs = True
    other.state.handles.append(handle)
    world.settle()
    world.story()
    return other


def test_r32_calls_go_to_the_next_process_in_their_order() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, new = place(world, actor)
    refs = [call(driver, str(number), retries=1) for number in range(3)]
    world.work(A)
    world.arrive(A, old, 2)
    world.work(old, programs=False)
    kill_process(world, old)
    world.arrive(old, A)
    refs.append(call(driver, "3", retries=1))
    world.settle()
    was, now = old.decode()[-1], new.decode()[-1]
    story = [line for line in world.story() if "CALL_AT" in line]
    sent = [f"A > {was}: CALL_AT {number}" for number in range(3)]
    again = {f"A > {node}: CALL_AT {number}" for node in (was, now) for number in range(4)}
    assert story[:3] == sent
    assert [line[-1] for line in story[3:]] == ["0", "1", "2", "3"]
    assert again.issuperset(story[3:])
    assert not world.unresolved()
    assert all(not isinstance(driver.values[ref], list) for ref in refs)
    world.end()


def test_r32_a_call_crosses_the_end_of_the_process_and_is_not_run_twice() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, _ = place(world, actor)
    was = old.decode()[-1]
    kill_process(world, old)
    ref = call(driver, "late")
    world.work(A)
    assert world.under_way(A, old) == [f"A > {was}: CALL_AT late"]
    world.arrive(old, A)  # the end of the process
    assert actor.state == ALIVE, "the home waits for the call before it starts the actor again"
    world.arrive(A, old)
    world.arrive(old, A)
    assert world.story() == [
        f"{was} > A: RESULT the constructor",
        f"A > {was}: CALL_AT late",
        f"{was} > A: BACK late",
    ]
    assert actor.restarted == 1
    world.settle()
    assert driver.error(ref) == "ActorUnavailableError"
    world.end()


def test_r33_a_call_to_a_process_that_has_ended_waits_for_word_of_the_home() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, new = place(world, actor)
    was, now = old.decode()[-1], new.decode()[-1]
    other = caller_at(world, new, driver)
    call(other, "first")
    world.settle()
    world.story()
    kill_process(world, old)
    ref = call(other, "second", retries=1)
    world.work(new)
    world.arrive(new, old)
    world.arrive(old, new)
    assert world.story() == [f"{now} > {was}: CALL_AT second", f"{was} > {now}: BACK second"]
    assert ref not in other.values
    world.arrive(old, A)
    world.arrive(A, new)
    world.settle()
    assert world.story()[:3] == [
        f"{was} > A: RESULT the constructor",
        f"A > {now}: SEAT_OF restarting",
        f"A > {now}: CONSTRUCT_AT",
    ]
    assert not isinstance(other.values[ref], list)
    world.end()


def test_r34_the_result_of_the_old_process_comes_after_word_of_the_new_one() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, new = place(world, actor)
    was, now = old.decode()[-1], new.decode()[-1]
    other = caller_at(world, new, driver)
    first = call(other, "first")
    world.settle()
    second, third = call(other, "second", retries=1), call(other, "third", retries=1)
    world.work(new)
    world.arrive(new, old)
    world.work(old)
    world.arrive(new, old)
    kill_process(world, old)
    fourth = call(other, "fourth", retries=1)
    world.arrive(old, A)
    world.work(A)
    world.arrive(A, new)
    world.work(new)
    world.arrive(new, A)
    world.arrive(A, new)
    world.work(new)
    assert f"A > {now}: SEAT_OF alive at {now} 1" in world.story()
    assert [line for line in world.under_way(old, new) if "RESULT" in line] == [
        f"{was} > {now}: RESULT second",
        f"{was} > {now}: RESULT third",
    ]
    assert fourth not in other.values, "the earlier calls may still come back"
    world.arrive(old, new)
    world.settle()
    assert not any(isinstance(other.values[ref], list) for ref in (first, second, third, fourth))
    world.end()


def test_h17_a_call_that_has_not_started_may_go_to_the_next_process_without_a_retry() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, new = place(world, actor)
    other = caller_at(world, new, driver)
    call(other, "first")
    world.settle()
    kill_process(world, old)
    ref = call(other, "second")
    world.work(new)
    world.arrive(old, A)
    world.work(A)
    world.arrive(A, new)  # the actor starts again, and the call is still under way
    world.arrive(new, old)
    world.arrive(old, new)
    world.settle()
    assert not isinstance(other.values[ref], list)
    world.end()


def test_r35_the_caller_hears_of_the_end_before_the_home_has_decided() -> None:
    world = three()
    driver, actor = made(world)
    old, new = place(world, actor)
    other = caller_at(world, new, driver)
    first = call(other, "first")
    world.work(new)
    world.talk()
    world.settle()
    second = call(other, "second")
    world.work(new)
    for _ in range(3):
        world.arrive(new, A)
        world.arrive(A, new)
    world.arrive(new, old)
    world.work(old, programs=False)
    kill_process(world, old)
    world.arrive(old, new)
    assert second not in other.values, "only the home knows whether the actor starts again"
    world.settle()
    assert other.error(second) == "ActorDiedError"
    assert first in other.values
    world.end()


def test_r36_a_kill_comes_while_the_actor_starts_again() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, _ = place(world, actor)
    kill_process(world, old)
    world.arrive(old, A)
    world.work(A)
    assert actor.restarted == 1
    driver.send((KILL, actor.id, True))
    world.work(A)
    assert actor.state == DEAD
    world.settle()
    for member in world.members.values():
        assert not [one for one in member.host.machine.actors.table.values() if one.state != DEAD]
    world.end()


def test_r37_an_actor_of_the_home_starts_again_elsewhere_and_calls_follow_it() -> None:
    world = Script({"CPU": 2.0, "R": 1.0}, {"CPU": 2.0, "R": 1.0}, {"CPU": 2.0})
    driver, actor = made(world, restarts=1)
    assert actor.peer is None
    other = caller_at(world, C, driver)
    mine = [call(driver, f"own {number}", retries=1) for number in range(2)]
    theirs = [call(other, f"other {number}", retries=1) for number in range(2)]
    world.work(A, C, programs=False)
    world.arrive(C, A)
    world.arrive(A, C)
    world.work(A, C, programs=False)
    world.arrive(C, A)
    world.work(A, programs=False)
    world.members[A].host.driver().state.spawn(Recipe(name="busy", extra=R, steps=(("put", 0),)))
    world.work(A, programs=False)
    host = world.members[A].host
    world.die(next(worker for worker in host.workers if worker.is_actor))
    world.settle()
    story = world.story()
    for name in ("other 0", "other 1"):
        assert f"A > C: RESULT {name}" in story, "the calls of other nodes go back"
    assert actor.restarted == 1
    assert not world.unresolved()
    for process, refs in ((driver, mine), (other, theirs)):
        assert all(not isinstance(process.values[ref], list) for ref in refs)
    world.end()


def test_r39_calls_by_two_handles_of_one_actor_start_in_order() -> None:
    world = three()
    driver, actor = made(world)
    old, _ = place(world, actor)
    handle = driver.state.handles[0]
    driver.hold(handle)
    driver.state.handles.append(handle)
    for number in range(4):
        driver.state.call(Recipe(name=str(number), target=number % 2))
    world.settle()
    sent = [line[-1] for line in world.story() if "CALL_AT" in line]
    assert sent == ["0", "1", "2", "3"]
    assert old in (B, C)
    world.end()


def test_h17_no_call_comes_before_its_constructor() -> None:
    world = three()
    driver = world.driver()
    driver.state.make(Recipe(extra=R))
    call(driver, "early")
    world.work(A)
    there = B if world.under_way(A, B) else C
    name = there.decode()[-1]
    assert world.under_way(A, there) == [f"A > {name}: CONSTRUCT_AT"]
    world.settle()
    story = [line for line in world.story() if "SEATED" in line or "CALL_AT" in line]
    assert story == [f"{name} > A: SEATED", f"A > {name}: CALL_AT early"]
    world.end()


def test_an_actor_is_killed_while_its_calls_come_back() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, _ = place(world, actor)
    ref = call(driver, "begun", retries=1)
    world.work(A)
    world.arrive(A, old)
    world.work(old, programs=False)
    kill_process(world, old)
    world.arrive(old, A, 1)
    driver.send((KILL, actor.id, True))
    world.settle()
    assert driver.error(ref) == "ActorDiedError"
    world.end()


def test_a_call_that_is_cancelled_while_the_actor_moves_to_its_node_does_not_run() -> None:
    world = three()
    driver, actor = made(world, restarts=1)
    old, new = place(world, actor)
    other = caller_at(world, new, driver)
    call(other, "first")
    world.settle()
    kill_process(world, old)
    world.arrive(old, A)
    world.work(A)
    world.arrive(A, new)
    kept, cancelled = call(other, "kept", retries=1), call(other, "cancelled", retries=1)
    other.send((CANCEL, cancelled[:TASK_SIZE], False, False))
    world.work(new)
    world.settle()
    assert actor.peer is not None
    assert actor.peer.id == new, "the actor is beside its caller now"  # type: ignore[attr-defined]
    assert not isinstance(other.values[kept], list)
    assert other.error(cancelled) == "TaskCancelledError"
    (worker,) = [worker for worker in world.members[new].host.workers if worker.is_actor]
    assert world.starts[cancelled[:TASK_SIZE]] == 0, worker
    world.end()


def waits_for_ever(driver: Driver) -> int:
    """Submits a task that no node can run. Returns the variable with its result."""
    driver.state.spawn(Recipe(extra=("moon", 1)))
    return len(driver.state.refs) - 1


def test_a_call_waits_behind_no_other_once_the_home_says_that_the_actor_keeps_no_order() -> None:
    """The caller's node learns that only after the calls have come."""
    world = three()
    driver, actor = made(world, ordered=False)
    _, here = place(world, actor)
    other = caller_at(world, here, driver)
    never = waits_for_ever(other)
    first = call(other, "first", arguments=(never,))
    second = call(other, "second")
    world.settle()
    assert first not in other.values
    assert second in other.values
    other.send((CANCEL, other.state.refs[never][:TASK_SIZE], False, False))
    world.settle()
    world.end()


def test_a_call_that_waits_for_its_argument_follows_an_actor_without_order_to_its_node() -> None:
    world = three()
    driver, actor = made(world, restarts=1, ordered=False)
    old, new = place(world, actor)
    other = caller_at(world, new, driver)
    call(other, "known")
    world.settle()
    promise = other.submit(Recipe(name="slow"))
    ref = call(other, "waits", arguments=(other.state.refs.index(promise),), retries=1)
    world.work(new, programs=False)
    kill_process(world, old)
    world.arrive(old, A)
    world.work(A)
    world.arrive(A, new)
    host = world.members[new].host
    for _ in range(40):
        host.chores()
        host.talk()
        for worker in host.workers:
            if worker.main is None or worker.main.order.recipe.name != "slow":
                worker.step()
        world.arrive(new, A)
        world.arrive(A, new)
    assert actor.state == ALIVE
    assert actor.peer.id == new, "the actor is beside its caller now"  # type: ignore[union-attr]
    assert ref not in other.values
    world.settle()
    assert not isinstance(other.values[ref], list)
    assert world.starts[ref[:TASK_SIZE]] == 1
    world.end()


def test_calls_of_a_third_node_fail_when_the_home_of_their_actor_is_lost() -> None:
    world = three()
    driver, actor = made(world)
    _, other_node = place(world, actor)
    other = caller_at(world, other_node, driver)
    ref = call(other, "late")
    world.work(other_node)
    routes = world.members[other_node].part.routes
    assert actor.id in routes.table
    world.lose(A)
    world.settle()
    assert other.error(ref) == "ActorDiedError"
    assert routes.table[actor.id].state == DEAD
