"""``ref.future()``: values, callbacks, cancelling, the end."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncray.exceptions import AsyncraySystemError
from asyncray.messages import PLAIN
from asyncray.runtime.futures import Futures
from asyncray.runtime.references import LocalObject, References
from asyncray.runtime.refs import ObjectRef, own
from asyncray.runtime.waiters import Waiters

DEADLINE = 10.0


class Objects:
    """Objects whose value is a function to call, and their futures."""

    def __init__(self) -> None:
        self.references = References(lambda: None)
        self.waiters = Waiters()
        self.futures = Futures(self.waiters, self.load)
        self.count = 0

    def load(self, local: LocalObject) -> Any:
        self.waiters.check_alive()
        return local.payload()

    def ref(self) -> ObjectRef[Any]:
        self.count += 1
        return own(self.references, self.count.to_bytes(26, "big"))

    def resolve(self, ref: ObjectRef[Any], value: Callable[[], Any]) -> None:
        self.waiters.resolved([(ref._local, PLAIN, value)])


@pytest.fixture
def objects() -> Iterator[Objects]:
    objects = Objects()
    yield objects
    objects.futures.close(DEADLINE)
    assert not any(thread.name.startswith("asyncray-") for thread in threading.enumerate())


def raises() -> None:
    raise KeyError("no")


def test_values_and_errors(objects: Objects) -> None:
    good, bad, late = objects.ref(), objects.ref(), objects.ref()
    objects.resolve(good, lambda: 1)
    first, second, third = map(objects.futures.future, (good, bad, late))
    objects.resolve(bad, raises)
    objects.resolve(late, lambda: threading.current_thread().name)
    assert first.result(DEADLINE) == 1
    assert isinstance(second.exception(DEADLINE), KeyError)
    assert third.result(DEADLINE) == "asyncray-future"
    assert not objects.waiters.has_waiters()


def test_many_futures_need_no_thread_each(objects: Objects) -> None:
    refs = [objects.ref() for _ in range(500)]
    futures = [objects.futures.future(ref) for ref in refs]
    before = threading.active_count()
    objects.waiters.resolved([(ref._local, PLAIN, lambda: None) for ref in refs])
    assert concurrent.futures.wait(futures, DEADLINE).not_done == set()
    assert threading.active_count() <= before


def test_callbacks_that_block_stop_no_result_and_may_wait_for_one(objects: Objects) -> None:
    gate = threading.Event()
    waited: list[Any] = []
    refs = [objects.ref() for _ in range(10)]
    futures = [objects.futures.future(ref) for ref in refs]
    futures[0].add_done_callback(lambda _: waited.append(futures[9].result(DEADLINE)))
    for future in futures[1:9]:
        future.add_done_callback(lambda _: gate.wait())
    for number, ref in enumerate(refs):
        objects.resolve(ref, functools.partial(int, number))
    assert [future.result(DEADLINE) for future in futures] == list(range(10))
    gate.set()
    objects.futures.close(DEADLINE)
    assert waited == [9]


def test_a_callback_of_a_future_that_is_done_is_called_at_once(objects: Objects) -> None:
    ref = objects.ref()
    objects.resolve(ref, lambda: 1)
    future = objects.futures.future(ref)
    future.result(DEADLINE)
    called: list[Any] = []
    future.add_done_callback(called.append)
    assert called == [future]


def test_a_callback_that_raises_is_logged(objects: Objects, caplog: pytest.LogCaptureFixture) -> None:
    ref = objects.ref()
    future = objects.futures.future(ref)
    future.add_done_callback(lambda _: raises())
    objects.resolve(ref, lambda: 1)
    assert future.result(DEADLINE) == 1
    objects.futures.close(DEADLINE)
    assert "exception calling callback" in caplog.text


def test_a_pending_future_is_cancelled_and_everything_that_waits_for_it_sees_that(objects: Objects) -> None:
    ref = objects.ref()
    future = objects.futures.future(ref)
    seen = threading.Thread(target=lambda: concurrent.futures.wait([future], DEADLINE))
    seen.start()
    assert future.cancel()
    assert future.cancel()
    seen.join(DEADLINE)
    assert not seen.is_alive()
    assert list(concurrent.futures.as_completed([future], DEADLINE)) == [future]
    assert not objects.waiters.has_waiters()
    objects.resolve(ref, raises)


def test_a_future_that_waits_for_its_turn_can_be_cancelled_and_one_that_is_read_cannot(objects: Objects) -> None:
    gate, reading = threading.Event(), threading.Event()

    def slow() -> int:
        reading.set()
        gate.wait()
        return 1

    first, second = objects.ref(), objects.ref()
    futures = [objects.futures.future(first), objects.futures.future(second)]
    objects.resolve(first, slow)
    objects.resolve(second, raises)
    assert reading.wait(DEADLINE)
    assert not futures[0].cancel()
    assert futures[1].cancel()
    gate.set()
    assert futures[0].result(DEADLINE) == 1
    assert futures[1].cancelled()


def test_cancelling_and_resolving_at_once_ends_in_one_of_both(objects: Objects) -> None:
    refs = [objects.ref() for _ in range(300)]
    futures = [objects.futures.future(ref) for ref in refs]
    outcomes: list[bool] = []
    thread = threading.Thread(target=lambda: outcomes.extend(future.cancel() for future in futures))
    thread.start()
    for ref in refs:
        objects.resolve(ref, lambda: 1)
    thread.join(DEADLINE)
    assert concurrent.futures.wait(futures, DEADLINE).not_done == set()
    assert [future.cancelled() for future in futures] == outcomes


def test_the_end_is_an_error_of_what_is_pending(objects: Objects) -> None:
    futures = [objects.futures.future(objects.ref()) for _ in range(3)]
    objects.waiters.fail("it ended")
    objects.futures.close(DEADLINE)
    assert [str(future.exception(0)) for future in futures] == ["The node of this process has ended: it ended."] * 3


def test_no_thread_to_be_had_is_an_error_that_says_so(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        error = objects.futures.future(objects.ref()).exception(0)
    assert isinstance(error, AsyncraySystemError)
    assert "can't start new thread" in str(error)
