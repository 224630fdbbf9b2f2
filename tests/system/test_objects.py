"""Objects as users see them: their values, reads that copy nothing, and the time when memory is free again."""

from __future__ import annotations

import asyncio
import enum
import gc
import math
import os
import signal
import threading
import time
from collections import deque, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import asyncray.sync as ray
from asyncray.exceptions import AsyncrayError, ObjectStoreFullError, OwnerDiedError, TaskError
from asyncray.runtime.runtime import require
from tests.system.bell import Bell

pytestmark = pytest.mark.usefixtures("node")
DEADLINE = 20.0
MEGABYTE = 1 << 20


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=DEADLINE)


def used() -> int:
    return int(require().request("status")["store"]["used"])


def assert_freed() -> None:
    """Nothing is in the store, and no object on the node."""
    deadline = time.monotonic() + DEADLINE
    while True:
        gc.collect()
        status = require().request("status")
        if not (status["store"]["used"] or status["objects"]):
            return
        assert time.monotonic() < deadline, f"{status['store']['used']} bytes and {status['objects']} objects are left"


@ray.remote
def echo(value: Any) -> Any:
    return value


@ray.remote
def length(value: Any) -> int:
    return len(value)


# Values ---------------------------------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Color(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Item:
    name: str
    tags: frozenset[str]


class Tagged(np.ndarray[Any, Any]):
    tag = "none"


def test_values_come_back_as_they_were() -> None:
    recursive: list[Any] = [1]
    recursive.append(recursive)
    values: list[Any] = [
        None, True, 0, -(2**200), 1.5, math.inf, 1j, "", "größer \ud800", b"", b"x" * 200_000, bytearray(b"y"),
        (), [1, [2, (3,)]], {1: {2: {3}}}, {1, 2}, frozenset(), range(3), deque([1]), Point(1, 2), Color.RED,
        Item("a", frozenset("bc")), int, Item, len, ..., NotImplemented, slice(1, 2), "z" * 300_000,
        np.float32(1.5), np.datetime64("2026-01-01"), memoryview(b"abc").tobytes(),
    ]  # fmt: skip
    for value in values:
        for back in (get(ray.put(value)), get(echo.remote(value)), get(echo.remote(ray.put(value)))):
            assert back == value
            assert type(back) is type(value)
    assert math.isnan(get(echo.remote(math.nan)))
    back = get(echo.remote(recursive))
    assert back[1] is back
    assert get(echo.remote(lambda x: x + 1))(1) == 2

    class Local:
        value = 5

    assert get(ray.put(Local())).value == 5


ARRAYS: list[Any] = [
    np.arange(5), np.zeros((300, 500)), np.zeros((0, 3)), np.array(5.5), np.zeros((600, 100), order="F"),
    np.arange(100_000)[::2], np.array(["a", "bc"]), np.zeros(40_000, dtype=[("x", "f8"), ("y", "i2")]),
    np.arange(200_000, dtype=">i4"), np.array([1, "a", None], dtype=object), np.ma.masked_array([1, 2], [True, False]),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_arrays_come_back_equal_through_every_way(array: Any) -> None:
    for back in (get(ray.put(array)), get(echo.remote(array)), get(echo.remote({"a": [array]}))["a"][0]):
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)


def test_subclasses_of_arrays_keep_their_class() -> None:
    tagged = np.zeros(50_000).view(Tagged)
    assert type(get(ray.put(tagged))) is Tagged


def test_large_arrays_are_read_only_views_of_one_memory() -> None:
    value = {"a": np.arange(500_000), "list": [np.ones(300_000), np.zeros(10)]}
    ref = ray.put(value)
    one, two = get(ref), get(ref)
    for array in (one["a"], one["list"][0]):
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert array.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="assignment destination is read-only"):
            array[0] = 1
    assert one is not two
    assert one["a"].ctypes.data == two["a"].ctypes.data
    assert one["list"] is not two["list"]
    assert one["a"].sum() == 500_000 * 499_999 // 2


def test_a_put_takes_a_copy_and_a_get_gives_one() -> None:
    array, values = np.zeros(200_000), [1]
    ref, other = ray.put(array), ray.put(values)
    array[:] = 7
    values.append(2)
    assert get(ref).sum() == 0
    got = get(other)
    got.append(3)
    assert get(other) == [1]


# Memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_free_when_the_last_ref_is_gone() -> None:
    ref = ray.put(np.zeros(MEGABYTE))
    again = get(echo.remote([ref]))[0]
    assert used() >= 8 * MEGABYTE
    del ref
    assert get(length.remote(again)) == MEGABYTE
    del again
    assert_freed()
    for _ in range(200):
        ray.put(np.zeros(MEGABYTE))  # 1.6 GB in all
    assert_freed()


def test_a_view_outlives_its_ref_and_every_slice_counts() -> None:
    array = get(ray.put(np.arange(MEGABYTE)))
    part = array[1000:1002].reshape(2, 1)
    del array
    others = [ray.put(np.full(MEGABYTE, n)) for n in range(20)]
    assert part.tolist() == [[1000], [1001]]
    assert used() >= 8 * MEGABYTE * 21
    del others, part
    assert_freed()


def test_results_and_refs_inside_of_them_are_freed_in_every_process() -> None:
    @ray.remote
    def make() -> Any:
        return [ray.put(np.zeros(100_000)), {"deep": echo.remote(np.ones(100_000))}]

    @ray.remote
    def use(refs: list[Any]) -> float:
        return float(ray.get(refs[0]).sum() + ray.get(refs[1]["deep"]).sum())

    for _ in range(5):
        made = make.remote()
        assert get(use.remote(made)) == 100_000
        assert get(get(made)[1]["deep"]).sum() == 100_000
    del made
    assert_freed()


def test_an_actor_that_borrows_keeps_what_it_keeps() -> None:
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def look(self) -> float:
            return float(ray.get(self.refs[0]).sum())

        def drop(self) -> None:
            self.refs = []

    keeper = ray.remote(Keeper).remote()
    ref = ray.put(np.ones(MEGABYTE))
    get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    assert get(keeper.look.remote()) == MEGABYTE
    get(keeper.drop.remote())
    del keeper
    assert_freed()


def test_what_was_sent_and_not_run_is_given_back(bell: Bell) -> None:
    """Taken back, cancelled before it starts, behind an argument that cannot be read."""

    @ray.remote
    def parent(values: Any, wait: bool) -> int:
        return len(values) if not wait else int(ray.get(length.remote(values)))

    class Unreadable:
        def __reduce__(self) -> Any:
            return int, ("unreadable",)

    get([parent.remote([], False) for _ in range(300)])  # known to be short: several are sent ahead
    for _ in range(3):
        big = ray.put(np.zeros(MEGABYTE))
        refs = [parent.remote(big, True), *(parent.remote(big, False) for _ in range(20))]
        assert get(refs) == [MEGABYTE] * 21
    del big, refs
    assert_freed()

    @ray.remote
    def hold(bell: Bell | None, values: Any = None) -> None:
        if bell is not None:
            bell.wait()

    get([hold.remote(None) for _ in range(300)])
    holding = [hold.remote(bell), hold.remote(bell)]
    assert [bell.heard(), bell.heard()] == ["", ""]
    big = ray.put(np.zeros(MEGABYTE))
    for ref in (behind := [hold.remote(None, big) for _ in range(20)]):
        ray.cancel(ref)
    bell.let_go()
    get(holding)
    del big, behind, ref, holding
    assert_freed()

    @ray.remote
    def two(bad: Any, good: Any) -> None: ...

    with pytest.raises(TaskError, match="unreadable"):
        get(two.remote(ray.put(Unreadable()), ray.put(np.zeros(MEGABYTE))))
    assert_freed()


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_cancelled_calls_of_actors_give_their_arguments_back(bell: Bell, concurrency: int, asynchronous: bool) -> None:
    class Plain:
        def hold(self, bell: Bell) -> None:
            bell.wait()

        def take(self, values: Any) -> None: ...

    class Async(Plain):
        async def other(self) -> None: ...

    actor = ray.remote(max_concurrency=concurrency)(Async if asynchronous else Plain).remote()
    holds = [actor.hold.remote(bell) for _ in range(1 if asynchronous else concurrency)]
    for _ in holds:
        bell.heard()
    big = ray.put(np.zeros(MEGABYTE))
    calls = [actor.take.remote(big) for _ in range(10)]
    for ref in calls:
        ray.cancel(ref)
    bell.let_go()
    get(holds)
    ray.wait(calls, num_returns=10)
    ref = None
    del big, calls, holds, ref
    get(actor.take.remote(1))
    deadline = time.monotonic() + DEADLINE
    while used():
        assert time.monotonic() < deadline, used()


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_store(node: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with 100 MB instead, that gives up soon."""
    ray.shutdown()
    monkeypatch.setenv("ASYNCRAY_STORE_FULL_DEADLINE", "0.2")
    ray.init(num_cpus=2, object_store_memory=100 * MEGABYTE)


@pytest.mark.usefixtures("small_store")
def test_a_full_store_is_a_typed_error_and_no_end() -> None:
    kept = [ray.put(bytes(20 * MEGABYTE)) for _ in range(4)]
    with pytest.raises(ObjectStoreFullError, match="del ref"):
        ray.put(bytes(30 * MEGABYTE))
    with pytest.raises(ObjectStoreFullError, match=r"\(101\.0 MiB\) is larger than the object store \(100\.0 MiB\)"):
        ray.put(bytes(101 * MEGABYTE))
    with pytest.raises(ObjectStoreFullError) as caught:
        get(echo.remote("x" * 30 * MEGABYTE))
    del caught

    @ray.remote(num_returns=2)
    def two() -> Any:
        return bytes(10 * MEGABYTE), bytes(30 * MEGABYTE)

    for _ in range(3):  # what of it had room is given back
        refs = two.remote()
        with pytest.raises(ObjectStoreFullError):
            get(refs[0])
    del refs
    kept.pop()
    assert get(length.remote(ray.put(bytes(30 * MEGABYTE)))) == 30 * MEGABYTE
    kept.clear()
    assert_freed()


@pytest.mark.usefixtures("small_store")
def test_a_pipeline_may_make_more_than_the_store_holds() -> None:
    """Tasks that wait for room lend their CPUs to tasks that free some."""

    @ray.remote
    def make(number: int) -> Any:
        return np.full(20 * MEGABYTE, number, dtype=np.uint8)

    @ray.remote
    def first(array: Any) -> int:
        return int(array[0])

    refs = [first.remote(make.remote(number)) for number in range(30)]
    assert get(refs) == list(range(30))
    assert len(require().request("status")["workers"]) <= 6
    del refs
    assert_freed()


def test_what_is_put_is_available_no_more() -> None:
    ray.shutdown()
    ray.init(num_cpus=1, object_store_memory=100 * MEGABYTE)
    assert ray.available_resources()["object_store_memory"] == 100 * MEGABYTE
    ref = ray.put(bytes(40 * MEGABYTE))
    assert 59 * MEGABYTE < ray.available_resources()["object_store_memory"] <= 60 * MEGABYTE
    assert ray.cluster_resources()["object_store_memory"] == 100 * MEGABYTE
    del ref
    assert_freed()
    assert ray.available_resources()["object_store_memory"] == 100 * MEGABYTE


def test_garbage_in_cycles_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("ASYNCRAY_STORE_FULL_DEADLINE", str(DEADLINE))  # the collector may take its time
    ray.init(num_cpus=1, object_store_memory=100 * MEGABYTE)
    for _ in range(20):
        cycle: list[Any] = [ray.put(bytes(40 * MEGABYTE))]
        cycle.append(cycle)
        del cycle
    gc.collect()
    assert_freed()


def test_many_small_values_in_one_call_or_result() -> None:
    refs = [ray.put(bytes(90_000)) for _ in range(1500)]  # 135 MB inline

    @ray.remote
    def total(*values: bytes) -> int:
        return sum(map(len, values))

    assert get(total.remote(*refs)) == 1500 * 90_000

    @ray.remote(num_returns=400)
    def many() -> Any:
        return [bytes(90_000) for _ in range(400)]

    results = many.remote()
    assert [len(value) for value in get(results)] == [90_000] * 400

    @ray.remote(max_retries=0)
    def shouts() -> None:
        raise ValueError("x" * 60_000_000)

    with pytest.raises(TaskError, match="characters are left out"):
        get(shouts.remote())


def test_a_signal_in_the_middle_of_a_put_harms_no_other_object() -> None:
    class TimeIsOver(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        raise TimeIsOver

    ones, others = np.ones(16 * MEGABYTE), np.full(16 * MEGABYTE, 255.0)
    del_later = ray.put(ones)  # warm pages: written by two threads from now on
    del del_later
    old = signal.signal(signal.SIGALRM, handle)
    try:
        for number in range(10):
            kept = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.002 * number)
                kept = ray.put(ones)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except TimeIsOver:
                pass
            ref = ray.put(others)
            assert (ray.get(ref) == 255.0).all()
            del ref, kept
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert_freed()


# Refs -----------------------------------------------------------------------------------------------------------------


def test_what_refs_are() -> None:
    ref: Any = ray.put(1)
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert ref == ray.ObjectRef(ref.binary())
    assert hash(ref) == hash(ray.ObjectRef(ref.binary()))
    assert len({ref, ray.ObjectRef(ref.binary()), ray.put(1)}) == 2
    assert ref.hex() == ref.binary().hex()
    assert not ref.is_nil()
    assert ray.ObjectRef.nil().is_nil()
    assert ray.ObjectID is ray.ObjectRef
    assert ray.ObjectRef.from_random() != ray.ObjectRef.from_random()
    with pytest.raises(ValueError, match="needs to have length"):
        ray.ObjectRef(b"short")
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.put(ref)
    with pytest.raises(OwnerDiedError, match="belongs to another node"):
        get(ray.ObjectRef.from_random())


def test_futures_of_refs(bell: Bell) -> None:
    @ray.remote
    def slow(bell: Bell) -> int:
        bell.wait()
        return 5

    ref = slow.remote(bell)
    bell.heard()
    future = ref.future()
    assert not future.done()
    bell.let_go()
    assert future.result(DEADLINE) == 5
    assert ref.future().result(DEADLINE) == 5

    @ray.remote
    def fails() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        fails.remote().future().result(DEADLINE)


def test_a_finalizer_may_use_the_session(bell: Bell) -> None:
    """Garbage that cancels, kills and drops whenever the collector finds it."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self
            self.ref = echo.remote(1)

        def __del__(self) -> None:
            ray.cancel(self.ref)
            try:
                ray.get(self.ref)
            except AsyncrayError:
                pass

    for _ in range(30):
        Garbage()
        assert get([echo.remote(i) for i in range(30)]) == list(range(30))
    gc.collect()
    done = threading.Event()

    async def main() -> None:
        assert await asyncio.gather(*(echo.remote(i) for i in range(10))) == list(range(10))
        done.set()

    asyncio.run(main())
    assert done.is_set()
    assert os.getpid()
