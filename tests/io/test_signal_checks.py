"""Signals that interrupt nothing, because another thread of the process gets them, are noticed all the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from asyncray.io import signal_checks
from asyncray.io.signal_checks import LoopChecks
from tests.sleepers import DEADLINE, Came, SignalInSleep


def test_it_ends_the_wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    with SignalInSleep() as coming:
        coming.send()
        with pytest.raises(Came):
            signal_checks.acquire(lock, None)


def test_a_lock_is_acquired_or_not_in_time() -> None:
    def elsewhere() -> None:
        outcomes.append(signal_checks.acquire(lock, 0))
        outcomes.append(signal_checks.acquire(threading.Lock(), None))

    outcomes: list[bool] = []
    lock = threading.Lock()
    assert signal_checks.acquire(lock, None)
    assert not signal_checks.acquire(lock, 0)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(DEADLINE)
    assert outcomes == [False, True]


def test_a_wait_may_be_longer_than_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_checks, "LONGEST_SLEEP", 0.001)
    lock = threading.Lock()
    lock.acquire()
    began = time.monotonic()
    assert not signal_checks.acquire(lock, 0.01)
    assert time.monotonic() - began >= 0.01
    threading.Timer(0.01, lock.release).start()
    assert signal_checks.acquire(lock, None)


def test_only_the_main_thread_looks() -> None:
    def elsewhere() -> None:
        found.append(signal_checks.longest_poll())

    found: list[int | None] = [signal_checks.longest_poll()]
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(DEADLINE)
    assert found == [int(signal_checks.LONGEST_SLEEP * 1000), None]


def test_it_ends_the_wait_of_a_loop() -> None:
    """A loop of asyncio. One of uvloop has a pipe for signals, and wakes."""

    async def wait(coming: SignalInSleep) -> None:
        checks.begin(loop)
        coming.send()
        await loop.create_future()

    checks = LoopChecks(lambda: True)
    loop = asyncio.new_event_loop()
    with SignalInSleep() as coming, pytest.raises(Came):
        loop.run_until_complete(wait(coming))
    loop.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_timer_ends_when_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr(signal_checks, "LONGEST_SLEEP", 0.001)

    async def wait() -> None:
        looked = loop.create_future()

        def anyone_waiting() -> bool:
            if len(answers) == 1:
                looked.set_result(None)
            return answers.pop(0)

        checks._anyone_waiting = anyone_waiting
        for _ in range(2):
            checks.begin(loop)
        await looked
        assert checks._timer is None

    checks = LoopChecks(bool)
    for _ in range(2):  # the second loop begins when the first one has been closed
        answers = [True, True, False]
        loop = new_loop()
        loop.run_until_complete(wait())
        checks.begin(loop)
        loop.close()


def test_a_loop_inside_of_another_takes_the_timer() -> None:
    outer, inner = asyncio.new_event_loop(), asyncio.new_event_loop()
    checks = LoopChecks(lambda: True)
    checks.begin(outer)
    first = checks._timer
    checks.begin(inner)
    assert first is not None
    assert first.cancelled()
    checks._look(outer)
    assert checks._loop is inner
    outer.close()
    inner.close()
