"""The state of a forked child: it has none of our descriptors, all of its own, and the caller's signals."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the functions that the hooks call
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncray.io import forking, interrupts
from asyncray.io.interrupts import with_signals_deferred
from tests.points import at_point

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def registrations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(forking, "_steps", list(forking._steps))
    before = dict(forking._registered)
    yield
    assert forking._registered == before
    assert not forking.lock.held_by_this_thread()


def in_a_child(check: Callable[[], bool]) -> bool:
    """Forks; what the check says there."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = not check()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_child_closes_what_is_registered_and_a_grandchild_nothing() -> None:
    def child() -> bool:
        if is_open(mine):
            return False
        again = os.open(os.devnull, os.O_RDONLY)  # gets the number
        return again == mine and in_a_child(lambda: is_open(again))

    with forking.lock:
        mine = forking.own(os.memfd_create("mine"))
    inode = os.fstat(mine).st_ino
    assert in_a_child(child)
    forking.close(mine)
    # libuv opens a pipe in each child, which may get the number.
    assert in_a_child(lambda: not is_open(mine) or os.fstat(mine).st_ino != inode)


def test_a_child_goes_on_where_a_signal_handler_has_forked_while_its_thread_held_the_lock() -> None:
    def leave_the_block() -> bool:
        blocks.close()
        return forking.lock.acquire(blocking=False)

    with contextlib.ExitStack() as blocks:
        blocks.enter_context(forking.lock)
        assert in_a_child(leave_the_block)


def test_a_number_that_belongs_to_another_file_by_now_is_left_alone() -> None:
    with forking.lock:
        number = forking.own(os.open(os.devnull, os.O_RDONLY))
    os.close(number)  # behind our back, as programs do that become daemons
    other = os.open("/", os.O_RDONLY)
    assert other == number
    assert in_a_child(lambda: is_open(other))
    forking.close(other)


def test_a_step_that_fails_does_not_keep_the_others_from_their_work(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = []
    forking.in_child(lambda: done.append(1))
    forking.in_child(lambda: done[2])
    monkeypatch.setattr(sys, "excepthook", lambda *exc_info: done[2])  # the hook raises an error, too
    forking.in_child(lambda: done.append(2))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert in_a_child(lambda: done == [1, 2] and signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked)
    assert "IndexError" in capfd.readouterr().err
    assert not done


def test_each_thread_keeps_its_own_signal_mask() -> None:
    def fork_often(number: int) -> None:
        mask = {number}
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for _ in range(20):
            found.append(in_a_child(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask))
            found.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask)

    found: list[bool] = []
    threads = [threading.Thread(target=fork_often, args=(number,)) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(found)


def test_a_fork_waits_until_what_another_thread_makes_is_registered() -> None:
    made = threading.Event()
    forks = threading.Event()
    numbers: list[int] = []

    def make() -> None:
        with forking.lock:
            numbers.append(os.open(os.devnull, os.O_RDONLY))
            made.set()
            forks.wait()
            forking.own(numbers[0])

    thread = threading.Thread(target=make)
    thread.start()
    made.wait()
    threading.Timer(0.01, forks.set).start()
    assert in_a_child(lambda: not is_open(numbers[0]))
    thread.join()
    forking.close(numbers[0])


@pytest.mark.parametrize("name", ["SIGALRM", "SIGWINCH"])
def test_a_signal_handler_that_raises_in_the_hooks_leaves_no_lock_and_no_mask(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reports what hooks raise, and forks all the same."""

    class Came(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        raise Came

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    came = signal.Signals[name]
    before = signal.signal(came, handle)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    parent = os.getpid()

    def raise_signal() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {came})
        signal.raise_signal(came)

    def come() -> None:
        """Raises the signal in another thread, because the hooks block signals. The main thread runs the handler."""
        if os.getpid() == parent:
            threads.append(threading.Thread(target=raise_signal))
            threads[-1].start()
            threads[-1].join()

    def fork() -> None:
        try:
            pid = os.fork()
        except Came:
            return
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

    threads: list[threading.Thread] = []
    number = 0
    while at_point(number := number + 1, come, fork):
        assert not forking.lock.held_by_this_thread()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        assert signal.getsignal(came) is handle
        assert not interrupts._deferring
        assert not forking._forks.stack
    signal.signal(came, before)
    for thread in threads:
        thread.join()
    assert number > 10


def test_a_handler_that_raises_where_signals_are_blocked_leaves_no_lock_and_no_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The call that blocks signals runs the handler of a signal that asyncray does not defer."""
    unraisable: list[object] = []
    block = _signal.pthread_sigmask

    def interrupted(how: int, signals: tuple[int, ...]) -> set[int]:
        mask: set[int] = block(how, signals)
        if signals and how == signal.SIG_BLOCK:
            raise KeyboardInterrupt
        return mask

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(sys, "unraisablehook", lambda report: unraisable.append(report.exc_type))
    monkeypatch.setattr(_signal, "pthread_sigmask", interrupted)
    assert in_a_child(lambda: block(signal.SIG_BLOCK, ()) == mask)
    monkeypatch.undo()
    assert unraisable == [KeyboardInterrupt]
    assert not forking.lock.held_by_this_thread()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert not forking._forks.stack


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGWINCH"])
def test_a_fork_in_the_middle_of_work_with_signals_deferred_does_not_end_that(name: str) -> None:
    """The fork defers those of other signals, too, until that work ends."""

    def handle(number: int, frame: object) -> None:
        done.append("handler")

    def work() -> None:
        assert in_a_child(lambda: signal.getsignal(came) is handle)
        signal.raise_signal(came)
        done.append("work")

    done: list[str] = []
    came = signal.Signals[name]
    before = signal.signal(came, handle)
    with_signals_deferred(work)
    assert done == ["work", "handler"]
    assert signal.signal(came, before) is handle


def test_what_is_started_with_code_of_its_own_before_it_runs_forks_as_ever() -> None:
    with forking.lock:
        mine = forking.own(os.open(os.devnull, os.O_RDONLY))
    done = subprocess.run(["true"], preexec_fn=lambda: os.fstat(0), check=False)
    assert done.returncode == 0
    assert is_open(mine)
    forking.close(mine)


def test_a_process_with_nothing_registered_may_fork_without_the_steps_and_its_child_forks_with_them() -> None:
    done: list[str] = []
    forking.in_child(lambda: done.append("step"))
    with forking.lock:
        mine = forking.own(os.memfd_create("mine"))
    pid = forking.fork_without_steps()
    if not pid:
        code = 1
        try:
            code = not (is_open(mine) and not done and in_a_child(lambda: done == ["step"] and not is_open(mine)))
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert in_a_child(lambda: done == ["step"])
    forking.close(mine)


def test_the_next_fork_takes_the_steps_where_one_without_them_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise BlockingIOError

    done: list[str] = []
    forking.in_child(lambda: done.append("step"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", fail)
        with pytest.raises(BlockingIOError):
            forking.fork_without_steps()
    assert in_a_child(lambda: done == ["step"])


def test_no_thread_forks_while_a_directory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def listdir(directory: str) -> list[str]:
        held.append(forking.lock.held_by_this_thread())
        return ["name"]

    monkeypatch.setattr(os, "listdir", listdir)
    assert forking.names_in("anywhere") == ["name"]
    assert held == [True]


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Thread]]:
    """A thread in the middle of an import, and what lets it go on."""
    begun, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "begun_and_goes_on", (begun, goes_on), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    code = "import sys; begun, goes_on = sys.begun_and_goes_on; begun.set(); goes_on.wait()"
    (tmp_path / "asyncray_slow.py").write_text(code)
    thread = threading.Thread(target=importlib.import_module, args=("asyncray_slow",))
    thread.start()
    assert begun.wait(30)
    yield goes_on, thread
    goes_on.set()
    thread.join()
    del sys.modules["asyncray_slow"]


def test_a_fork_waits_for_the_import_of_another_thread(
    importing: tuple[threading.Event, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, thread = importing

    def wait(seconds: float) -> None:
        goes_on.set()
        thread.join()

    def imports() -> bool:
        signal.alarm(10)  # it would wait for ever
        return importlib.import_module("asyncray_slow") is sys.modules["asyncray_slow"]

    monkeypatch.setattr(forking, "_sleep", wait)
    assert in_a_child(imports)


@pytest.mark.usefixtures("importing")
def test_a_fork_does_not_wait_for_ever_for_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(forking, "_sleep", waits.append)
    assert in_a_child(lambda: True)
    assert len(waits) == forking._MOST_WAITS
