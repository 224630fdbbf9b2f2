"""Puts in an event loop while the store is full."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.exceptions import ObjectStoreFullError
from asyncray.io.segments import Segment
from asyncray.messages import (
    ABANDON,
    ALLOCATE,
    ALLOCATED,
    FAULT,
    PROMISE,
    PUT,
    REPLY_FAULT,
    SEAL,
    SHARED,
    STORE_FULL,
    UNRESOLVED,
    VALUE,
)
from asyncray.runtime import late_puts
from asyncray.runtime.late_puts import LatePuts
from asyncray.runtime.runtime import Runtime
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started


class Interrupted(Exception):
    """A signal handler raises it."""


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create(f"asyncray-test-{os.getpid()}", 1 << 20)
    yield segment
    segment.unlink()
    segment.close()


@pytest.fixture
def session() -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as session:
        yield session


def put_in_loop(runtime: Runtime, daemon: DaemonSide, value: object) -> tuple[Any, int]:
    """The ref, and the number of the request for room, which the daemon has answered with STORE_FULL."""
    number = 0

    def answer() -> None:
        nonlocal number
        number = daemon.next(ALLOCATE)[1]
        daemon.send((STORE_FULL, number))

    async def main() -> Any:
        return runtime.objects.put(value)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ref = asyncio.run(main())
    finally:
        thread.join()
    return ref, number


def test_it_returns_at_once_and_the_value_follows(session: Any, segment: Segment) -> None:
    runtime, daemon = session
    value = bytearray(b"x" * 200_000)
    ref, number = put_in_loop(runtime, daemon, value)
    value[:] = b"y" * 200_000  # the caller may do so
    assert daemon.next(PROMISE)[1] == ref.binary()
    assert ref._local.kind == UNRESOLVED
    daemon.send((ALLOCATED, number, segment.name, 0, True))
    sealed = daemon.next(SEAL)
    assert sealed[1:4] == [ref.binary(), segment.name, 0]
    size = len(value) + 200
    daemon.send((VALUE, ref.binary(), SHARED, [segment.name, 0, size]))
    assert runtime.objects.get([ref._local], DEADLINE) == [bytearray(b"x" * 200_000)]
    runtime.objects._late_puts.drain(DEADLINE)
    assert runtime.objects._late_puts._bytes == 0


def test_an_interrupt_behind_the_promise_does_not_break_it(
    session: Any, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, daemon = session
    add = LatePuts.add

    def add_and_interrupt(*args: Any) -> None:
        add(*args)
        raise Interrupted

    monkeypatch.setattr(LatePuts, "add", add_and_interrupt)
    with pytest.raises(Interrupted):
        put_in_loop(runtime, daemon, bytes(200_000))
    promised = daemon.next(PROMISE)[1]
    (number,) = runtime.values.reservations.asked
    daemon.send((ALLOCATED, number, segment.name, 0, True))
    assert daemon.next(SEAL)[1:4] == [promised, segment.name, 0]
    runtime.objects._late_puts.drain(DEADLINE)
    assert runtime.objects._late_puts._bytes == 0


def test_no_room_in_time_is_the_error_of_the_object(session: Any) -> None:
    runtime, daemon = session
    ref, number = put_in_loop(runtime, daemon, bytes(200_000))
    daemon.send((REPLY_FAULT, number, "ObjectStoreFullError", {"message": "full"}))
    assert daemon.next(PUT)[1:4] == [ref.binary(), FAULT, ("ObjectStoreFullError", {"message": "full"})]
    assert runtime.values.reservations.asked == {}
    daemon.send((VALUE, ref.binary(), FAULT, ["ObjectStoreFullError", {"message": "full"}]))
    with pytest.raises(ObjectStoreFullError, match="full"):
        runtime.objects.get([ref._local], DEADLINE)


def test_a_write_that_fails_is_the_error_of_the_object(session: Any) -> None:
    runtime, daemon = session
    ref, number = put_in_loop(runtime, daemon, bytes(200_000))
    daemon.send((ALLOCATED, number, "asyncray-no-such-segment", 0, True))
    assert daemon.next(ABANDON)[1:] == ["asyncray-no-such-segment", 0]
    assert daemon.next(PUT)[1:3] == [ref.binary(), FAULT]


def test_beyond_the_bound_it_waits_in_the_thread(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, daemon = session
    monkeypatch.setattr(late_puts, "MOST_BYTES", 300_000)
    put_in_loop(runtime, daemon, bytes(200_000))
    puts = runtime.objects._late_puts
    assert not puts.accept(200_000)
    assert puts.accept(50_000)


def test_the_end_of_the_session_forgets_them(session: Any) -> None:
    runtime, daemon = session
    ref, _ = put_in_loop(runtime, daemon, bytes(200_000))
    runtime.stop(DEADLINE)
    assert runtime.objects._late_puts._bytes == 0
    assert runtime.values.reservations.asked == {}
    assert runtime.objects.is_done(ref._local)
