"""Calls to actors of other nodes, from nodes that are not their homes."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import CALL_AT, FORGET_ACTOR, KILL_ACTOR, LOCATE
from asyncray.core.states import DEAD
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe

CALLS = tuple(("call", Recipe(target=0)) for _ in range(3))


def far(**changes: Any) -> Recipe:
    return Recipe(extra=("R", 1), **changes)


def caller(**changes: Any) -> Recipe:
    """A function that calls the actor whose handle it gets, and waits for the results."""
    return Recipe(steps=(*CALLS, ("get", 0), ("get", 1), ("get", 2)), nested=(1,), **changes)


def trio() -> Pair:
    return Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 2.0}, {"CPU": 2.0, "S": 2.0})


def test_a_third_node_asks_the_home_and_calls_the_actor_where_it_is() -> None:
    world = trio()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    driver.state.spawn(caller(extra=("S", 1)))
    world.settle()
    assert not world.unresolved()
    assert world.kinds(C, A).count(LOCATE) == 1
    assert world.kinds(C, B).count(CALL_AT) == 3
    assert not world.members[C].part.routes.table
    assert FORGET_ACTOR in world.kinds(C, A)
    world.end()


def test_a_caller_beside_the_process_of_the_actor_calls_it_directly() -> None:
    world = trio()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    driver.state.spawn(caller(extra=("R", 1)))
    world.settle()
    assert not world.unresolved()
    assert CALL_AT not in world.kinds(B, A)
    world.end()


def test_calls_from_elsewhere_to_an_actor_at_home() -> None:
    world = trio()
    driver = world.driver()
    driver.state.make(Recipe(lives_on=1))
    world.settle()
    driver.state.spawn(caller(extra=("S", 1)))
    world.settle()
    assert not world.unresolved()
    assert world.kinds(C, A).count(CALL_AT) == 3
    world.end()


def test_r32_calls_wait_while_the_actor_moves_and_keep_their_order() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0}, {"CPU": 4.0, "S": 2.0, "R": 1.0})
    driver = world.driver()
    driver.state.make(far(restarts=2))
    world.settle()
    (actor,) = world.machine.actors.table.values()
    assert actor.peer is not None
    driver.state.spawn(caller(extra=("S", 1)))
    for _ in range(3):
        world.talk()
        world.chores()
        world.run()
    lost = actor.peer.id  # type: ignore[attr-defined]
    if lost == B:
        world.lose(B)
    world.settle()
    assert not world.unresolved()
    world.end_graces()
    world.end()


def test_an_actor_that_is_dead_or_unknown_says_so_to_callers_elsewhere() -> None:
    world = trio()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    driver.state.kill(0)
    driver.state.kill(1)
    world.settle()
    (actor,) = world.machine.actors.table.values()
    if actor.state != DEAD:
        driver.state.handles.append(driver.state.handles[0])
        driver.hold(driver.state.handles[0])
        driver.state.kill(1)
    driver.state.spawn(caller(extra=("S", 1)))
    world.settle()
    assert not world.unresolved()
    world.end()


def test_kill_from_another_node_goes_to_the_home() -> None:
    world = trio()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    driver.state.spawn(Recipe(steps=(("kill", 1),), nested=(1,), extra=("S", 1)))
    world.settle()
    assert KILL_ACTOR in world.kinds(C, A)
    (actor,) = world.machine.actors.table.values()
    assert actor.state == DEAD
    world.end()


def test_calls_to_an_actor_of_a_lost_home_fail() -> None:
    world = trio()
    driver = world.members[C].host.driver()
    driver.state.make(far())
    world.settle()
    other = world.members[B].host.machine.actors.table
    assert len(other) == 1
    driver.state.spawn(caller(cpus=1))
    world.settle()
    assert not world.unresolved()
    world.end()
