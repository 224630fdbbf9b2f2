"""Each setting is noticed when it changes, and set back: tried in this process."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import locale
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncray.worker.late_settings import LATE
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.process_environment import MarkedOutput, ProcessEnvironment
from asyncray.worker.settings import SETTINGS, functions, is_irreversible
from tests.worker.watching import watching


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    with watching() as watched:
        yield watched


def lower_the_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if soft else 1, hard))


def use_one_cpu() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def warn_of_all() -> None:
    warnings.simplefilter("always")


def standard_output() -> os.stat_result:
    return os.fstat(1)


def close_output() -> None:
    os.close(1)


def replace_output() -> None:
    with open(os.devnull, "w") as file:
        os.dup2(file.fileno(), fd2=1)


def close_all_standard_descriptors() -> None:
    os.closerange(0, 3)


def close_a_file_of_output() -> None:
    os.fdopen(1, "w").close()


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
    "close": (close_output, standard_output),
    "dup2": (replace_output, standard_output),
    "closerange": (close_all_standard_descriptors, standard_output),
    "fdopen": (close_a_file_of_output, standard_output),
    "limits": (lower_the_limit, lambda: resource.getrlimit(resource.RLIMIT_CORE)),
    "nice": (lambda: os.nice(1), lambda: os.getpriority(os.PRIO_PROCESS, 0)),
    "affinity": (use_one_cpu, lambda: os.sched_getaffinity(0)),
    "policy": (
        lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
        lambda: os.sched_getscheduler(0),
    ),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, "POSIX"), lambda: locale.setlocale(locale.LC_ALL)),
    "recursion": (lambda: sys.setrecursionlimit(12345), sys.getrecursionlimit),
    "digits": (lambda: sys.set_int_max_str_digits(1000), sys.get_int_max_str_digits),
    "gc": (lambda: gc.disable(), gc.isenabled),
    "thresholds": (lambda: gc.set_threshold(1, 2, 3), gc.get_threshold),
    "stack size": (lambda: threading.stack_size(1 << 20), threading.stack_size),
    "trace of threads": (lambda: threading.settrace(print), threading.gettrace),
    "filters": (warn_of_all, lambda: list(warnings.filters)),
    "sockets": (lambda: socket.setdefaulttimeout(1.0), socket.getdefaulttimeout),
    "random": (lambda: random.seed(7), random.getstate),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_set_back(name: str, leftovers: Leftovers) -> None:
    change, read = CHANGES[name]
    before = read()
    leftovers.begin()
    change()
    assert leftovers._before
    leftovers.end()
    assert read() == before
    assert not leftovers._before


def test_a_repeated_attempt_sets_back_the_rest(leftovers: Leftovers) -> None:
    """A signal handler may raise between any two steps."""
    before = os.fstat(1), os.fstat(2)
    leftovers.begin()
    os.closerange(0, 3)
    (setting,) = leftovers._before
    copies = leftovers._before[setting]
    os.dup2(copies[1], 1)
    os.close(copies.pop(1))
    leftovers.end()
    assert (os.fstat(1), os.fstat(2)) == before


def test_what_only_looks_or_concerns_others_is_no_change(leftovers: Leftovers) -> None:
    leftovers.begin()
    locale.setlocale(locale.LC_ALL)
    read, write = os.pipe()
    os.dup2(1, read)
    os.close(read)
    os.close(fd=write)
    thread = threading.Thread(target=signal.pthread_sigmask, args=(signal.SIG_BLOCK, [signal.SIGUSR1]))
    thread.start()
    thread.join()
    assert not leftovers._before
    leftovers.end()


def test_the_time_zone_follows_its_variable(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    leftovers.begin()
    os.environ["TZ"] = "EST+05EDT"
    time.tzset()
    assert time.timezone
    leftovers.end()
    assert not time.timezone


def test_faulthandler_writes_where_it_did_and_kills_nothing(leftovers: Leftovers) -> None:
    before = faulthandler.is_enabled()
    try:
        leftovers.begin()
        faulthandler.dump_traceback_later(1000, exit=True)
        faulthandler.register(signal.SIGUSR1)
        faulthandler.disable()
        leftovers.end()
        assert faulthandler.is_enabled()
        assert not bool(faulthandler.unregister(signal.SIGUSR1))  # type: ignore[func-returns-value]  # it was registered
    finally:
        faulthandler.enable() if before else faulthandler.disable()


def test_filters_that_a_module_adds_when_it_is_imported_stay(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "warns_of_resources.py").write_text("import warnings; warnings.simplefilter('always', ResourceWarning)")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        leftovers.begin()
        __import__("warns_of_resources")
        warnings.simplefilter("error", ImportWarning)
        leftovers.end()
        assert warnings.filters[0][:3:2] == ("always", ResourceWarning)
    del sys.modules["warns_of_resources"]


def test_the_format_of_output(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    ProcessEnvironment().mark_output(print)
    leftovers.hold_output()
    output = sys.stdout
    assert isinstance(output, MarkedOutput)
    leftovers.begin()
    output.reconfigure(encoding="utf-16", errors="strict", line_buffering=False, write_through=False)
    leftovers.end()
    assert (output.encoding, output.errors, output.line_buffering) == ("utf-8", "backslashreplace", True)
    assert output.write_through


def test_functions_are_found_wherever_programs_may_call_them() -> None:
    assert functions("signal.alarm signal.signal no_module.at_all os.no_function") == (
        (signal, "alarm"),
        (sys.modules["_signal"], "alarm"),
        (signal, "signal"),
    )


def test_no_function_changes_two_settings() -> None:
    late = [setting for _, make, _ in LATE if (setting := make()) is not None]
    assert len(late) == len(LATE)
    places = [place for setting in (*SETTINGS, *late) for place in setting.functions]
    assert len(places) == len(set(places))
    for owner, name in places:
        with contextlib.suppress(AttributeError):
            assert callable(getattr(owner, name))


def test_a_process_group_is_irreversible_only_for_this_process() -> None:
    assert is_irreversible("setpgid", 0, 5)
    assert is_irreversible("setpgid", os.getpid(), 0)
    assert not is_irreversible("setpgid", os.getpid() + 1, 0)
    assert is_irreversible("chroot", "/")
