"""Signal handlers that raise, and the work that they must not tear apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.io.interrupts import Deferrable, DeferredInterrupt, uninterrupted

SIGNALS = [signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


class Came(Exception):
    pass


def raise_it(number: int, frame: Any) -> None:
    raise Came(number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("handler", [raise_it, Deferrable(raise_it)], ids=["any handler", "one of ours"])
def test_a_handler_waits_for_the_end_of_the_work(number: int, handler: Any) -> None:
    signal.signal(number, handler)
    done = []

    def work() -> None:
        with DeferredInterrupt():
            signal.raise_signal(number)
            with DeferredInterrupt():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Came):
        work()
    assert done == ["inner", "outer"]
    assert signal.getsignal(number) is handler
    with pytest.raises(Came):
        signal.raise_signal(number)


def test_several_signals_come_one_after_the_other_and_none_is_lost() -> None:
    came: list[int] = []
    for number in SIGNALS[:3]:
        signal.signal(number, lambda number, frame: came.append(number))
    with DeferredInterrupt():
        for number in SIGNALS[:3]:
            signal.raise_signal(number)
        assert came == []
    assert came == SIGNALS[:3]


def test_what_is_ignored_or_left_to_the_system_stays_so() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with DeferredInterrupt():
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_other_threads_are_not_concerned() -> None:
    found = []

    def work() -> None:
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_a_storm_of_signals_leaves_handlers_as_they_were() -> None:
    """Whenever a signal comes, it raises outside of the work, once, and the handler is there for the next."""
    signal.signal(signal.SIGALRM, raise_it)
    inside = False
    raised = 0
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        while raised < 50:
            try:
                with DeferredInterrupt():
                    inside = True
                    sum(range(500))
                    inside = False
            except Came:
                assert not inside
                raised += 1
    except Came:
        pass  # it came in this test's own code: that is no deferred one
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert signal.getsignal(signal.SIGALRM) is raise_it
