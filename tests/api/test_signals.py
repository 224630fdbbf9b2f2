"""A driver's handling of SIGTERM, and of signals that finalizers lose, without a session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from asyncray.api.signals import DriverSignals

DEADLINE = 5.0


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    handler, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, handler)
    sys.unraisablehook = hook


def of_a_driver() -> DriverSignals:
    return DriverSignals(lambda: None, lambda: True, lambda: False)


def test_both_are_given_back() -> None:
    hook = sys.unraisablehook
    signals = of_a_driver()
    for _ in range(2):
        signals.install()
        signals.install()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert sys.unraisablehook is not hook
        signals.restore()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert sys.unraisablehook is hook


def test_what_the_program_has_set_is_left_alone() -> None:
    def mine(number: int, frame: object) -> None: ...

    def report(unraisable: object) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    signals = of_a_driver()
    signals.install()
    assert signal.getsignal(signal.SIGTERM) is mine
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.unraisablehook = report
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert sys.unraisablehook is report


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handler_that_another_thread_could_not_restore_acts_as_the_default() -> None:
    pid = os.fork()
    if not pid:
        signals = DriverSignals(lambda: None, lambda: False, lambda: False)
        signals.install()
        thread = threading.Thread(target=signals.restore)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_sigterm_in_the_code_of_asyncio_ends_the_loop_at_its_next_step() -> None:
    """Not in between: a callback that has left the queue uncalled would be lost, and its awaiting task would hang."""
    in_asyncio = eval("sys._getframe()", {"sys": sys, "__name__": "asyncio.base_events"})
    signals = of_a_driver()
    steps = []

    async def main() -> None:
        signals.terminate(signal.SIGTERM, in_asyncio)
        steps.append("goes on")
        with pytest.raises(SystemExit):
            signals.terminate(signal.SIGTERM, sys._getframe())
        await asyncio.sleep(DEADLINE)
        steps.append("nothing came")

    with pytest.raises(SystemExit, match=str(int(signal.SIGTERM))):
        asyncio.run(main())
    assert steps == ["goes on"]


class HeldTimer:
    """A timer that fires when the test calls ``end``."""

    def __init__(self, seconds: float, function: Callable[[int], None], arguments: tuple[int]) -> None:
        self.function, self.arguments = function, arguments

    def start(self) -> None:
        timers.append(self)

    def end(self) -> None:
        self.function(*self.arguments)


timers: list[HeldTimer] = []


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Fires the only timer."""
    monkeypatch.setattr(threading, "Timer", HeldTimer)
    yield lambda: timers.pop().end()
    timers.clear()


def lose(number: int) -> None:
    """Sends the signal while a finalizer runs."""

    class Garbage:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    Garbage()


def test_a_sigterm_that_a_finalizer_loses_comes_again(timer: Callable[[], None]) -> None:
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGTERM)
    with pytest.raises(SystemExit, match=str(int(signal.SIGTERM))):
        timer()
    signals.restore()


def test_a_lost_sigterm_that_would_come_after_the_session_is_raised_by_its_end(timer: Callable[[], None]) -> None:
    """The system's default action would end the program without its exit handlers."""
    came: list[int] = []
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGTERM)
    with pytest.raises(SystemExit, match=str(int(signal.SIGTERM))):
        signals.restore()
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    timer()
    assert came == []


def test_a_lost_interrupt_comes_also_after_the_session(timer: Callable[[], None]) -> None:
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGINT)
    signals.restore()
    with pytest.raises(KeyboardInterrupt):
        timer()


def test_a_lost_sigterm_does_not_come_again_where_it_would_be_lost_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer may fire while Python still runs the hook in the finalizer: then the signal comes later."""

    def pass_at_once(timer: HeldTimer) -> None:
        timers.append(timer)
        if len(timers) == 1:
            timer.end()

    monkeypatch.setattr(threading, "Timer", HeldTimer)
    monkeypatch.setattr(HeldTimer, "start", pass_at_once)
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGTERM)
    _, second = timers
    with pytest.raises(SystemExit):
        second.end()
    signals.restore()
    timers.clear()


def test_a_lost_sigterm_is_reported_where_no_thread_can_send_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(timer: HeldTimer) -> None:
        raise RuntimeError("can't start new thread")

    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    monkeypatch.setattr(threading, "Timer", HeldTimer)
    monkeypatch.setattr(HeldTimer, "start", refuse)
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGTERM)
    assert reported == [SystemExit]
    signals.restore()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_sigterm_that_a_process_has_lost_is_not_for_its_children(timer: Callable[[], None]) -> None:
    signals = of_a_driver()
    signals.install()
    lose(signal.SIGTERM)
    pid = os.fork()
    if not pid:
        signals.restore_in_child()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with pytest.raises(SystemExit):
        signals.restore()
