"""Plain and threaded actors, with a real runtime, in this process."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from asyncray.messages import ERROR, FAILED, FAULT, LEAVING
from asyncray.worker.hosting import ActorHost, Ending, ThreadedHost
from tests.worker.stage import Stage, leave_all, results


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start
        if start < 0:
            raise ValueError(start)

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def exit(self) -> None:
        raise SystemExit(4)


def method(stage: Stage, name: str) -> Any:
    return stage.define(name, method=name, name=name)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_calls_run_on_the_instance(concurrency: int) -> None:
    stage = Stage()
    create, add = stage.define(Counter, concurrency=concurrency), method(stage, "add")
    made, call = stage.construct(create, 40), stage.invoke(add, 2)
    assert results(stage.play(create, add, made, call)) == {made[1]: None, call[1]: 42}
    stage.work_loop.let_go()


def test_a_constructor_that_raises_replies_its_error() -> None:
    stage = Stage()
    create = stage.define(Counter)
    made = stage.construct(create, -1)
    assert results(stage.play(create, made)) == {made[1]: ERROR}


def test_terminate_does_what_was_called_before_and_nothing_after() -> None:
    stage = Stage()
    create, add, terminate = stage.define(Counter), method(stage, "add"), method(stage, "__ray_terminate__")
    calls = [stage.invoke(add, 1), stage.invoke(terminate), stage.invoke(add, 1)]
    said = stage.play(create, add, terminate, made := stage.construct(create, 0), *calls, ends=False)
    assert results(said) == {made[1]: None, calls[0][1]: 1}
    assert said[-1] == [LEAVING, "it was terminated by __ray_terminate__()"]
    host = stage.work_loop.host
    assert isinstance(host, ActorHost)
    assert host.ending is Ending.DRAINING


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_method_that_exits_ends_the_process_from_any_thread(concurrency: int) -> None:
    stage = Stage()
    create, leave = stage.define(Counter, concurrency=concurrency), method(stage, "exit")
    with pytest.raises(SystemExit) as raised:
        stage.play(create, leave, stage.construct(create, 0), stage.invoke(leave), ends=False)
    assert raised.value.code == 4
    host = stage.work_loop.host
    assert host is not None
    host.run_shutdown_method()  # waits for the threads
    leave_all()


def allow_threads(monkeypatch: pytest.MonkeyPatch, most: int, name: str) -> None:
    """The system gives so many threads with such a name, and no more."""
    start, count = threading.Thread.start, 0

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal count
        if thread.name.startswith(name):
            count += 1
            if count > most:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)


def test_calls_for_which_there_is_no_thread_fail_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(monkeypatch, 0, "asyncray-method")
    stage = Stage()
    create, add = stage.define(Counter, concurrency=2), method(stage, "add")
    made, call = stage.construct(create, 0), stage.invoke(add, 1)
    said = stage.play(create, add, made, call)
    assert results(said) == {made[1]: None, call[1]: FAULT}
    (failed,) = (message for message in said if message[0] == FAILED)
    name, fields = failed[4]
    assert name == "AsyncraySystemError"
    assert fields["message"].startswith("add could not begin: RuntimeError: can't start new thread: the limit of proc")


def test_threads_that_exist_take_the_calls_for_which_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(monkeypatch, 1, "asyncray-method")
    stage = Stage()
    create, add = stage.define(Counter, concurrency=100), method(stage, "add")
    calls = [stage.invoke(add, 0) for _ in range(20)]
    said = stage.play(create, add, stage.construct(create, 0), *calls)
    assert [results(said)[call[1]] for call in calls] == [0] * len(calls)


def test_a_cancelled_call_whose_method_was_forgotten_before_a_thread_took_it_is_dropped() -> None:
    stage = Stage()
    create, add = stage.define(Counter, concurrency=2), method(stage, "add")
    stage.play(create, stage.construct(create, 0))
    host = stage.work_loop.host
    assert isinstance(host, ThreadedHost)
    host._run_one(stage.invoke(add, 1))
    assert not host.running


def test_the_instance_ends_when_the_host_lets_go() -> None:
    ended = threading.Event()

    class Mortal(Counter):
        def __del__(self) -> None:
            ended.set()

    stage = Stage()
    create, add = stage.define(Counter), method(stage, "add")
    stage.play(create, add, stage.construct(create, 0), stage.invoke(add, 1))
    host = stage.work_loop.host
    assert host is not None
    host.instance = Mortal(0)
    host.method(stage.work_loop.definitions[add[1]])
    host.let_go()
    gc.collect()
    assert ended.is_set()
    assert host.ending is Ending.SILENT
