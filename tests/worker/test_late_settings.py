"""Settings of modules that a worker may not have loaded, tried in this process."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from asyncray.worker.late_settings import LATE
from asyncray.worker.leftovers import Leftovers
from tests.worker.watching import watching


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    with watching() as watched:
        yield watched


@contextlib.contextmanager
def task(leftovers: Leftovers) -> Iterator[None]:
    leftovers.begin()
    yield
    leftovers.end()


def test_the_start_method_of_multiprocessing(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)
    for method in ("spawn", "forkserver"):
        leftovers.begin()
        multiprocessing.set_start_method(method)
        leftovers.end()


def test_the_start_method_that_was_set_right_after_loading(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)
    with monkeypatch.context() as before:
        before.delitem(sys.modules, "multiprocessing")
        leftovers.begin()
        leftovers.end()
        leftovers.begin()
    multiprocessing.set_start_method("spawn")  # by the task that has loaded it
    leftovers.end()
    leftovers.begin()
    multiprocessing.set_start_method("forkserver")
    leftovers.end()


def test_a_module_that_is_loading_is_watched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, make, _ in LATE:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        assert make() is None


def test_errors_and_formats_of_numpy(leftovers: Leftovers) -> None:
    before = np.geterr(), np.geterrcall(), np.get_printoptions()
    with task(leftovers):
        np.seterr(all="raise")
        np.seterrcall(print)
    assert (np.geterr(), np.geterrcall()) == before[:2]
    with task(leftovers):
        np.set_printoptions(precision=2, formatter={"float": str})
    assert np.get_printoptions() == before[2]


def test_a_module_sets_the_errors_of_numpy_for_all_tasks(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "strict_sums.py").write_text("import numpy; numpy.seterr(over='raise')")
    monkeypatch.syspath_prepend(tmp_path)
    with np.errstate():
        with task(leftovers):
            __import__("strict_sums")
        assert np.geterr()["over"] == "raise"
    del sys.modules["strict_sums"]


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This thread has had no event loop."""
    monkeypatch.setattr(asyncio.events, "_event_loop_policy", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of get_event_loop, where it makes a loop
        yield


def in_own_loop(*, close: bool) -> asyncio.AbstractEventLoop:
    loop = asyncio.get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    if close:
        loop.close()
    return loop


@pytest.mark.usefixtures("no_loop")
def test_each_task_can_make_an_event_loop(leftovers: Leftovers) -> None:
    for _ in range(2):
        with task(leftovers):
            in_own_loop(close=True)
        with task(leftovers):
            asyncio.run(asyncio.sleep(0))


@pytest.mark.usefixtures("no_loop")
def test_an_event_loop_that_is_open_stays(leftovers: Leftovers) -> None:
    with task(leftovers):
        kept = in_own_loop(close=False)
    with task(leftovers):
        asyncio.run(asyncio.sleep(0))
    with task(leftovers):
        assert in_own_loop(close=True) is kept
    with task(leftovers):
        assert in_own_loop(close=True) is not kept


@pytest.mark.usefixtures("no_loop")
def test_a_policy_without_loops_of_threads_is_left_alone(leftovers: Leftovers) -> None:
    asyncio.set_event_loop_policy(Policy())  # type: ignore[abstract]  # the rest is not called
    with task(leftovers):
        asyncio.run(asyncio.sleep(0))


class Policy(asyncio.AbstractEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop()

    def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        pass
