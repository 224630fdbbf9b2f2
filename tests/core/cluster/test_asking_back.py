"""Constructors and tasks that wait at other nodes while there is room elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.states import ALIVE, DEAD, PENDING
from asyncray.messages import KILL
from tests.core.cluster.pair import A, B, C
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.sim.script import Script

TAKES_ONE = Recipe(cpus=1, lives_on=1)


def name_of(node: bytes) -> str:
    return node.decode()[-1]


def process_of(world: Script, node: bytes) -> Worker:
    """The process of the only actor at a node."""
    return next(worker for worker in world.members[node].host.workers if worker.is_actor)


def ends(world: Script, node: bytes) -> None:
    """The process of the only actor at a node dies, and all nodes learn that there is room."""
    world.die(process_of(world, node))
    world.work(node)
    world.share_rows()


class Race:
    """An actor of A waits at B or C, because one of that node was faster. No node has room.

    Args:
        own: A has a CPU, which another actor of A has. Otherwise A has none.
        actors: how many wait, each at another node.
    """

    def __init__(self, *, own: bool = False, actors: int = 1, **changes: Any) -> None:
        self.world = world = Script({"CPU": 1.0} if own else {"Z": 1.0}, {"CPU": 1.0}, {"CPU": 1.0})
        self.driver: Driver = world.driver()
        if own:
            self.driver.state.make(TAKES_ONE)
            world.work(A)
        for _ in range(actors):
            self.driver.state.make(Recipe(cpus=1, lives_on=1, **changes))
        world.work(A)
        self.there = B if world.under_way(A, B) else C
        self.other = C if self.there == B else B
        for node in (B, C):
            world.members[node].host.driver().state.make(TAKES_ONE)
            world.work(node)
        for node in (self.there, self.other)[:actors]:
            world.arrive(A, node)
            world.work(node)
            assert world.under_way(node, A) == [f"{name_of(node)} > A: CONSTRUCTOR_WAITS"]
        world.share_rows()
        for node in (self.there, self.other)[:actors]:
            world.arrive(node, A)
        world.work(A)
        self.actor = [*world.machine.actors.table.values()][-1]
        assert self.actor.state == PENDING
        world.story()

    @property
    def asks(self) -> str:
        return f"A > {name_of(self.there)}: TAKE_BACK 1 of the constructor"

    @property
    def comes(self) -> str:
        return f"{name_of(self.there)} > A: BACK the constructor"

    def goes_to(self, node: bytes) -> str:
        return f"A > {name_of(node)}: CONSTRUCT_AT"

    def other_node_frees_up(self) -> None:
        """The other node has room, and A asks the constructor back."""
        ends(self.world, self.other)
        self.world.work(A)
        assert self.world.under_way(A, self.there) == [self.asks]

    def kill(self, *, no_restart: bool = True) -> None:
        self.driver.send((KILL, self.actor.id, no_restart))
        self.world.work(A)

    def end(self) -> None:
        self.world.settle()
        assert not self.world.unresolved()
        self.world.end()


def test_a_constructor_that_waits_at_a_full_node_goes_to_one_that_has_room() -> None:
    race = Race()
    race.driver.state.call(Recipe(target=0))
    race.other_node_frees_up()
    race.world.settle()
    assert race.world.story()[:3] == [race.asks, race.comes, race.goes_to(race.other)]
    assert race.actor.state == ALIVE
    race.end()


def test_a_constructor_that_waits_at_a_full_node_comes_home_when_there_is_room() -> None:
    race = Race(own=True)
    ends(race.world, A)
    race.world.settle()
    assert race.world.story()[:2] == [race.asks, race.comes]
    assert (race.actor.state, race.actor.peer) == (ALIVE, None)
    race.end()


def test_nobody_asks_for_a_constructor_while_no_node_has_room() -> None:
    race = Race(own=True)
    for _ in range(3):
        race.world.wait(1.0)
        race.world.settle()
    assert not race.world.story()
    race.end()


def test_a_constructor_that_is_asked_back_has_begun_meanwhile() -> None:
    race = Race()
    race.other_node_frees_up()
    ends(race.world, race.there)
    race.world.arrive(A, race.there)
    race.world.settle()
    assert race.comes not in race.world.story()
    assert race.actor.peer.id == race.there  # type: ignore[union-attr]
    race.end()


def test_one_free_cpu_calls_one_constructor() -> None:
    race = Race(own=True, actors=2)
    ends(race.world, A)
    race.world.work(A)
    asked = [line for node in (B, C) for line in race.world.under_way(A, node) if "TAKE_BACK" in line]
    assert len(asked) == 1
    race.world.settle()
    states = [actor.state for actor in race.world.machine.actors.table.values()]
    assert sorted(states) == [ALIVE, DEAD, PENDING]
    race.end()


def test_an_actor_is_killed_while_its_constructor_comes_back() -> None:
    race = Race()
    race.other_node_frees_up()
    race.kill()
    race.world.settle()
    assert race.actor.state == DEAD
    assert race.world.story() == [race.asks, f"A > {name_of(race.there)}: END_SEAT", race.comes]
    race.end()


def test_a_kill_that_allows_a_restart_does_not_reach_a_constructor_that_comes_back() -> None:
    race = Race(restarts=1)
    race.other_node_frees_up()
    race.kill(no_restart=False)
    race.world.settle()
    assert (race.actor.state, race.actor.restarted) == (ALIVE, 0)
    race.end()


def test_the_last_handle_is_dropped_while_the_constructor_comes_back() -> None:
    race = Race()
    race.other_node_frees_up()
    race.driver.state.release(0)
    race.world.settle()
    assert race.actor.state == DEAD
    assert race.goes_to(race.other) not in race.world.story()
    race.end()


def test_the_node_where_the_constructor_waits_is_lost() -> None:
    race = Race(restarts=1)
    race.other_node_frees_up()
    race.world.lose(race.there)
    race.world.settle()
    assert race.actor.state == ALIVE
    assert not race.world.members[A].part.away.waiting
    race.world.end_graces()
    race.end()


def test_the_node_that_has_room_is_lost_while_the_constructor_comes_back() -> None:
    race = Race()
    race.other_node_frees_up()
    race.world.lose(race.other)
    ends(race.world, race.there)
    race.world.settle()
    assert race.actor.state == ALIVE
    race.world.end_graces()
    race.end()


def test_the_home_is_lost_while_the_constructor_comes_back() -> None:
    race = Race()
    race.other_node_frees_up()
    race.world.arrive(A, race.there)
    race.world.lose(A)
    race.world.host = race.world.members[B].host
    race.world.settle()
    tables = [member.host.machine.actors.table for member in race.world.members.values()]
    assert race.actor.id not in tables[0].keys() | tables[1].keys()
    race.world.end_graces()
    race.end()


def test_an_actor_that_starts_again_is_asked_back_as_well() -> None:
    race = Race(restarts=1)
    race.other_node_frees_up()
    race.world.settle()
    assert race.actor.state == ALIVE
    at_there = [a for a in race.world.members[race.there].host.machine.actors.table.values() if not a.is_guest]
    race.world.die(process_of(race.world, race.other))
    race.world.work(race.other)
    race.world.members[race.other].host.drivers[0].state.make(TAKES_ONE)
    race.world.work(race.other)
    race.world.settle()
    race.world.share_rows()
    race.world.settle()
    assert (race.actor.state, race.actor.restarted) == ("restarting", 1)
    assert at_there[0].state == ALIVE
    ends(race.world, race.there)
    race.world.settle()
    assert race.actor.state == ALIVE
    race.end()


def test_calls_from_the_node_where_the_constructor_waits_follow_it() -> None:
    race = Race()
    caller = race.world.members[race.there].host.driver()
    handle = race.driver.state.handles[0]
    caller.hold(handle)
    caller.has_foreign_refs = True
    caller.state.handles.append(handle)
    refs = [caller.call(handle, name=str(number)) for number in range(3)]
    race.world.work(race.there)
    assert race.actor.state == PENDING
    race.other_node_frees_up()
    race.world.settle()
    assert race.actor.state == ALIVE
    assert not any(isinstance(caller.values[ref], list) for ref in refs)
    race.end()


# Tasks ----------------------------------------------------------------------------------------------------------------


def stuck(*nodes: bytes) -> Script:
    """A has no CPU, B and C have one each. Tasks of these nodes take it, and never begin."""
    world = Script({"Z": 1.0}, {"CPU": 1.0}, {"CPU": 1.0})
    for node in nodes:
        world.members[node].host.driver().state.spawn(Recipe(name="own"))
        world.work(node, programs=False)
    world.share_rows()
    return world


def time_passes(world: Script, *still: bytes) -> None:
    """All nodes work, except that no task begins or ends on some."""
    for _ in range(20):
        for node in (A, B, C):
            world.work(node, programs=node not in still)
        for wire in world.wires:
            world.arrive(*wire)
        world.wait(0.05)


@pytest.mark.parametrize("where", [(), ("spread",), ("affinity", b"gone", True), ("selectors", [[]])])
def test_no_task_waits_for_a_full_node_while_another_has_room(where: tuple[Any, ...]) -> None:
    world = stuck(B, C)
    driver = world.driver()
    refs = [driver.submit(Recipe(where=where)) for _ in range(7)]
    time_passes(world, B, C)
    assert not any(ref in driver.values for ref in refs)
    time_passes(world, B)
    assert all(ref in driver.values for ref in refs)
    asked = [line for line in world.story() if "TAKE_BACK" in line]
    assert len(asked) <= 2 or not where, "those that had been sent to no node yet go on at once"
    world.settle()
    world.end()


def test_a_task_that_must_stay_does_not_keep_another_from_coming_back() -> None:
    """Both stand in one queue at B, and the one that must stay came last."""
    world = stuck(B, C)
    driver = world.driver()
    may_go = [driver.submit(Recipe(name=name)) for name in "12"]
    must_stay = [driver.submit(Recipe(where=("affinity", node, False))) for node in (B, C)]
    time_passes(world, B, C)
    time_passes(world, B)
    assert all(ref in driver.values for ref in may_go)
    assert [ref in driver.values for ref in must_stay] == [False, True]
    world.settle()
    world.end()


def test_a_task_that_has_begun_does_not_keep_another_from_coming_back() -> None:
    """Both stand in one queue at B. The one that has begun never comes, however often A asks."""
    world = stuck(C)
    driver = world.driver()
    begun = driver.submit(Recipe(where=("spread",)))
    time_passes(world, B, C)
    may_go = [driver.submit(Recipe(name=name)) for name in "12"]
    time_passes(world, B, C)
    time_passes(world, B)
    assert all(ref in driver.values for ref in may_go)
    assert begun not in driver.values
    world.settle()
    world.end()
