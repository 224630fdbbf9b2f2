"""``ActorPool`` on real actors."""

from __future__ import annotations

import os
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.util import ActorPool
from tests.system import actors
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too

__all__ = ["node", "nothing_left", "own_node", "sessions"]

Gate: Any = actors.Gate
Log: Any = actors.Log


class _Mortal:
    def give(self, value: Any) -> Any:
        return value

    def die(self) -> None:
        os._exit(1)


Mortal: Any = ray.remote(_Mortal)


@pytest.fixture
def pool(node: object) -> ActorPool:
    """Two actors."""
    return ActorPool([Log.remote() for _ in range(2)])


def give(actor: Any, value: Any) -> Any:
    return actor.give.remote(value)


def test_maps_keep_or_lose_the_order(pool: ActorPool) -> None:
    gate = Gate.remote()
    slow = gate.wait.remote("slow")
    values = [slow, 1, 2, 3, 4]
    results = pool.map_unordered(give, values)
    assert sorted(next(results) for _ in range(4)) == [1, 2, 3, 4]
    gate.open.remote()
    assert list(results) == ["slow"]
    assert list(pool.map(give, values)) == ["slow", 1, 2, 3, 4]
    assert list(pool.map(give, [])) == []
    assert (pool.has_next(), pool.has_free()) == (False, True)


def test_maps_submit_at_once_and_forget_what_was_before(pool: ActorPool) -> None:
    gate = Gate.remote()
    waiting = gate.wait.remote("forgotten")
    for _ in range(3):
        pool.submit(give, waiting)
    results = pool.map(give, range(4))
    assert pool.has_next()
    gate.open.remote()
    assert list(results) == [0, 1, 2, 3]
    pool.submit(give, "forgotten")
    assert list(pool.map_unordered(give, [1])) == [1]


def test_one_by_one(pool: ActorPool) -> None:
    for value in range(5):
        pool.submit(give, value)
    assert [pool.get_next() for _ in range(2)] == [0, 1]
    assert {pool.get_next_unordered(), pool.get_next_unordered()} <= {2, 3, 4}
    assert pool.has_next()
    pool.get_next_unordered()
    for get in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(StopIteration):
            get()


def test_get_next_after_a_later_result_was_taken(pool: ActorPool) -> None:
    gate = Gate.remote()
    pool.submit(give, gate.wait.remote("first"))
    pool.submit(give, "second")
    assert pool.get_next_unordered() == "second"
    with pytest.raises(ValueError, match=r"not allowed to call get_next\(\) after get_next_unordered\(\)"):
        pool.get_next()
    gate.open.remote()
    assert pool.get_next_unordered() == "first"


def test_timeouts(pool: ActorPool) -> None:
    gate = Gate.remote()
    waiting = gate.wait.remote("late")
    for _ in range(2):
        pool.submit(give, waiting)
    for get in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(TimeoutError):
            get(timeout=0)
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    gate.open.remote()
    assert pool.get_next(timeout=10) == "late"
    assert not pool.has_next()
    pool.submit(give, Gate.remote().wait.remote())
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next_unordered(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()


def test_several_results_come_as_lists(pool: ActorPool) -> None:
    def pair(actor: Any, value: Any) -> Any:
        return actor.give.options(num_returns=2).remote((value, -value))

    assert list(pool.map(pair, range(4))) == [[value, -value] for value in range(4)]
    assert sorted(pool.map_unordered(pair, range(4))) == [[value, -value] for value in range(4)]


def test_errors_free_the_actor(pool: ActorPool) -> None:
    def fail(actor: Any, value: Any) -> Any:
        return actor.fail.remote(KeyError(value))

    for value in range(4):
        pool.submit(fail if value % 2 else give, value)
    for value in range(4):
        if value % 2:
            with pytest.raises(KeyError):
                pool.get_next()
        else:
            assert pool.get_next() == value
    assert pool.has_free()


def test_actors_come_and_go(pool: ActorPool) -> None:
    assert pool.has_free()
    one, two = pool.pop_idle(), pool.pop_idle()
    assert one is not None
    assert two is not None
    assert one != two
    assert (pool.has_free(), pool.pop_idle()) == (False, None)
    pool.submit(give, 1)
    pool.submit(give, 2)
    assert not pool.has_next()  # nobody is there to do it
    pool.push(one)
    with pytest.raises(ValueError, match="already belongs to current ActorPool"):
        pool.push(one)
    assert [pool.get_next(), pool.get_next()] == [1, 2]
    with pytest.raises(ValueError, match="already belongs to current ActorPool"):
        pool.push(one)
    pool.push(two)
    assert list(pool.map(give, range(10))) == list(range(10))
    assert pool.pop_idle() in (one, two)


# Actors that die ------------------------------------------------------------------------------------------------------


def die_at(victim: int) -> Any:
    return lambda actor, value: actor.die.remote() if value == victim else actor.give.remote(value)


def outcomes(pool: ActorPool, name: str) -> list[Any]:
    """The results, and the classes of the errors."""
    found: list[Any] = []
    while pool.has_next():
        try:
            found.append(getattr(pool, name)(timeout=20))
        except ray.exceptions.ActorError as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize("name", ["get_next", "get_next_unordered"])
def test_a_dead_actor_gets_no_further_value(node: object, name: str) -> None:
    pool = ActorPool([Mortal.remote() for _ in range(2)])
    for value in range(20):
        pool.submit(die_at(1), value)
    found = outcomes(pool, name)
    assert found.count("ActorDiedError") == 1
    assert {value for value in found if isinstance(value, int)} == {0, *range(2, 20)}
    assert repr(pool) == "<ActorPool 1 idle, 0 busy, 0 values waiting>"


@pytest.mark.parametrize("name", ["get_next", "get_next_unordered"])
def test_where_all_are_dead_each_value_that_waits_has_the_error_until_an_actor_is_added(
    node: object, name: str
) -> None:
    pool = ActorPool([Mortal.remote()])
    for value in range(6):
        pool.submit(die_at(0), value)
    for _ in range(3):
        with pytest.raises(ray.exceptions.ActorDiedError):
            getattr(pool, name)(timeout=20)
    pool.push(Mortal.remote())
    assert outcomes(pool, name) == [3, 4, 5]
    results = pool.map(die_at(0), range(2))
    with pytest.raises(ray.exceptions.ActorDiedError):
        next(results)
    assert list(pool.map(give, [])) == []  # map drops the earlier tasks
    assert not pool.has_next()


@pytest.mark.parametrize("name", ["get_next", "get_next_unordered"])
def test_a_restarting_actor_gets_the_next_value_when_it_is_ready(node: object, name: str) -> None:
    pool = ActorPool([Mortal.options(max_restarts=1).remote()])
    for value in range(6):
        pool.submit(die_at(2), value)
    assert outcomes(pool, name) == [0, 1, "ActorUnavailableError", 3, 4, 5]


def test_the_death_of_another_actor_is_no_reason_to_leave(node: object) -> None:
    other = Mortal.remote()
    lost = other.die.remote()
    pool = ActorPool([Mortal.remote()])
    pool.submit(give, lost)
    pool.submit(give, 2)
    assert outcomes(pool, "get_next") == ["ActorDiedError", 2]


def test_an_actor_stays_where_the_call_cannot_be_made(pool: ActorPool) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda actor, value: actor.give.remote(1 // value), 0)
    assert list(pool.map(give, range(3))) == [0, 1, 2]


def test_a_call_may_submit_values_itself(pool: ActorPool) -> None:
    def give_and_submit(actor: Any, value: Any) -> Any:
        pool.submit(give, value + 10)
        return actor.give.remote(value)

    pool.submit(give_and_submit, 1)
    pool.submit(give_and_submit, 2)
    assert sorted(pool.get_next() for _ in range(4)) == [1, 2, 11, 12]
    spares = [pool.pop_idle() for _ in range(3)]
    assert len({*spares}) == 3
    assert spares[2] is None


def test_a_call_returns_refs(pool: ActorPool) -> None:
    wrong: Any
    for wrong in (5, [], None):
        with pytest.raises(TypeError, match="return a ref or a list of refs"):
            pool.submit(lambda actor, value: value, wrong)
    assert list(pool.map(give, [1, 2])) == [1, 2]


@pytest.mark.parametrize("name", ["get_next", "get_next_unordered"])
def test_where_the_call_for_a_waiting_value_cannot_be_made_no_result_is_lost(node: object, name: str) -> None:
    def divide(actor: Any, value: int) -> Any:
        return actor.give.remote(12 // value)

    pool = ActorPool([Log.remote()])
    get_next = getattr(pool, name)
    for value in (1, 0, 0, 2, 3, 0):
        pool.submit(divide, value)
    found: list[Any] = []
    while pool.has_next():
        try:
            found.append(get_next(timeout=20))
        except ZeroDivisionError:
            found.append("error")
    assert sorted(map(str, found)) == ["12", "4", "6", "error", "error", "error"]
    if name == "get_next":
        assert found == [12, "error", "error", 6, 4, "error"]
    assert repr(pool) == "<ActorPool 1 idle, 0 busy, 0 values waiting>"
    for value in (1, 0):
        pool.submit(divide, value)
    assert list(pool.map(divide, [4, 6])) == [3, 2]  # the error is forgotten with the results
    assert not pool.has_next()


def test_an_added_actor_takes_the_values_behind_one_whose_call_cannot_be_made(node: object) -> None:
    pool = ActorPool([])
    for value in (0, 2):
        pool.submit(lambda actor, value: actor.give.remote(6 // value), value)
    pool.push(Log.remote())
    with pytest.raises(ZeroDivisionError):
        pool.get_next()
    assert pool.get_next(timeout=20) == 3
    with pytest.raises(StopIteration):
        pool.get_next()
