"""``Executor``: what users of ``concurrent.futures`` rely on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.exceptions import LocalNodeDiedError, NotStartedError, TaskError, WorkerCrashedError
from asyncray.util import Executor
from tests.system import actors
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0

Gate: Any = actors.Gate
Log: Any = actors.Log


@pytest.fixture
def executor(node: object) -> Iterator[Executor]:
    with Executor() as executor:
        yield executor


@pytest.fixture
def one_at_a_time(node: object) -> Iterator[Executor]:
    with Executor(1) as executor:
        yield executor


def test_a_call_and_its_keywords(executor: Executor) -> None:
    assert executor.submit(pow, 2, 8).result(DEADLINE) == 256
    assert executor.submit(plain.capture, 1, self=2, fn=3).result(DEADLINE) == ((1,), {"self": 2, "fn": 3})


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: -x, -3),
        (functools.partial(pow, 2), 8),
        (plain.Adder(4), 7),
        (plain.Adder(4).add, 7),
        (plain.Adder, "Adder(3)"),
        (str, "3"),
        (math.factorial, 6),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_all_kinds_of_callables(executor: Executor, function: Callable[[int], Any], expected: object) -> None:
    result = executor.submit(function, 3).result(DEADLINE)
    assert (str(result) if isinstance(result, plain.Adder) else result) == expected
    in_chunks = list(executor.map(function, [3, 3, 3], chunksize=2))
    assert [str(each) if isinstance(each, plain.Adder) else each for each in in_chunks] == [expected] * 3


def test_a_callable_with_a_state_travels_with_each_call(executor: Executor) -> None:
    adder = plain.Adder(1)
    assert executor.submit(adder, 1).result(DEADLINE) == 2
    adder.amount = 10
    assert executor.submit(adder, 1).result(DEADLINE) == 11


def test_a_ref_is_replaced_by_its_value(executor: Executor) -> None:
    future = executor.submit(math.isqrt, ray.put(64))  # type: ignore[arg-type]  # a ref for its value
    assert future.result(DEADLINE) == 8


def test_an_exception_keeps_its_class_and_shows_where_it_was_raised(executor: Executor) -> None:
    error = executor.submit(plain.divide, 1, 0).exception(DEADLINE)
    assert type(error) is ZeroDivisionError
    text = "".join(traceback.format_exception(error))
    assert "plain.py" in text
    assert "return a / b" in text


def test_arguments_that_do_not_fit_are_an_error_of_the_call(executor: Executor) -> None:
    assert isinstance(executor.submit(plain.divide, 1).exception(DEADLINE), TypeError)  # type: ignore[call-arg]
    error = executor.submit(plain.capture, threading.Lock()).exception(DEADLINE)
    assert isinstance(error, TypeError)
    assert "lock" in str(error)
    assert executor.submit(plain.divide, 1, 1).result(DEADLINE) == 1


def test_a_result_that_cannot_travel_is_an_error_of_the_call(executor: Executor) -> None:
    for function in (plain.generate, plain.wait_for_nothing):
        assert isinstance(executor.submit(function).exception(DEADLINE), TypeError)


def test_a_call_that_waits_can_be_cancelled_and_one_that_runs_cannot(one_at_a_time: Executor) -> None:
    gate, log = Gate.remote(), Log.remote()
    running = one_at_a_time.submit(plain.pass_gate, gate, "first")
    waiting = one_at_a_time.submit(plain.add_to, log, "second")
    assert waiting.cancel()
    assert waiting.cancel()
    assert not running.cancel()
    assert running.running()
    done, _ = concurrent.futures.wait([waiting], timeout=DEADLINE)
    assert done == {waiting}
    gate.open.remote()
    assert running.result(DEADLINE) == "first"
    assert one_at_a_time.submit(plain.add_to, log, "third").result(DEADLINE) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(DEADLINE)


def test_no_more_than_max_workers_are_under_way(node: object) -> None:
    gate, log = Gate.remote(), Log.remote()
    with Executor(1, num_cpus=0) as executor:
        first = executor.submit(plain.pass_gate, gate, "first")
        rest = [executor.submit(plain.add_to, log, i) for i in range(3)]
        assert ray.get(log.all.remote()) == []
        assert [future.running() for future in rest] == [False] * 3
        gate.open.remote()
        assert first.result(DEADLINE) == "first"
        assert [future.result(DEADLINE) for future in rest] == [1, 2, 3]


@pytest.mark.parametrize("number", [0, -1])
def test_bad_arguments_of_the_executor(number: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(number)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Executor(initializer=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid option keyword max_worker"):
        Executor(max_worker=1)  # type: ignore[call-arg]


def test_a_map_in_order_and_in_chunks(executor: Executor) -> None:
    expected = list(map(pow, range(40), range(40)))
    for size in (1, 6, 40, 50):
        assert list(executor.map(pow, range(40), range(40), chunksize=size)) == expected
    assert list(executor.map(pow, range(3), itertools.count())) == [1, 1, 4]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(pow, [1], [1], chunksize=-1)
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(pow, [1], [1], buffersize=0)


def test_a_map_with_a_buffer_reads_no_further(executor: Executor) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = executor.map(str, numbers(), buffersize=3)
    assert read == [0, 1, 2]
    assert next(results) == "0"
    assert read == [0, 1, 2, 3]
    in_chunks = executor.map(str, numbers(), chunksize=2, buffersize=2)
    assert [next(in_chunks) for _ in range(5)] == ["0", "1", "2", "3", "4"]


def test_an_error_ends_a_map_after_the_results_before_it(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_map_that_ends_early_cancels_what_waits(one_at_a_time: Executor) -> None:
    gate, log = Gate.remote(), Log.remote()
    results = one_at_a_time.map(plain.pass_gate_or_add, [None, gate, log, log], timeout=DEADLINE)
    assert next(results) is None
    results.close()  # type: ignore[attr-defined]  # a generator
    gate.open.remote()
    one_at_a_time.shutdown()
    assert ray.get(log.all.remote()) == []


def test_a_result_that_does_not_come_in_time(one_at_a_time: Executor) -> None:
    gate = Gate.remote()
    results = one_at_a_time.map(plain.pass_gate_or_add, [None, gate], timeout=0)
    with pytest.raises(TimeoutError):
        list(results)
    gate.open.remote()


def test_nothing_is_taken_after_shutdown_and_what_was_taken_is_done(node: object) -> None:
    executor = Executor(1)
    futures = [executor.submit(str, i) for i in range(20)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == [str(i) for i in range(20)]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(str, 1)
    executor.shutdown()


def test_shutdown_can_cancel_what_waits(node: object) -> None:
    gate = Gate.remote()
    executor = Executor(1)
    futures = [executor.submit(plain.pass_gate, gate, i) for i in range(4)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in futures] == [False, True, True, True]
    gate.open.remote()
    executor.shutdown()
    assert futures[0].result(0) == 0


def test_an_initializer_runs_once_in_each_process(node: object) -> None:
    log = Log.remote()
    with Executor(initializer=plain.add_pid_to, initargs=(log,)) as executor:
        pids = set(executor.map(plain.pid, range(20)))
        pids |= set(executor.map(plain.Pid(), range(20), chunksize=3))
    assert sorted(ray.get(log.all.remote())) == sorted(pids)


def test_an_initializer_that_fails_breaks_the_executor(node: object) -> None:
    with Executor(1, initializer=plain.divide, initargs=(1, 0)) as executor:
        futures = [executor.submit(str, i) for i in range(5)]
        for future in futures:
            error = future.exception(DEADLINE)
            assert isinstance(error, concurrent.futures.BrokenExecutor)
            assert "ZeroDivisionError" in str(error)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="ZeroDivisionError"):
            executor.submit(str, 1)


def test_a_worker_that_dies_costs_its_call_alone(executor: Executor) -> None:
    error = executor.submit(os._exit, 3).exception(DEADLINE)
    assert isinstance(error, WorkerCrashedError)
    assert executor.submit(pow, 2, 2).result(DEADLINE) == 4


def test_the_end_of_the_session_ends_all_calls(own_node: object) -> None:
    executor = Executor(1)
    futures = [executor.submit(plain.wait_for_ever) for _ in range(3)]
    ray.shutdown()
    errors = [future.exception(DEADLINE) for future in futures]
    assert isinstance(errors[0], LocalNodeDiedError)
    assert all(isinstance(error, (LocalNodeDiedError, NotStartedError)) for error in errors)
    executor.shutdown()


def test_a_callback_that_blocks_stops_no_other_call(executor: Executor) -> None:
    gate, blocked = threading.Event(), threading.Semaphore(0)

    def block(_: object) -> None:
        blocked.release()
        gate.wait(DEADLINE)

    futures = [executor.submit(str, i) for i in range(8)]
    for future in futures:
        future.add_done_callback(block)
    late = [executor.submit(str, i) for i in range(20)]
    assert [future.result(DEADLINE) for future in late] == [str(i) for i in range(20)]
    gate.set()


async def test_in_asyncio(executor: Executor) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, pow, 2, 5) == 32
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(executor, plain.divide, 1, 0)


async def test_an_await_that_is_cancelled_cancels_a_call_that_waits(one_at_a_time: Executor) -> None:
    gate, log = Gate.remote(), Log.remote()
    loop = asyncio.get_running_loop()
    first = loop.run_in_executor(one_at_a_time, plain.pass_gate, gate, "first")
    second = loop.run_in_executor(one_at_a_time, plain.add_to, log, "second")
    second.cancel()
    await asyncio.wait([second])
    gate.open.remote()
    assert await first == "first"
    assert await log.all.remote() == []


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASYNCRAY_TMPDIR": str(directory), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, env=environment, cwd=ROOT
    )


def test_the_end_of_a_program_waits_for_its_calls(sessions: Path) -> None:
    program = """
from asyncray.util import Executor
from tests.util import plain
executor = Executor(1)
for i in range(3):
    executor.submit(plain.say, i)
executor.shutdown(wait=False)
"""
    done = run(program, sessions)
    assert sorted(line[-1] for line in done.stdout.splitlines()) == ["0", "1", "2"], done.stderr
    assert done.returncode == 0


def test_a_program_at_its_end_submits_nothing(sessions: Path) -> None:
    program = """
import atexit
@atexit.register
def last():
    try:
        executor.submit(id, None)
    except RuntimeError as error:
        print(error)
from asyncray.util import Executor
executor = Executor(1)
executor.submit(id, 42).result()
"""
    done = run(program, sessions)
    assert done.stdout == "cannot schedule new futures after shutdown\n", done.stderr


def test_a_signal_ends_a_program_whose_calls_go_on(sessions: Path) -> None:
    program = """
import os, signal
from asyncray.util import Executor
from tests.util import plain
executor = Executor(1)
futures = [executor.submit(plain.wait_for_ever) for _ in range(3)]
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = run(program, sessions)
    assert done.returncode in (signal.SIGTERM, -signal.SIGTERM), done.stderr


def test_the_reprs() -> None:
    assert repr(Executor(1)) == "<Executor 0 calls under way, 0 pending>"
    assert not issubclass(concurrent.futures.BrokenExecutor, TaskError)
