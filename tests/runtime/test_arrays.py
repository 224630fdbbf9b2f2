"""Arrays of numpy come back as they were, whichever way they travel."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.runtime import serialization
from asyncray.runtime.arrays import make_array, reducer_of_arrays
from asyncray.runtime.serialization import deserialize, serialize, serialize_in_band

CODES = "?bhilqBHILQefdgFDG"


class Subclass(np.ndarray[Any, Any]):
    pass


OWN_WAY = [np.arange(6).astype(code) for code in CODES] + [
    np.ones((2, 3)),
    np.array(5.0),
    np.arange(6)[2:5],
]

NUMPYS_WAY = [
    np.zeros(0),
    np.zeros((3, 0)),
    np.ones((2, 3), order="F"),
    np.arange(10)[::2],
    np.arange(3, dtype=">f8"),
    np.zeros(2, dtype=[("a", int), ("b", float)]),
    np.array(["a", "bc"]),
    np.array(["2020-01-01"], dtype="M8[D]"),
    np.array([{}, None], dtype=object),
    np.zeros(3, dtype=np.dtype("i4", metadata={"unit": "m"})),
    np.ones(3).view(Subclass),
]


def same(found: Any, array: Any) -> bool:
    return (
        type(found) is type(array)
        and (found.dtype, found.shape) == (array.dtype, array.shape)
        and (found.tolist() == array.tolist())
    )


@pytest.mark.parametrize("array", [*OWN_WAY, *NUMPYS_WAY], ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_comes_back(array: Any) -> None:
    serialized = serialize(array)
    found = deserialize(serialized.pickled, serialized.buffers)
    assert same(found, array)
    assert np.shares_memory(found, array) == bool(serialized.buffers and array.size)
    copied = deserialize(serialize_in_band(array).pickled)
    assert same(copied, array)
    assert copied.flags.writeable


def test_which_arrays_travel_without_their_type() -> None:
    reduce = reducer_of_arrays(np.ndarray)
    assert reduce is not None
    for array in OWN_WAY:
        assert reduce(array)[0] is make_array
    for array in NUMPYS_WAY[:-1]:
        assert reduce(array) is NotImplemented
    assert reducer_of_arrays(Subclass) is reducer_of_arrays(int) is None


def test_one_array_twice_is_one_array() -> None:
    array = np.arange(3)
    serialized = serialize([array, array, {"a": array}])
    first, second, inner = deserialize(serialized.pickled, serialized.buffers)
    assert first is second is inner["a"]
    assert len(serialized.buffers) == 1


def test_an_array_that_may_not_be_written() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    assert not deserialize(serialize_in_band(array).pickled).flags.writeable
    assert not pickle.loads(pickle.dumps(array, 5)).flags.writeable


@pytest.fixture
def registry() -> Iterator[None]:
    yield
    serialization.deregister_all()


@pytest.mark.usefixtures("registry")
def test_a_serializer_of_the_users_comes_first() -> None:
    assert same(deserialize(serialize_in_band(np.arange(3)).pickled), np.arange(3))
    serialization.register(np.ndarray, lambda array: array.tolist(), tuple)
    assert deserialize(serialize(np.arange(3)).pickled) == (0, 1, 2)
    serialization.deregister(np.ndarray)
    assert same(deserialize(serialize_in_band(np.arange(3)).pickled), np.arange(3))


def test_without_numpy_nothing_is_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    assert reducer_of_arrays(np.ndarray) is None
