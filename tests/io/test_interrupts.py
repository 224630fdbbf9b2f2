"""Signal handlers that raise, and the work that they must not tear apart."""

from __future__ import annotations

import ctypes  # noqa: F401 - loaded already in most tests
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncray.io import interrupts
from asyncray.io.interrupts import Deferrable, raised_by_handler, with_signals_deferred
from tests.points import at_every_point, at_point

ROOT = Path(__file__).parents[2]
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

    def inner() -> None:
        signal.raise_signal(number)
        done.append("inner")

    def outer() -> None:
        signal.raise_signal(number)
        with_signals_deferred(inner)
        done.append("outer")

    with pytest.raises(Came):
        with_signals_deferred(outer)
    assert done == ["inner", "outer"]
    assert signal.getsignal(number) is handler
    with pytest.raises(Came):
        signal.raise_signal(number)


def test_several_signals_come_one_after_the_other_and_none_is_lost() -> None:
    came: list[int] = []
    for number in SIGNALS[:3]:
        signal.signal(number, lambda number, frame: came.append(number))

    def work() -> list[int]:
        for number in SIGNALS[:3]:
            signal.raise_signal(number)
        return list(came)

    assert with_signals_deferred(work) == []
    assert came == SIGNALS[:3]


def test_what_is_ignored_or_left_to_the_system_stays_so() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with_signals_deferred(lambda: signal.raise_signal(signal.SIGUSR1))
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


@pytest.mark.parametrize("restarts", [False, True])
def test_interrupted_system_calls_are_restarted_as_before(restarts: bool) -> None:
    """asyncio asks for that (``signal.siginterrupt``), and ``signal.signal`` forgets it."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    assert not interrupts._restarts(signal.SIGUSR1)
    signal.siginterrupt(signal.SIGUSR1, not restarts)
    assert interrupts._restarts(signal.SIGUSR1) == restarts
    during = with_signals_deferred(lambda: interrupts._restarts(signal.SIGUSR1))
    assert [during, interrupts._restarts(signal.SIGUSR1)] == [restarts, restarts]


def test_other_threads_are_not_concerned() -> None:
    found = []

    def work() -> None:
        with_signals_deferred(lambda: found.append(signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_a_storm_of_signals_leaves_handlers_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a signal comes, it raises outside of the work, once, and the handler is there for the next."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # it may come while a finalizer runs
    before = signal.getsignal(signal.SIGINT)
    storming = inside = False
    raised = 0

    def handle(number: int, frame: Any) -> None:
        if storming:  # after the storm an exception would fail the test
            raise Came(number)

    def work() -> None:
        nonlocal inside
        inside = True
        sum(range(500))
        inside = False

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        while raised < 50:
            try:
                storming = True
                with_signals_deferred(work)
                storming = False
            except Came:
                storming = False
                assert not inside
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    with_signals_deferred(lambda: None)  # what the last one left undone is done now
    assert signal.getsignal(signal.SIGALRM) is handle
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_by_another_thread_meanwhile_leaves_the_child_its_handlers() -> None:
    signal.signal(signal.SIGTERM, raise_it)
    pids: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            try:
                signal.raise_signal(signal.SIGTERM)
            except Came:
                os._exit(0)
            os._exit(1)
        pids.append(pid)

    def work() -> None:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    with_signals_deferred(work)
    assert os.waitpid(pids[0], 0)[1] == 0


def test_what_one_signal_left_undone_is_undone_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Deferrable(raise_it)
    signal.signal(signal.SIGUSR1, stand_in)
    monkeypatch.setattr(interrupts, "_replaced", [(signal.SIGUSR1, raise_it, stand_in, False)])
    with_signals_deferred(lambda: None)
    assert signal.getsignal(signal.SIGUSR1) is raise_it


@pytest.mark.parametrize("handler", [raise_it, Deferrable(raise_it)], ids=["any handler", "one of ours"])
def test_a_handler_that_raises_at_any_moment_leaves_all_handlers_as_they_were(handler: Any) -> None:
    handlers = dict.fromkeys(SIGNALS, raise_it) | {signal.SIGALRM: handler}
    for number, other in handlers.items():
        signal.signal(number, other)
    number = 0
    there_are_more = True
    while there_are_more:
        number += 1
        try:
            there_are_more = at_point(
                number, lambda: signal.raise_signal(signal.SIGALRM), lambda: with_signals_deferred(lambda: None)
            )
        except Came:
            pass
        assert {number: signal.getsignal(number) for number in SIGNALS} == handlers
    assert number > 10


def test_a_second_signal_that_is_due_does_not_wait_for_the_next_work() -> None:
    def work() -> None:
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)

    signal.signal(signal.SIGALRM, raise_it)
    signal.signal(signal.SIGUSR1, raise_it)
    with pytest.raises(Came, match=str(int(signal.SIGUSR1))) as caught:
        with_signals_deferred(work)
    assert str(caught.value.__context__) == str(int(signal.SIGALRM))


def test_a_child_keeps_a_handler_that_the_program_has_set_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    later = signal.default_int_handler
    signal.signal(signal.SIGUSR1, later)
    monkeypatch.setattr(interrupts, "_replaced", [(signal.SIGUSR1, raise_it, Deferrable(raise_it), False)])
    interrupts.restore_in_child()  # that is all that differs in a process without threads
    assert signal.getsignal(signal.SIGUSR1) is later
    assert not interrupts._replaced


def test_handlers_may_defer_signals_at_any_moment() -> None:
    """So do those that use the session: while it puts handlers back, others come and do the same."""
    came: list[int] = []

    def handle(number: int, frame: Any) -> None:
        came.append(number)
        with_signals_deferred(lambda: None)

    for number in SIGNALS:
        signal.signal(number, handle)
    at_every_point(
        lambda: signal.raise_signal(signal.SIGALRM),
        lambda: with_signals_deferred(lambda: signal.raise_signal(signal.SIGUSR1)),
    )
    assert came.count(signal.SIGALRM) == came.count(signal.SIGUSR1) - 1
    assert [signal.getsignal(number) for number in SIGNALS] == [handle] * len(SIGNALS)


FIRST_USE = """
import signal, sys
from asyncray.io.interrupts import with_signals_deferred

class Came(Exception):
    pass

def handle(number, frame):
    if storming:
        raise Came

assert "ctypes" not in sys.modules
storming = done = False
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while not done:
    try:
        storming = True
        with_signals_deferred(lambda: None)
        storming, done = False, True
    except Came:
        storming = False
print("done")
"""


def test_a_handler_that_raises_again_and_again_does_not_break_off_the_first_use_for_ever() -> None:
    """That needs a module whose import takes longer than the handler leaves it in peace."""
    done = subprocess.run([sys.executable, "-c", FIRST_USE], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_first_use_can_be_interrupted_at_any_point(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    signal.signal(signal.SIGALRM, raise_it)
    for number in itertools.count(1):
        monkeypatch.setattr(interrupts, "_read_restarts", None)
        monkeypatch.setattr(interrupts, "_loading", None)
        try:
            if not at_point(number, lambda: signal.raise_signal(signal.SIGALRM), interrupts._load_reader_of_restarts):
                break
        except Came:
            pass
        assert interrupts._restarts(signal.SIGUSR1)
    assert number > 5


MIDDLE_OF_AN_IMPORT = """
import _imp, signal, sys
from importlib.abc import MetaPathFinder
from asyncray.io import interrupts

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "module":
            _imp.acquire_lock()  # as importlib does at several places
            try:
                signal.raise_signal(signal.SIGUSR1)
            finally:
                _imp.release_lock()

def handle(number, frame):
    done.append(interrupts.with_signals_deferred(lambda: "done"))

done = []
assert "ctypes" not in sys.modules
signal.signal(signal.SIGUSR1, handle)
signal.siginterrupt(signal.SIGUSR1, False)
sys.meta_path.insert(0, Finder())
try:
    import module
except ImportError:
    print(done)
with interrupts._loading:
    pass
print(interrupts._restarts(signal.SIGINT), interrupts._read_restarts is not None)
"""


def test_the_first_use_by_a_handler_that_interrupts_an_import_does_not_wait_for_a_lock_of_that() -> None:
    program = [sys.executable, "-c", MIDDLE_OF_AN_IMPORT]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("['done']\nFalse True\n", "")


def test_a_python_without_ctypes_restarts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_read_restarts", None)
    monkeypatch.setattr(interrupts, "_loading", None)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    signal.signal(signal.SIGUSR1, raise_it)
    with pytest.raises(Came):
        with_signals_deferred(lambda: signal.raise_signal(signal.SIGUSR1))
    assert signal.getsignal(signal.SIGUSR1) is raise_it


def test_a_handler_in_the_middle_of_that_import_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_read_restarts", None)
    monkeypatch.setattr(sys.modules["ctypes"].__spec__, "_initializing", True, raising=False)
    assert not interrupts._restarts(signal.SIGUSR1)
    monkeypatch.undo()
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    assert interrupts._restarts(signal.SIGUSR1)


class Limit:
    def __call__(self, number: int, frame: Any) -> None:
        raise_it(number, frame)

    def method(self, number: int, frame: Any) -> None:
        raise Came


@pytest.mark.parametrize(
    "handler",
    [raise_it, Limit(), Limit().method, functools.partial(raise_it)],
    ids=["function", "object", "method", "partial"],
)
def test_what_a_handler_raises_is_told_from_other_errors(handler: Any) -> None:
    signal.signal(signal.SIGALRM, handler)
    with pytest.raises(Came) as came:
        signal.raise_signal(signal.SIGALRM)
    assert raised_by_handler(came.value)
    with pytest.raises(ValueError, match="invalid") as other:
        int("x")
    assert not raised_by_handler(other.value)
    assert not raised_by_handler(Came())
