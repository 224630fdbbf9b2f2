"""Values to bytes and back in one pass, whatever a value contains, and even if its reducers pickle other values."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.runtime import serialization
from asyncray.runtime.serialization import (
    PicklingFailed,
    Serialized,
    collecting_refs,
    deserialize,
    layout,
    parse,
    serialize,
    serialize_in_band,
)


def through(value: Any) -> Any:
    serialized = serialize(value)
    return deserialize(serialized.pickled, serialized.buffers)


def make_rows() -> type:
    """A class that goes by value, whose instances can be pickled once."""

    class Rows:
        def __init__(self, source: Any) -> None:
            self.source = iter(source)

        def __getstate__(self) -> Any:
            return {"rows": list(self.source)}

        def __setstate__(self, state: Any) -> None:
            self.source = iter(state["rows"])

    return Rows


@pytest.mark.parametrize("dumps", [serialize, serialize_in_band])
def test_what_pickling_consumes_is_not_lost(dumps: Any) -> None:
    found = deserialize(dumps([make_rows()(range(5)), "__main__"]).pickled)
    assert list(found[0].source) == [0, 1, 2, 3, 4]


def test_reducers_run_once_even_if_pickling_fails_later() -> None:
    times = []

    class Ticket:
        def __reduce__(self) -> Any:
            times.append(1)
            return int, ("7",)

    ticket = Ticket()
    assert through([ticket, ticket, lambda: 1])[:2] == [7, 7]
    assert len(times) == 1
    with pytest.raises(PicklingFailed):
        serialize([Ticket(), threading.Lock()])
    assert len(times) == 2


def test_a_failure_names_the_part_and_the_error() -> None:
    lock = threading.Lock()
    with pytest.raises(PicklingFailed, match=r"cannot pickle '_thread\.lock' object") as caught:
        serialize([1, "a", (lambda: lock,)])
    assert caught.value.part is lock
    assert type(caught.value.error) is TypeError
    assert caught.value.__cause__ is caught.value.error
    with pytest.raises(PicklingFailed) as silent:
        serialize(_Refuses())
    assert str(silent.value) == "Silent"


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")


class _Refuses:
    def __reduce__(self) -> Any:
        raise Silent


def test_a_failure_spoils_no_later_value() -> None:
    for _ in range(3):
        with pytest.raises(PicklingFailed):
            serialize(["x" * 100, np.arange(10), threading.Lock()])
        assert through(["x", np.arange(3).tolist()]) == ["x", [0, 1, 2]]


def test_interrupts_pass() -> None:
    class Interrupts:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serialize(Interrupts())
    assert collecting_refs() is None


class Ref:
    """Collected as an ObjectRef is."""

    def __reduce__(self) -> Any:
        refs = collecting_refs()
        if refs is not None:
            refs.append(self)
        return Ref, ()


class Pickles:
    """Pickles in the middle of being pickled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        inner = serialize(self.value)
        return len, ([*inner.refs, pickle.dumps(Ref())],)


def test_refs_are_collected_by_the_innermost_value() -> None:
    outer, inner, last = Ref(), Ref(), Ref()
    serialized = serialize([outer, Pickles([inner, "x" * 1000]), last])
    first, by_hand, kept, second = serialized.refs
    assert (first, second) == (outer, last)
    assert kept is inner  # which its reducer put into what it returns
    assert type(by_hand) is Ref
    assert serialize(1).refs == []
    assert serialize_in_band([outer]).refs == [outer]
    assert pickle.loads(pickle.dumps(outer)) is not outer
    assert collecting_refs() is None


def test_a_pickler_in_use_is_used_by_nobody_else() -> None:
    assert through([1, Pickles([2, Pickles([3, 4])]), 5]) == [1, 2, 5]  # refs by hand and bytes
    wrong = []

    def work(number: int) -> None:
        for i in range(200):
            value = [number, "x" * i, {"a": (i, Ref)}, np.arange(3).tolist()]
            if through(value) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_picklers_keep_nothing_alive() -> None:
    class Value: ...

    value = Value()
    gone = weakref.ref(value)
    serialize([value, Ref()])
    serialize(Ref())
    del value
    gc.collect()
    assert gone() is None


def test_large_bytes_go_to_shared_memory_as_themselves() -> None:
    blob, text, array = b"b" * 300_000, "t" * 300_000, np.arange(1000)
    value = [blob, 1, {"text": text, "again": blob}, array]
    serialized = serialize(value)
    size, parts = layout(serialized)
    assert any(part is blob for part in parts)
    assert size == sum(memoryview(part).nbytes for part in parts)
    found = deserialize(*parse(memoryview(b"".join(parts))))
    assert found[:3] == value[:3]
    assert (found[3] == array).all()
    assert deserialize(serialized.pickled, serialized.buffers)[:3] == value[:3]
    assert serialized.size == len(serialized.pickled) + array.nbytes


def test_a_bytearray_is_copied_because_it_may_change() -> None:
    content = bytearray(b"a" * 300_000)
    serialized = serialize([content])
    content[:] = b"b" * 300_000
    _, parts = layout(serialized)
    assert deserialize(*parse(memoryview(b"".join(parts)))) == [b"a" * 300_000]


def test_buffers_are_beside_the_bytes_and_not_copied() -> None:
    array = np.arange(100_000)
    serialized = serialize({"a": array, "b": lambda: 1})
    (buffer,) = serialized.buffers
    assert np.shares_memory(np.frombuffer(buffer, array.dtype), array)
    assert len(serialized.pickled) < 10_000
    assert serialized.size == len(serialized.pickled) + array.nbytes
    assert repr(serialized) == f"<Serialized {serialized.size} bytes, 1 buffers, 0 refs>"
    assert serialize_in_band(array).buffers == ()
    size, parts = layout(serialized)
    whole = b"".join(parts)
    assert len(whole) == size
    assert np.array_equal(deserialize(*parse(memoryview(whole)))["a"], array)


class Clears:
    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        self.data.clear()
        return int, ()


def test_what_changes_while_the_rest_is_pickled() -> None:
    data = bytearray(b"x" * 200_000)
    assert through([data, Clears(data)])[0] == b"x" * 200_000
    texts = ["y" * 100_000, b"z" * 100_000, bytes(70_000)]
    assert through(texts) == texts


@pytest.fixture
def registry() -> Iterator[None]:
    yield
    serialization.deregister_all()


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content
        self.lock = threading.Lock()


@pytest.mark.usefixtures("registry")
def test_registered_serializers_are_reducers_of_the_same_pass() -> None:
    assert through(Ref()).__class__ is Ref
    serialization.register(Ref, lambda ref: 5, lambda state: state)
    assert through([Ref(), lambda: 1])[0] == 5  # though it was seen before it was registered
    serialization.deregister(Ref)
    assert type(through(Ref())) is Ref
    serialization.register(Box, lambda box: box.content, Box)
    assert serialization.is_registered(Box)
    found = through([Box(1), make_rows()([Box(2)])])
    assert found[0].content == 1
    assert next(found[1].source).content == 2
    with pytest.raises(TypeError, match="cannot pickle"):
        serialization.register(Ref, lambda ref: 5, threading.Lock())  # type: ignore[arg-type]  # that is the point


def test_a_size_without_buffers() -> None:
    assert Serialized(b"abc", (), []).size == 3


@pytest.mark.parametrize("first", ["classmethod(len)", "None"])
def test_the_reducers_of_cloudpickle_count_whatever_is_pickled_first(first: str) -> None:
    """A reducer of a built-in type calls cloudpickle, too: its others count when the first function goes by value."""
    program = f"""
from collections import OrderedDict
from asyncray.runtime.serialization import deserialize, serialize
serialize({first})
_, keys = deserialize(serialize((lambda: 1, OrderedDict(a=1).keys())).pickled)
print(list(keys))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['a']\n"
