"""Actors that have their processes at other nodes, as their homes see them."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import CALL_AT, CONSTRUCT_AT, END_SEAT, RESULT, SEATED
from asyncray.core.states import ALIVE, DEAD
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe


def far(**changes: Any) -> Recipe:
    """An actor that only node B can have, and C."""
    return Recipe(extra=("R", 1), **changes)


def pair(*more: dict[str, float]) -> Pair:
    return Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 2.0}, *more)


def call(driver: Driver, count: int = 1, **changes: Any) -> None:
    for _ in range(count):
        driver.state.call(Recipe(target=0, **changes))


def host_of_actor(world: Pair) -> Worker:
    """The process of the only actor at node B."""
    return next(worker for worker in world.members[B].host.workers if worker.is_actor)


def faults(driver: Driver) -> list[str]:
    return [value[0] for value in driver.values.values() if isinstance(value, list)]


def test_an_actor_lives_where_its_resources_are_and_its_calls_go_there() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    call(driver, 5)
    world.settle()
    assert not world.unresolved()
    assert not faults(driver)
    assert world.kinds(A, B).count(CONSTRUCT_AT) == world.kinds(B, A).count(SEATED) == 1
    assert world.kinds(A, B).count(CALL_AT) == 5
    (actor,) = world.machine.actors.table.values()
    assert actor.state == ALIVE
    assert actor.worker is None
    world.end()


def test_actors_that_come_together_take_the_room_of_all_nodes() -> None:
    """The first ones hold nothing yet when the node decides about the next."""
    world = Pair({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    for _ in range(6):
        driver.state.make(Recipe(lives_on=1))
    world.settle()
    assert world.kinds(A, B).count(CONSTRUCT_AT) == world.kinds(A, C).count(CONSTRUCT_AT) == 2
    assert all(actor.state == ALIVE for actor in world.machine.actors.table.values())
    world.end()


def test_an_actor_that_waits_here_starts_at_another_node_that_has_room_first() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    for _ in range(3):
        driver.state.make(Recipe(lives_on=1))
    world.settle()
    assert world.kinds(B, A).count(SEATED) == 1
    world.members[B].host.die(host_of_actor(world))
    world.settle()
    world.wait(0.5)
    world.settle()
    assert world.kinds(B, A).count(SEATED) == 2
    world.end()


def test_its_row_names_the_node_and_the_pid_of_its_process() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    (row,) = world.machine.requests._list_actors(None)  # type: ignore[arg-type]
    worker = host_of_actor(world)
    assert (row["node_id"], row["process_node_id"], row["pid"]) == (A.hex(), B.hex(), worker.number)
    driver.state.kill(1)
    driver.state.handles.append(driver.state.handles[0])
    driver.hold(driver.state.handles[0])
    driver.state.kill(1)
    world.settle()
    (row,) = world.machine.requests._list_actors(None)  # type: ignore[arg-type]
    assert (row["state"], row["process_node_id"], row["pid"]) == ("DEAD", "", None)
    world.end()


def test_a_placement_that_the_program_names_comes_first() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    for node in (C, B, A, C):
        driver.state.make(Recipe(where=("affinity", node, False), lives_on=0.5))
    driver.state.make(Recipe(where=("affinity", b"nowhere!", False)))
    world.settle()
    assert (world.kinds(A, B).count(CONSTRUCT_AT), world.kinds(A, C).count(CONSTRUCT_AT)) == (1, 2)
    *placed, lost = world.machine.actors.table.values()
    assert [actor.state for actor in placed] == 4 * [ALIVE]
    assert lost.cause is not None
    assert lost.cause[0] == "ActorUnschedulableError"
    world.end()


def test_actors_without_resources_go_round_the_nodes() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    for _ in range(6):
        driver.state.make(Recipe())
    world.settle()
    assert world.kinds(A, B).count(CONSTRUCT_AT) == world.kinds(A, C).count(CONSTRUCT_AT) == 2
    world.end()


def test_an_actor_ends_with_its_last_handle() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    call(driver)
    world.settle()
    driver.state.release(0)
    world.settle()
    assert END_SEAT in world.kinds(A, B)
    assert not world.machine.actors.table
    assert not world.members[B].host.machine.actors.table
    world.end()


def test_r38_a_handle_that_is_dropped_after_a_call_does_not_end_it() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    call(driver, 3)
    driver.state.release(0)
    world.settle()
    assert not world.unresolved()
    assert not faults(driver)
    assert not world.machine.actors.table
    world.end()


def test_a_constructor_that_raises_ends_the_actor_with_its_error() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far(ending="raise"))
    call(driver, 2)
    world.settle()
    assert faults(driver) == ["ActorDiedError", "ActorDiedError"]
    assert all("cause" in value[1] for value in driver.values.values() if isinstance(value, list))
    world.end()


def test_an_actor_whose_process_dies_starts_again_and_its_calls_run_again() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far(restarts=1))
    world.settle()
    call(driver, 3, retries=1)
    call(driver, 1)
    world.talk()
    world.die(host_of_actor(world))
    world.settle()
    assert not world.unresolved()
    assert faults(driver) in ([], ["ActorUnavailableError"])
    (actor,) = world.machine.actors.table.values()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    call(driver, 2)
    world.settle()
    assert not world.unresolved()
    world.end()


def test_an_actor_without_restarts_is_dead_when_its_process_dies() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    world.settle()
    call(driver, 2)
    world.talk()
    world.die(host_of_actor(world))
    world.settle()
    assert set(faults(driver)) <= {"ActorDiedError"}
    call(driver)
    world.settle()
    assert "ActorDiedError" in faults(driver)
    (actor,) = world.machine.actors.table.values()
    assert actor.state == DEAD
    assert actor.cause is not None
    assert actor.cause[1]["message"].count("its worker process has died") == 1
    world.end()


def test_an_actor_of_a_lost_node_starts_again_elsewhere_or_dies_with_the_reason() -> None:
    world = pair({"CPU": 2.0, "R": 2.0})
    driver = world.driver()
    driver.state.make(far(restarts=1))
    driver.state.make(far())
    world.settle()
    lost = {actor.peer.id for actor in world.machine.actors.table.values() if actor.peer is not None}  # type: ignore[attr-defined]
    node = B if B in lost else C
    world.lose(node)
    world.settle()
    for handle in (0, 1):
        driver.state.call(Recipe(target=handle, retries=1))
    world.settle()
    assert not world.unresolved()
    for actor in world.machine.actors.table.values():
        if actor.state == DEAD:
            assert actor.cause is not None
            assert "its node has died" in actor.cause[1]["message"]
            assert node.hex() in actor.cause[1]["message"]
    world.end_graces()
    world.end()


def test_the_loss_of_its_node_makes_no_pause_of_an_actor_longer() -> None:
    world = pair({"CPU": 2.0, "R": 2.0})
    world.driver().state.make(far(restarts=-1))
    world.settle()
    (actor,) = world.machine.actors.table.values()
    world.lose(actor.peer.id)  # type: ignore[union-attr]
    assert actor.restarted == 1
    assert actor.restart_pause == 0.0
    world.settle()
    assert actor.state == ALIVE
    world.end_graces()
    world.end()


def test_the_death_of_the_zygote_there_makes_no_pause_of_an_actor_longer() -> None:
    world = pair()
    world.driver().state.make(far(restarts=-1))
    world.settle()
    (actor,) = world.machine.actors.table.values()
    there = world.members[B].host
    there.die(host_of_actor(world))
    there.exit_seen(with_zygote=True)
    world.settle()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    assert actor.restart_pause == 0.0
    world.end()


def test_kill_reaches_the_process_of_the_actor() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far(restarts=2))
    world.settle()
    driver.state.kill(0)  # it may start again
    world.settle()
    (actor,) = world.machine.actors.table.values()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    driver.state.handles.append(driver.state.handles[0])
    driver.hold(driver.state.handles[0])
    driver.state.kill(1)
    world.settle()
    assert actor.state == DEAD
    assert world.kinds(B, A).count(RESULT) == 2
    world.end()


def test_actors_of_a_lost_home_end() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(far())
    call(driver, 3)
    world.settle()
    world.lose(A)
    world.host = world.members[B].host
    world.settle()
    assert not world.machine.actors.table
    world.end_graces()
    world.nothing_is_left()


def test_calls_of_an_actor_that_no_node_can_have_again_fail() -> None:
    """The node that it must be on is lost while a call with retries runs."""
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    driver.state.make(Recipe(where=("affinity", B, False), restarts=1))
    world.settle()
    call(driver, retries=1)
    while not world.wires[A, B]:
        world.host.talk()
    world.lose(B)
    world.settle()
    assert not world.unresolved()
    assert faults(driver)
