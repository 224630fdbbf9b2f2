"""``as_completed`` and ``map_unordered`` on real tasks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.runtime.runtime import require
from tests.system import actors
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too

__all__ = ["node", "nothing_left", "own_node", "sessions"]

pytestmark = pytest.mark.usefixtures("node")

Gate: Any = actors.Gate


@ray.remote
def give(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def test_each_as_it_finishes() -> None:
    gates = [Gate.remote() for _ in range(3)]
    refs = [gate.wait.remote(i) for i, gate in enumerate(gates)]
    results = ray.util.as_completed(refs, chunk_size=1)
    for i in (1, 2, 0):
        gates[i].open.remote()
        assert next(results) == i
    with pytest.raises(StopIteration):
        next(results)


def test_chunks_come_together_and_in_order() -> None:
    gate = Gate.remote()
    refs = [gate.wait.remote(0), *(give.remote(i) for i in range(1, 5))]
    results = ray.util.as_completed(refs, chunk_size=2, yield_obj_refs=True)
    first = [next(results) for _ in range(4)]
    assert set(first) == set(refs[1:])
    assert refs.index(first[0]) < refs.index(first[1])
    assert refs.index(first[2]) < refs.index(first[3])
    gate.open.remote()
    assert next(results) is refs[0]
    assert list(ray.util.as_completed(refs)) == [0, 1, 2, 3, 4]  # a chunk may be larger than what there is
    assert list(ray.util.as_completed([])) == []


def test_as_completed_checks_its_arguments_at_once() -> None:
    with pytest.raises(ValueError, match="chunk_size must be 1 or more, not 0"):
        ray.util.as_completed([], chunk_size=0)
    ref = give.remote(1)
    with pytest.raises(ValueError, match="unique"):
        list(ray.util.as_completed([ref, ref]))
    with pytest.raises(TypeError, match="list of ObjectRefs"):
        list(ray.util.as_completed([ref, 1]))


def test_an_error_ends_it() -> None:
    results = ray.util.as_completed([give.remote(KeyError("no"))])
    with pytest.raises(KeyError, match="no"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map() -> None:
    assert sorted(ray.util.map_unordered(give, range(250))) == list(range(250))
    assert list(ray.util.map_unordered(give, [])) == []
    refs = list(ray.util.map_unordered(give, [1, 2, 3], yield_obj_refs=True))
    assert sorted(ray.get(refs)) == [1, 2, 3]
    actor: Any = actors.Log.remote()  # type: ignore[attr-defined]  # made by the decorator
    assert sorted(ray.util.map_unordered(actor.give, [1, 2, 3])) == [1, 2, 3]
    with pytest.raises(KeyError):
        list(ray.util.map_unordered(give, [KeyError("no")]))


def test_map_reads_no_further_than_it_must() -> None:
    read = itertools.count()
    results = ray.util.map_unordered(give, read, backpressure_size=6, chunk_size=2)
    assert next(read) == 0
    taken = [next(results) for _ in range(2)]
    assert next(read) == 7
    assert set(taken) <= {1, 2, 3, 4, 5, 6}
    held = require().references
    del results
    ray.get(give.remote(1))
    assert len(held.table) < 6


def test_map_keeps_only_so_many_under_way() -> None:
    gate = Gate.remote()
    results = ray.util.map_unordered(gate.wait, [1, 2, 3, 4], backpressure_size=2, chunk_size=1)
    gate.open.remote()
    assert sorted(results) == [1, 2, 3, 4]


def test_map_checks_its_arguments_at_once() -> None:
    with pytest.raises(ValueError, match=r"backpressure_size \(5\) must not be less than chunk_size \(10\)"):
        ray.util.map_unordered(give, [], backpressure_size=5)
    with pytest.raises(ValueError, match="chunk_size"):
        ray.util.map_unordered(give, [], chunk_size=0)
    with pytest.raises(TypeError, match="takes a remote function"):
        ray.util.map_unordered(len, [])
