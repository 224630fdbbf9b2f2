"""``asyncray.util.map``: order, chunks, laziness, errors, both ways to read it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncray.sync as ray
from asyncray.exceptions import TaskError, WorkerCrashedError
from asyncray.util import map as remote_map
from asyncray.util.mapping import ChunkSizes, FixedSize
from tests.system import actors
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]

Gate: Any = actors.Gate
Log: Any = actors.Log


@ray.remote(num_cpus=0.5, max_retries=0)
def halve(x: int) -> float:
    return x / 2


def test_the_first_chunk_has_one_item_and_sizes_follow_the_times() -> None:
    sizes = ChunkSizes(None, 2)
    assert sizes.take() == 1
    sizes.report(1, 1e-6)
    assert sizes.take() == 8  # no more than 8 times what is known
    sizes.report(8, 8e-6)
    assert sizes.take() == 64
    sizes.report(64, 0.064)
    assert sizes.take() == 10  # of a millisecond each
    sizes.report(10, 1.0)
    assert sizes.take() == 1


def test_chunks_get_smaller_towards_a_known_end() -> None:
    sizes = ChunkSizes(1_000, 2)
    sizes.report(1_000, 0.001)
    taken: list[int] = []
    while sum(taken) < 1_000:
        taken.append(min(sizes.take(), 1_000 - sum(taken)))
    assert taken == [1_000]  # all of them take a millisecond
    sizes = ChunkSizes(100_000, 2)
    sizes.report(50_000, 0.05)
    assert [sizes.take() for _ in range(3)] == [10_000, 10_000, 10_000]
    sizes = ChunkSizes(20_000, 2)
    sizes.report(50_000, 0.05)
    assert [sizes.take() for _ in range(4)] == [5_000, 3_750, 2_812, 2_109]


@given(
    st.integers(0, 10_000) | st.none(),
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1e6))),
)
def test_a_size_is_at_least_one_and_bounded(total: int | None, slots: int, reports: list[tuple[int, float]]) -> None:
    sizes = ChunkSizes(total, slots)
    for count, seconds in reports:
        sizes.report(count, seconds)
        assert 1 <= sizes.take() <= 100_000


def test_a_fixed_size_stays() -> None:
    sizes = FixedSize(7)
    sizes.report(7, 100.0)
    assert [sizes.take(), sizes.take()] == [7, 7]


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("chunksize", ["auto", 1, 7, 1000])
@pytest.mark.parametrize("ordered", [True, False])
def test_all_results_of_all_kinds_of_functions(chunksize: Any, ordered: bool) -> None:
    functions: list[Any] = [math.sqrt, halve, functools.partial(pow, 2), plain.Adder(2), lambda x: -x]
    locally: list[Any] = [math.sqrt, lambda x: x / 2, lambda x: 2**x, lambda x: x + 2, lambda x: -x]
    for function, local in zip(functions, locally, strict=True):
        results = list(remote_map(function, range(30), chunksize=chunksize, ordered=ordered))
        expected = [local(x) for x in range(30)]
        assert results == expected if ordered else sorted(results) == sorted(expected)


@pytest.mark.usefixtures("node")
async def test_async_for_gives_the_same() -> None:
    assert [x async for x in remote_map(halve, range(50))] == [x / 2 for x in range(50)]
    assert sorted([x async for x in remote_map(halve, range(50), ordered=False, chunksize=3)]) == [
        x / 2 for x in range(50)
    ]
    with pytest.raises(ZeroDivisionError) as caught:
        async for _ in remote_map(lambda x: 1 / x, [1, 0]):
            pass
    assert caught.value.__notes__ == ["This is about item 1 of map(): 0"]


@pytest.mark.usefixtures("node")
def test_no_items_give_no_results() -> None:
    assert list(remote_map(halve, [])) == []


@pytest.mark.usefixtures("node")
def test_items_are_read_as_results_are_taken() -> None:
    read = itertools.count()
    results = remote_map(halve, read, chunksize=2, in_flight=3)
    assert next(results) == 0
    assert next(read) == 8  # three chunks are ahead of the one whose results come
    assert repr(results) == "<MapResults 8 items submitted, 3 tasks ahead>"


@pytest.mark.usefixtures("node")
def test_an_error_comes_after_the_results_before_it_and_names_its_item() -> None:
    results = remote_map(functools.partial(plain.divide, 1), [1, 2, 0, 4], chunksize=4)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert isinstance(caught.value, TaskError)
    assert caught.value.__notes__ == ["This is about item 2 of map(): 0"]
    assert "return a / b" in str(caught.value)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.usefixtures("node")
def test_an_item_whose_repr_is_long_is_cut() -> None:
    with pytest.raises(TypeError) as caught:
        list(remote_map(plain.Adder(1), ["x" * 1_000]))  # type: ignore[arg-type]
    assert len(caught.value.__notes__[0]) < 130


@pytest.mark.usefixtures("node")
def test_a_worker_that_dies_is_an_error_that_names_its_chunk() -> None:
    with pytest.raises(WorkerCrashedError) as caught:
        list(remote_map(ray.remote(max_retries=0)(plain.die_at), [1, 2, 3, 4], chunksize=2))
    assert caught.value.__notes__ == ["This is about an item of map() from 2 to 3."]


@pytest.mark.usefixtures("node")
def test_errors_are_retried_where_the_remote_function_says_so() -> None:
    log = Log.remote()
    again = ray.remote(retry_exceptions=True, max_retries=2)(plain.fail_at_first)
    assert list(remote_map(again, [log])) == [2]


@pytest.mark.usefixtures("node")
def test_refs_are_replaced_by_their_values() -> None:
    refs: list[Any] = [ray.put(4), 9, ray.put(16)]
    assert list(remote_map(math.sqrt, refs, chunksize=3)) == [2, 3, 4]


@pytest.mark.usefixtures("node")
def test_a_method_of_an_actor_takes_one_item_a_call() -> None:
    log = Log.remote()
    assert list(remote_map(log.add, "abc")) == [1, 2, 3]
    assert ray.get(log.all.remote()) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="one item a call"):
        remote_map(log.add, "abc", chunksize=2)


@pytest.mark.usefixtures("node")
def test_results_come_as_they_are_there_if_order_does_not_matter() -> None:
    gates = [Gate.remote() for _ in range(2)]
    results = remote_map(plain.pass_own_gate, list(enumerate(gates)), ordered=False, chunksize=1)

    def numbers() -> Iterator[int]:
        for number in (1, 0):
            gates[number].open.remote()
            yield next(results)

    assert list(numbers()) == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((math.sqrt, 5), {}, "map() takes items that a for loop can read, not int."),
        ((5, [1]), {}, "map() takes a function or another callable, a remote function, or an actor's method, not 5."),
        ((actors.Gate, [1]), {}, "map() takes a function"),
        ((math.sqrt, [1]), {"chunksize": 0}, "chunksize must be 1 or more, or 'auto', not 0."),
        ((math.sqrt, [1]), {"chunksize": "many"}, "chunksize must be 1 or more, or 'auto', not 'many'."),
        ((math.sqrt, [1]), {"in_flight": 0}, "in_flight must be 1 or more, or None, not 0."),
        ((ray.remote(num_returns=2)(divmod), [1]), {}, "num_returns"),
    ],
)
@pytest.mark.usefixtures("node")
def test_bad_arguments_are_told_at_once(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        remote_map(*arguments, **options)
    assert message in str(caught.value)
