"""The worker puts back the state that a task changed. The tests run in this process, and remove the wrappers."""

from __future__ import annotations

import decimal
import importlib
import io
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncray.runtime.late_paths import LatePaths
from asyncray.worker import leftovers as leftovers_module
from asyncray.worker.leftovers import _IRREVERSIBLE, Leftovers
from tests.worker.watching import watching


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    with watching() as watched:
        yield watched


def test_signals_and_timers(leftovers: Leftovers) -> None:
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGUSR1)
    leftovers.begin()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda signum, frame: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.alarm(1000)
    signal.setitimer(signal.ITIMER_PROF, 1000)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    leftovers.end()
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGUSR1)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.set_wakeup_fd(-1) == -1
    os.close(read)
    os.close(write)


def test_a_handler_that_raises_meanwhile_interrupts_once(leftovers: Leftovers) -> None:
    def late(signum: int, frame: object) -> None:
        raise TimeoutError("late")

    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    signal.signal(signal.SIGUSR1, late)  # stands for one that is put back after the mask
    leftovers.begin()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.chdir("/")
    signal.raise_signal(signal.SIGUSR1)  # to this thread, as others may not block it: comes when the mask is put back
    with pytest.raises(TimeoutError):
        leftovers.end()
    leftovers.end()
    assert os.getcwd() != "/"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    signal.signal(signal.SIGUSR1, before[0])


def test_directory_and_umask(leftovers: Leftovers, tmp_path: Path) -> None:
    before = os.getcwd(), os.umask(0o22)
    os.umask(before[1])
    leftovers.begin()
    os.chdir("/")
    os.chdir(tmp_path)
    os.umask(0)
    leftovers.end()
    assert (os.getcwd(), os.umask(before[1])) == before


def test_a_directory_that_cannot_be_restored_is_an_error(leftovers: Leftovers, tmp_path: Path) -> None:
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    leftovers.begin()
    os.chdir("/")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        leftovers.end()
    leftovers._running = False
    os.chdir(before)


def test_variables(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "as it was")
    monkeypatch.setenv("DELETED", "as it was")
    leftovers.begin()
    os.environ["KEPT"] = "changed"
    os.environ.update(NEW="new")
    del os.environ["DELETED"]
    leftovers.end()
    assert (os.environ["KEPT"], os.environ["DELETED"], os.environ.get("NEW")) == ("as it was", "as it was", None)


def test_paths_and_streams(leftovers: Leftovers) -> None:
    before = sys.path.copy(), sys.stdout, sys.stderr
    leftovers.begin()
    sys.path.insert(0, "/new")
    del sys.path[1]
    sys.stdout = sys.stderr = io.StringIO()
    leftovers.end()
    assert (sys.path, sys.stdout, sys.stderr) == before


def test_what_came_with_an_import_stays_behind_the_rest(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.path.copy()
    leftovers.begin()
    monkeypatch.setitem(sys.modules, "imported_just_now", sys)
    sys.path.insert(0, "/new")
    os.environ["NEW"] = "new"
    leftovers.end()
    assert sys.path == [*before, "/new"]
    assert os.environ.pop("NEW") == "new"
    sys.path[:] = before


def test_paths_that_came_with_a_value_stay(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the program's: no later task may miss them."""
    late = LatePaths()
    monkeypatch.setattr(leftovers_module, "late_paths", late)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = sys.path.copy()
    leftovers.begin()
    late.adopt({"before": ["/of the program"], "between": [], "after": [], "shadowed": []})
    sys.path.append("/of the task")
    leftovers.end()
    assert sys.path == ["/of the program", *before]
    leftovers.begin()
    assert leftovers.ends_clean()


def test_what_is_changed_outside_of_a_task_stays(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers.begin()
    leftovers.end()
    monkeypatch.setenv("LEASED", "1")
    leftovers.end()  # a task whose arguments could not be read
    leftovers.begin()
    leftovers.end()
    assert os.environ["LEASED"] == "1"


def test_wrapped_functions_can_be_pickled_and_are_known_to_their_module(leftovers: Leftovers) -> None:
    for function in (os.chdir, signal.signal, signal.alarm, np.random.seed):
        assert pickle.loads(pickle.dumps(function)) is function
    assert os.chdir in os.supports_fd


def test_hooks_and_trace_functions(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(*args: Any) -> None:
        pass

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = threading.excepthook, sys.unraisablehook, sys.excepthook, sys.gettrace(), sys.getprofile()
    leftovers.begin()
    threading.excepthook = sys.unraisablehook = sys.excepthook = hook
    sys.setprofile(hook)
    sys.settrace(lambda *args: None)
    leftovers.end()
    assert (threading.excepthook, sys.unraisablehook, sys.excepthook, sys.gettrace(), sys.getprofile()) == before


def test_random_numbers_of_numpy(leftovers: Leftovers) -> None:
    leftovers.begin()
    np.random.seed(7)
    seeded = np.random.random()
    leftovers.end()
    assert np.random.random() != seeded
    leftovers.begin()
    np.random.seed(7)
    leftovers.end()
    leftovers.begin()
    assert np.random.random() != seeded
    leftovers.end()


def test_the_context_of_decimal(leftovers: Leftovers) -> None:
    before = repr(decimal.getcontext())
    leftovers.begin()
    decimal.getcontext().prec = 3
    leftovers.end()
    assert repr(decimal.getcontext()) == before
    leftovers.begin()
    decimal.setcontext(decimal.Context(prec=4, traps=[]))
    thread = threading.Thread(target=lambda: decimal.getcontext())
    thread.start()
    thread.join()
    leftovers.end()
    assert repr(decimal.getcontext()) == before


def test_a_module_sets_the_context_of_decimal_for_all_tasks(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = decimal.getcontext().copy()
    (tmp_path / "precise_money.py").write_text("import decimal; decimal.getcontext().prec = 50")
    monkeypatch.syspath_prepend(tmp_path)
    leftovers.begin()
    importlib.import_module("precise_money")
    leftovers.end()
    leftovers.begin()
    assert decimal.getcontext().prec == 50
    decimal.getcontext().prec = 7
    leftovers.end()
    assert decimal.getcontext().prec == 50
    decimal.setcontext(before)
    del sys.modules["precise_money"]


@pytest.mark.parametrize("module", [np.random, random], ids=["numpy", "random"])
def test_random_numbers_are_seeded_anew_after_the_task_that_loads_them(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    monkeypatch.delitem(sys.modules, module.__name__)
    del leftovers._late[module.__name__]  # as if no task had loaded it when the worker wrapped functions
    leftovers.begin()
    leftovers.end()
    leftovers.begin()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.seed(7)
    seeded = module.random()
    leftovers.end()
    module.seed(7)
    leftovers.begin()
    assert module.random() != seeded
    leftovers.end()


def test_what_cannot_be_undone_is_an_error_each_time(leftovers: Leftovers) -> None:
    leftovers.begin()
    os.setuid(os.getuid())
    os.umask(os.umask(0))
    for _ in range(2):
        with pytest.raises(OSError, match=r"^it has called os.setuid\(\)$"):
            leftovers.end()
    assert leftovers._before.keys() == {_IRREVERSIBLE}


def test_an_attempt_in_vain_changes_nothing(leftovers: Leftovers) -> None:
    leftovers.begin()
    with pytest.raises(FileNotFoundError):
        os.chroot("/no such directory")
    leftovers.end()
