"""Objects over a connection whose other end the test plays."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.exceptions import GetTimeoutError, LocalNodeDiedError, ObjectLostError, ObjectStoreFullError
from asyncray.io.segments import Segment
from asyncray.messages import (
    AWAY,
    ERROR_SEEN,
    FAULT,
    PLAIN,
    PUT,
    REPLY,
    REQUEST,
    SHARED,
    SUBSCRIBE,
    SUBSCRIBE_ANYWHERE,
    UNPIN,
    VALUE,
)
from asyncray.runtime import current, object_client
from asyncray.runtime.object_client import ObjectClient
from asyncray.runtime.references import ValueHasLeft
from asyncray.runtime.refs import ObjectRef, borrow, own
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import layout, serialize
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started

LOST = ["ObjectLostError", {"object_id": "", "message": "lost"}]


@pytest.fixture
def session() -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as session:
        yield session


def new(runtime: Runtime, number: int) -> ObjectRef[Any]:
    return own(runtime.references, number.to_bytes(26, "big"))


def test_a_small_value_is_put_in_one_message_and_is_there(session: Any) -> None:
    runtime, daemon = session
    ref = runtime.objects.put([1])
    assert runtime.objects.get([ref._local], None) == [[1]]
    runtime.flush()
    assert daemon.next(PUT)[1] == ref.binary()


def test_values_are_got_in_order_and_the_first_error_is_raised(session: Any) -> None:
    runtime, daemon = session
    refs = [new(runtime, number) for number in range(3)]
    objects = [ref._local for ref in refs]
    daemon.send(*((VALUE, ref.binary(), PLAIN, serialize(number).pickled) for number, ref in enumerate(refs[:2])))
    assert runtime.objects.get(objects[:2], DEADLINE) == [0, 1]
    with pytest.raises(GetTimeoutError, match="1 of 3"):
        runtime.objects.get(objects, 0.001)
    daemon.send((VALUE, refs[2].binary(), FAULT, LOST))
    with pytest.raises(ObjectLostError):
        asyncio.run(runtime.objects.get_async(objects, DEADLINE))
    runtime.flush()
    assert daemon.next(ERROR_SEEN)[1] == (refs[2].binary(),)
    assert isinstance(runtime.objects.error(objects[2]), ObjectLostError)
    assert runtime.objects.error(objects[0]) is None


def test_a_borrowed_object_is_asked_for_once_and_a_look_hears_the_daemon_first(session: Any) -> None:
    runtime, daemon = session
    ref = borrow(runtime.references, b"b" * 26)

    def answer() -> None:
        assert daemon.next(SUBSCRIBE)[1] == (ref.binary(),)
        number = daemon.next(REQUEST)[1]
        daemon.send((VALUE, ref.binary(), PLAIN, serialize("there").pickled), (REPLY, number, None))

    thread = threading.Thread(target=answer)
    thread.start()
    assert runtime.objects.wait([ref._local], 1, timeout=0)
    thread.join()
    assert runtime.objects.get([ref._local], 0) == ["there"]


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_value_on_another_node_is_asked_for_when_something_waits(session: Any, waits_first: bool) -> None:
    runtime, daemon = session
    ref, other = new(runtime, 1), new(runtime, 2)

    def answer() -> None:
        if waits_first:
            daemon.send((AWAY, ref.binary(), False))
        assert daemon.next(SUBSCRIBE)[1] == (ref.binary(),)
        daemon.send((VALUE, ref.binary(), PLAIN, serialize("far").pickled))

    if not waits_first:
        daemon.send((AWAY, ref.binary(), False), (VALUE, other.binary(), PLAIN, serialize("near").pickled))
        assert runtime.objects.get([other._local], DEADLINE) == ["near"]
    thread = threading.Thread(target=answer)
    thread.start()
    assert runtime.objects.get([ref._local], DEADLINE) == ["far"]
    thread.join()


def test_a_thread_that_saw_no_need_to_ask_asks_when_it_is_registered(session: Any) -> None:
    runtime, daemon = session
    near, far = new(runtime, 1), new(runtime, 2)
    assert not runtime.objects._subscribe([far._local])
    daemon.send((AWAY, far.binary(), False), (VALUE, near.binary(), PLAIN, serialize("near").pickled))
    assert runtime.objects.get([near._local], DEADLINE) == ["near"]
    assert not runtime.objects._connection.block_on([far._local], timeout=0.001)
    assert daemon.next(SUBSCRIBE)[1] == (far.binary(),)


def test_values_that_are_not_needed_together_are_asked_for_one_by_one(session: Any) -> None:
    runtime, daemon = session
    refs = [borrow(runtime.references, bytes([number]) * 26) for number in range(2)]
    assert not runtime.objects.wait([ref._local for ref in refs], 1, timeout=0.001)
    assert [daemon.next(SUBSCRIBE)[1] for _ in refs] == [(ref.binary(),) for ref in refs]
    others = [borrow(runtime.references, bytes([9, number]) * 13) for number in range(2)]
    with pytest.raises(GetTimeoutError):
        runtime.objects.get([ref._local for ref in others], 0.001)
    assert daemon.next(SUBSCRIBE)[1] == tuple(ref.binary() for ref in others)


def value_of(ref: ObjectRef[Any], content: object) -> tuple[int, bytes, int, bytes]:
    return VALUE, ref.binary(), PLAIN, serialize(content).pickled


def exists(runtime: Runtime, *refs: ObjectRef[Any], enough: int | None = None, timeout: float = DEADLINE) -> bool:
    objects = [ref._local for ref in refs]
    return runtime.objects.wait(objects, enough or len(refs), fetch=False, timeout=timeout)


def exists_async(runtime: Runtime, *refs: ObjectRef[Any], enough: int | None = None, timeout: float = DEADLINE) -> bool:
    objects = [ref._local for ref in refs]
    return asyncio.run(runtime.objects.wait_async(objects, enough or len(refs), fetch=False, timeout=timeout))


def test_an_object_that_was_asked_for_with_others_is_asked_for_again_by_itself(session: Any) -> None:
    """Its value may wait until the others exist."""
    runtime, daemon = session
    one, other = refs = [borrow(runtime.references, bytes([number]) * 26) for number in range(2)]
    both = tuple(ref.binary() for ref in refs)
    for _ in range(2):
        with pytest.raises(GetTimeoutError):
            runtime.objects.get([ref._local for ref in refs], 0.001)
        assert daemon.next(SUBSCRIBE)[1] == both
    for _ in range(2):
        assert not runtime.objects.wait([one._local], 1, timeout=0.001)
    assert not exists(runtime, other, timeout=0.001)
    assert [list(message[1]) for message in questions(runtime, daemon)] == [[one.binary()]]


def questions(runtime: Runtime, daemon: DaemonSide) -> list[list[Any]]:
    """The subscriptions that the test has not read."""
    runtime.objects.put("the last message")
    runtime.flush()
    return [message for message in daemon.until(PUT) if message[0] in (SUBSCRIBE, SUBSCRIBE_ANYWHERE)]


Exists = Callable[..., bool]
both_ways = pytest.mark.parametrize("waits", [exists, exists_async])


@both_ways
def test_a_wait_without_a_fetch_asks_once_and_a_get_brings_the_value(session: Any, waits: Exists) -> None:
    runtime, daemon = session
    far, error = (borrow(runtime.references, bytes([number]) * 26) for number in range(2))
    assert not waits(runtime, far, error, timeout=0.001)
    assert daemon.next(SUBSCRIBE_ANYWHERE)[1] == (far.binary(), error.binary())
    daemon.send((AWAY, far.binary(), False))
    assert waits(runtime, far, error, enough=1)
    daemon.send((VALUE, error.binary(), FAULT, LOST))
    assert waits(runtime, far, error)
    assert not runtime.objects.wait([far._local], 1, timeout=0.001)
    assert daemon.next(SUBSCRIBE)[1] == (far.binary(),)
    daemon.send(value_of(far, "far"))
    assert runtime.objects.get([far._local], DEADLINE) == ["far"]
    assert waits(runtime, far)
    assert not questions(runtime, daemon)


@both_ways
def test_own_objects_and_those_on_their_way_are_not_asked_for_to_see_if_they_exist(session: Any, waits: Exists) -> None:
    runtime, daemon = session
    own_ref, coming = new(runtime, 1), borrow(runtime.references, b"b" * 26)
    assert not runtime.objects.wait([coming._local], 1, timeout=0.001)
    assert daemon.next(SUBSCRIBE)[1] == (coming.binary(),)
    daemon.send((AWAY, own_ref.binary(), False), (AWAY, coming.binary(), True))
    assert waits(runtime, own_ref, coming)
    assert not questions(runtime, daemon)


def test_of_two_waits_for_one_object_one_fetches_and_the_other_ends_at_once(session: Any) -> None:
    runtime, daemon = session
    far, near = new(runtime, 1), new(runtime, 2)
    got: list[Any] = []
    getting = threading.Thread(target=lambda: got.append(runtime.objects.get([far._local], DEADLINE)))
    getting.start()
    fetching = threading.Thread(target=lambda: got.append(exists(runtime, far, near)))
    fetching.start()
    daemon.send((AWAY, far.binary(), False))
    assert exists(runtime, far)
    assert daemon.next(SUBSCRIBE)[1] == (far.binary(),)
    daemon.send(value_of(near, "near"))
    fetching.join(DEADLINE)
    assert got == [True]
    daemon.send(value_of(far, "far"))
    getting.join(DEADLINE)
    assert got == [True, ["far"]]
    assert not runtime.waiters.has_waiters()


def test_a_wait_without_a_fetch_can_be_cancelled_and_ends_with_the_daemon(session: Any) -> None:
    runtime, daemon = session
    ref = borrow(runtime.references, b"b" * 26)

    async def cancelled() -> None:
        waiting = asyncio.create_task(runtime.objects.wait_async([ref._local], 1, fetch=False))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())
    assert not runtime.waiters.has_waiters()
    assert not exists(runtime, ref, timeout=0)
    daemon.close()
    assert exists(runtime, ref)
    with pytest.raises(LocalNodeDiedError):
        runtime.objects.check_enough([ref._local], 1)


def test_callbacks_and_awaits_of_one_object(session: Any) -> None:
    runtime, daemon = session

    async def main() -> list[Any]:
        ref = new(runtime, 1)
        called = asyncio.Event()
        runtime.objects.add_callback(ref, lambda _: called.set(), None)
        waiting = [asyncio.create_task(runtime.objects.load_async(ref._local)) for _ in range(3)]
        await asyncio.sleep(0)
        daemon.send((VALUE, ref.binary(), PLAIN, serialize(5).pickled))
        await called.wait()
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [5, 5, 5]
    assert not runtime.waiters.has_waiters()


def test_the_end_of_the_daemon_ends_everything(session: Any) -> None:
    runtime, daemon = session
    there, never = new(runtime, 1), new(runtime, 2)
    daemon.send((VALUE, there.binary(), PLAIN, serialize(1).pickled))
    future = runtime.objects.future(never)
    assert runtime.objects.get([there._local], DEADLINE) == [1]
    daemon.close()
    waits: list[Callable[[], object]] = [
        lambda: runtime.objects.get([never._local], DEADLINE),
        lambda: asyncio.run(runtime.objects.load_async(never._local)),
        lambda: future.result(DEADLINE),
        lambda: runtime.objects.put(1),
        lambda: runtime.objects.check_enough([there._local, never._local], 2),
    ]
    for wait in waits:
        with pytest.raises(LocalNodeDiedError):
            wait()
    runtime.objects.check_enough([there._local, never._local], 1)
    assert runtime.objects.is_done(never._local)
    assert runtime.objects.get([there._local], None) == [1]


# Copies of other nodes' values ----------------------------------------------------------------------------------------


class Copies:
    """Two places in shared memory at which a copy of a value is, one after the other."""

    def __init__(self, ref: ObjectRef[Any], segment: Segment) -> None:
        self.ref = ref
        self.array = np.arange(1000)
        size, parts = layout(serialize(self.array))
        data = b"".join(parts)
        self.places = [(segment.name, offset, size, True) for offset in (0, 65536)]
        for place in self.places:
            segment.buf[place[1] : place[1] + size] = data

    def message(self, turn: int) -> Any:
        return (VALUE, self.ref.binary(), SHARED, self.places[turn])


@pytest.fixture
def copies(session: Any) -> Iterator[Copies]:
    segment = Segment.create(f"asyncray-test-{os.getpid()}", 1 << 17)
    yield Copies(borrow(session[0].references, b"c" * 26), segment)
    segment.unlink()
    segment.close()


def send_when_asked(daemon: DaemonSide, copies: Copies, turn: int) -> threading.Thread:
    def send() -> None:
        assert daemon.next(SUBSCRIBE)[1] == (copies.ref.binary(),)
        daemon.send(copies.message(turn))

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def read_from(session: Any, copies: Copies, place: int) -> list[Any]:
    """Returns the value, which the daemon sends from one of its places. The caller keeps its copy by that."""
    runtime, daemon = session
    thread = send_when_asked(daemon, copies, place)
    values: list[Any] = runtime.objects.get([copies.ref._local], DEADLINE)
    thread.join()
    return values


def test_a_copy_leaves_with_its_last_view_and_the_next_read_brings_it_again(session: Any, copies: Copies) -> None:
    runtime, daemon = session
    local = copies.ref._local
    for turn in range(2):
        thread = send_when_asked(daemon, copies, turn)
        (array,) = runtime.objects.get([local], DEADLINE)
        thread.join()
        assert (array == copies.array).all()
        assert copies.ref.done()
        del array
        runtime.flush()
        assert daemon.next(UNPIN)[1] == ((copies.ref.binary(), 1),)
        assert exists(runtime, copies.ref)


def read(runtime: Runtime, ref: ObjectRef[Any]) -> Any:
    return runtime.objects.get([ref._local], DEADLINE)[0]


def read_async(runtime: Runtime, ref: ObjectRef[Any]) -> Any:
    return asyncio.run(runtime.objects.get_async([ref._local], DEADLINE))[0]


def await_one(runtime: Runtime, ref: ObjectRef[Any]) -> Any:
    return asyncio.run(runtime.objects.load_async(ref._local))


def read_future(runtime: Runtime, ref: ObjectRef[Any]) -> Any:
    return runtime.objects.future(ref).result(DEADLINE)


@pytest.mark.parametrize("reads", [read, read_async, await_one, read_future])
def test_a_thread_whose_value_leaves_just_before_it_reads_it_asks_again(
    session: Any, copies: Copies, reads: Callable[[Runtime, ObjectRef[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, daemon = session
    local = copies.ref._local
    kept = read_from(session, copies, 0)
    load = runtime.objects._values.load
    threads: list[threading.Thread] = []

    def load_late(*seen: Any) -> Any:
        if not threads:
            kept.clear()
            runtime.flush()  # the value leaves
            threads.append(send_when_asked(daemon, copies, 1))
        return load(*seen)

    monkeypatch.setattr(runtime.objects._values, "load", load_late)
    array = reads(runtime, copies.ref)
    threads[0].join()
    assert (array == copies.array).all()
    assert local.payload == copies.places[1]


def test_the_old_place_of_a_copy_that_is_back_is_not_read(session: Any, copies: Copies) -> None:
    runtime, _ = session
    local = copies.ref._local
    kept = read_from(session, copies, 1)
    with pytest.raises(ValueHasLeft):
        runtime.values.load(SHARED, copies.places[0], local.pin)
    assert kept


def test_a_result_that_has_left_is_not_ready_and_no_error(
    session: Any, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread drops the last view between the two looks of these methods."""
    runtime, _ = session
    local = copies.ref._local
    kept = read_from(session, copies, 0)
    kept.clear()
    runtime.flush()
    assert runtime.objects.error(local) is None
    monkeypatch.setattr(current, "session_of", lambda local: runtime)
    monkeypatch.setattr(runtime.objects, "is_done", lambda local: True)
    with pytest.raises(asyncio.InvalidStateError, match="is not ready"):
        copies.ref.result()


FULL = ["ObjectStoreFullError", {"message": "full"}, True]
"""There was no room for a value of another node."""


@pytest.mark.parametrize("reads", [read, read_async, await_one, read_future])
def test_a_read_for_which_there_was_no_room_can_be_tried_again(
    session: Any, reads: Callable[[Runtime, ObjectRef[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, daemon = session
    monkeypatch.setattr(object_client, "_MOST_READS", 1)
    ref = borrow(runtime.references, b"f" * 26)

    def answer() -> None:
        assert daemon.next(SUBSCRIBE)[1] == (ref.binary(),)
        daemon.send((VALUE, ref.binary(), FAULT, FULL))
        assert daemon.next(SUBSCRIBE)[1] == (ref.binary(),)
        daemon.send(value_of(ref, "far"))

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(ObjectStoreFullError, match="full"):
        reads(runtime, ref)
    assert exists(runtime, ref)
    assert reads(runtime, ref) == "far"
    thread.join()


@pytest.mark.parametrize("reads", [ObjectClient.get, lambda *args: asyncio.run(ObjectClient.get_async(*args))])
@pytest.mark.parametrize("fits", [True, False])
def test_values_that_came_one_by_one_into_a_full_store_are_given_back_and_asked_for_together(
    session: Any, copies: Copies, reads: Callable[..., Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two processes that each have a half of what they need would wait for each other."""
    runtime, daemon = session
    monkeypatch.setattr(object_client, "_MOST_READS", 2)
    first, second = copies.ref, new(runtime, 2)

    def answer() -> None:
        assert daemon.next(SUBSCRIBE)[1] == (first.binary(),)
        daemon.send(copies.message(0), (AWAY, second.binary(), False))
        assert daemon.next(SUBSCRIBE)[1] == (second.binary(),)
        daemon.send((VALUE, second.binary(), FAULT, FULL))
        both = [daemon.next_of(SUBSCRIBE, UNPIN) for _ in range(2)]
        assert sorted(both) == [[SUBSCRIBE, (first.binary(), second.binary())], [UNPIN, ((first.binary(), 1),)]]
        daemon.send(copies.message(1), value_of(second, "far") if fits else (VALUE, second.binary(), FAULT, FULL))
        if not fits:
            assert daemon.next(UNPIN)[1] == ((first.binary(), 1),)

    thread = threading.Thread(target=answer)
    thread.start()
    objects = [first._local, second._local]
    if fits:
        array, far = reads(runtime.objects, objects, DEADLINE)
        assert (array == copies.array).all()
        assert far == "far"
    else:
        with pytest.raises(ObjectStoreFullError, match="full"):
            reads(runtime.objects, objects, DEADLINE)
        runtime.flush()
        assert exists(runtime, first, second)
    thread.join()
