"""What a driver does with SIGTERM and with interrupts that finalizers lose, without a session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator

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
    """Not in between: a callback that is off the queue and not called would be lost, and what awaits it would hang."""
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
