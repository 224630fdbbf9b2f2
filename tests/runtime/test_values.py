"""Values in messages and in shared memory."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.config import INLINE_LIMIT
from asyncray.exceptions import AsyncraySystemError, ObjectLostError
from asyncray.io.segments import Segment
from asyncray.messages import ABANDON, ALLOCATE, ALLOCATED, BUFFERS, ERROR, FAULT, PLAIN, SHARED, STORE_FULL
from asyncray.runtime.errors import dump_task_error
from asyncray.runtime.references import Pin
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import serialize, serialize_in_band
from asyncray.runtime.values import inline, nested_ids, own_buffers
from tests.runtime.daemon_side import DaemonSide, started


@pytest.fixture
def session() -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as session:
        yield session


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create(f"asyncray-test-{os.getpid()}", 1 << 20)
    yield segment
    segment.unlink()
    segment.close()


def test_small_values_are_copied_into_the_message(session: Any) -> None:
    runtime, _ = session
    array = np.arange(5)
    kind, payload = inline(serialize(array))
    array[:] = 0
    assert kind == BUFFERS
    assert runtime.values.load(kind, payload, None).tolist() == [0, 1, 2, 3, 4]
    assert inline(serialize("text"))[0] == PLAIN
    assert nested_ids(serialize("text")) is None


def test_what_cannot_be_loaded_is_an_error_that_says_why(session: Any) -> None:
    runtime, _ = session
    with pytest.raises(AsyncraySystemError, match="could not be deserialized: UnpicklingError"):
        runtime.values.load(PLAIN, b"nonsense", None)
    with pytest.raises(ObjectLostError, match="lost"):
        runtime.values.load(FAULT, ["ObjectLostError", {"object_id": "", "message": "lost"}], None)


class TimeIsUp(Exception):
    """As of a time limit, which may be any exception."""


class Alarmed:
    """The alarm comes while it is pickled, or unpickled."""

    def __reduce__(self) -> Any:
        if signal.getsignal(signal.SIGALRM) is end_of_time:
            signal.raise_signal(signal.SIGALRM)
        return signal.raise_signal, (signal.SIGALRM,)


def end_of_time(number: int, frame: Any) -> None:
    raise TimeIsUp


@pytest.fixture
def alarm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_what_a_signal_handler_raises_meanwhile_is_no_error_of_the_value(session: Any) -> None:
    runtime, _ = session
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    kind, payload = inline(serialize(Alarmed()))
    error = dump_task_error(
        KeyError(Alarmed()), function_name="f", pid=1, ip="", dumps=lambda value: serialize_in_band(value).pickled
    )
    signal.signal(signal.SIGALRM, end_of_time)
    with pytest.raises(TimeIsUp):
        serialize([Alarmed()])
    with pytest.raises(TimeIsUp):
        runtime.values.load(kind, payload, None)
    with pytest.raises(TimeIsUp):
        runtime.values.load(ERROR, error, None)


def test_a_large_value_goes_through_shared_memory(session: Any, segment: Segment) -> None:
    runtime, daemon = session
    array = np.arange(INLINE_LIMIT)
    value = serialize(array)
    assert runtime.values.is_large(value)

    def grant() -> None:
        daemon.send((ALLOCATED, daemon.next(ALLOCATE)[1], segment.name, 4096, True))

    thread = threading.Thread(target=grant)
    thread.start()
    reservation = runtime.values.store(value)
    thread.join()
    loaded = runtime.values.load(SHARED, reservation.place, Pin(b"o" * 26, 1))
    assert (loaded == array).all()
    assert not loaded.flags.writeable
    reservation.abandon()
    assert daemon.next(ABANDON)[1:] == [segment.name, 4096]


def test_in_a_loop_the_copy_is_stored_and_cancelling_gives_the_room_back(session: Any, segment: Segment) -> None:
    runtime, daemon = session
    array = np.zeros(INLINE_LIMIT, dtype=np.uint8)
    numbers: list[int] = []

    def full() -> None:
        numbers.append(daemon.next(ALLOCATE)[1])
        daemon.send((STORE_FULL, numbers[-1]))

    async def main(*, cancel: bool) -> Any:
        thread = threading.Thread(target=full)
        thread.start()
        storing = asyncio.create_task(runtime.values.store_async(serialize([array, array.copy()])))
        await asyncio.sleep(0)
        thread.join()
        array[:] = 1
        if cancel:
            storing.cancel()
        daemon.send((ALLOCATED, numbers[-1], segment.name, 0, True))
        await asyncio.wait([storing])
        return None if storing.cancelled() else storing.result().place

    place = asyncio.run(main(cancel=False))
    assert not runtime.values.load(SHARED, place, Pin(b"o" * 26, 1))[0].any()
    assert asyncio.run(main(cancel=True)) is None
    assert daemon.next(ABANDON)[1:] == [segment.name, 0]
    assert runtime.values.reservations.asked == {}


def test_only_buffers_that_may_change_are_copied() -> None:
    value = serialize([np.zeros(1000), bytes(1000)])
    copy = own_buffers(value)
    assert [type(buffer.obj) for buffer in copy.buffers] == [bytes] * len(value.buffers)
    again = own_buffers(copy)
    assert all(one is other for one, other in zip(copy.buffers, again.buffers, strict=True))
