"""The work loop, with a real runtime, in this process."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from asyncray.messages import (
    ERROR,
    FAILED,
    FAULT,
    LEAVE,
    LEAVING,
    NOT_STARTED,
    PLAIN,
    RETURN_QUEUED,
    RUN_NESTED,
    STOP_TASK,
    UNDEFINE,
)
from asyncray.worker.definitions import Definition, SentFunction
from asyncray.worker.running import Invocation
from tests.worker.stage import Stage, results
from tests.worker.test_hosting import allow_threads

playing: list[Stage] = []


def hand(message: Any) -> str:
    """A task during which that message arrives."""
    playing[-1].runtime.handlers[message[0]](message)
    return "ran"


def double(number: int) -> int:
    return 2 * number


def fail() -> None:
    raise ValueError("no")


def test_tasks_run_in_order_and_the_worker_says_why_it_leaves() -> None:
    stage = Stage()
    define = stage.define(double)
    orders = [stage.run(define, number) for number in range(5)]
    said = stage.play(define, *orders)
    assert results(said) == {order[1]: 2 * number for number, order in enumerate(orders)}
    assert [message[1] for message in said[:5]] == [order[1] for order in orders]
    assert said[-1] == [LEAVING, "the play is over"]


def test_an_error_is_a_reply_and_the_next_task_runs() -> None:
    stage = Stage()
    defines = stage.define(fail), stage.define(double)
    first, second = stage.run(defines[0]), stage.run(defines[1], 1)
    assert results(stage.play(*defines, first, second)) == {first[1]: ERROR, second[1]: 2}


def test_what_a_limited_function_leaves_over_goes_back() -> None:
    stage = Stage()
    define = stage.define(double, max_calls=2)
    orders = [stage.run(define, number) for number in range(4)]
    said = stage.play(define, *orders, ends=False)
    assert len(results(said)) == 2
    assert given_back(said) == [order[1] for order in orders[2:]]
    assert said[-1] == [LEAVING, "double reached max_calls=2"]


def given_back(said: list[Any]) -> list[bytes]:
    return [task for message in said if message[0] == NOT_STARTED for task in message[1]]


def test_what_has_not_started_goes_back_when_the_daemon_wants_it() -> None:
    playing[:] = [stage := Stage()]
    define = stage.define(hand)
    first, second = stage.run(define, (RETURN_QUEUED,)), stage.run(define, (RETURN_QUEUED,))
    said = stage.play(define, first, second)
    assert results(said) == {first[1]: "ran"}
    assert given_back(said) == [second[1]]
    assert said[-1] == [LEAVING, "the play is over"]


def test_a_cancelled_task_that_has_not_started_does_not_run() -> None:
    stage = Stage()
    define = stage.define(fail)
    order = stage.run(define)
    assert results(stage.play(define, order, (STOP_TASK, order[1]))) == {order[1]: FAULT}


def test_a_running_task_is_interrupted_and_the_next_is_not() -> None:
    playing[:] = [stage := Stage()]
    define = stage.define(hand)
    first = stage.run(define, (STOP_TASK, b"task-1"))
    second = stage.run(define, (STOP_TASK, b"task-1"))  # too late
    third = stage.run(define, (RETURN_QUEUED,))
    said = stage.play(define, first, second, third)
    assert results(said) == {b"task-1": FAULT, second[1]: "ran", third[1]: "ran"}


def miss_the_first_signal(message: Any) -> None:
    """Like a task that enters a system call at the very moment at which a signal interrupts it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    hand(message)
    signal.sigwait((signal.SIGINT,))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    signal.pause()


def test_an_interrupt_comes_again_until_the_task_has_noticed() -> None:
    playing[:] = [stage := Stage()]
    order = stage.run(define := stage.define(miss_the_first_signal), (STOP_TASK, b"task-1"))
    assert results(stage.play(define, order)) == {b"task-1": FAULT}


@pytest.mark.parametrize(("function", "expected"), [(double, 6), (fail, ERROR), (sys.exit, FAULT)])
def test_nested_tasks_reply_whatever_they_do(function: Any, expected: Any) -> None:
    playing[:] = [stage := Stage()]
    define, other = stage.define(hand), stage.define(function)
    arguments = pickle.dumps(((), {}) if function is fail else ((3,), {}))
    order = stage.run(define, (RUN_NESTED, b"nested", other[1], PLAIN, arguments, None, None))
    assert results(stage.play(define, other, order)) == {order[1]: "ran", b"nested": expected}


def test_a_nested_task_for_which_there_is_no_thread_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(monkeypatch, 0, "asyncray-nested")
    playing[:] = [stage := Stage()]
    define, other = stage.define(hand), stage.define(double)
    order = stage.run(define, (RUN_NESTED, b"nested", other[1], PLAIN, pickle.dumps(((3,), {})), None, None))
    said = stage.play(define, other, order)
    assert results(said) == {order[1]: "ran", b"nested": FAULT}
    (failed,) = (message for message in said if message[0] == FAILED)
    assert failed[4][0] == "WorkerCrashedError"
    assert failed[4][1]["message"].startswith("double could not begin: RuntimeError: can't start new thread")
    assert failed[5], "it may be retried"
    assert not stage.work_loop._nested


def test_an_interrupt_that_a_finalizer_swallowed_is_raised_again_where_there_is_no_thread_for_a_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow_threads(monkeypatch, 0, "Thread-")
    stage = Stage()
    later: list[Any] = []
    monkeypatch.setattr(stage.runtime.connection, "call_after_round_trip", later.append)
    interrupted: list[bytes] = []
    monkeypatch.setattr(stage.work_loop, "_interrupt", lambda task_id, pause: interrupted.append(task_id))
    order = stage.run(stage.define(double), 3)
    stage.work_loop._running = Invocation(order, Definition({"name": "double", "returns": 1}, SentFunction(b"")))  # type: ignore[typeddict-item]
    stage.work_loop._replay_lost_interrupt(SimpleNamespace(exc_value=KeyboardInterrupt()))
    assert stage.work_loop._stops == {order[1]}
    [retry] = later
    retry()
    assert interrupted == [order[1]]
    stage.work_loop._running = None
    stage.play()


def test_a_task_that_exits_ends_the_process() -> None:
    stage = Stage()
    define = stage.define(sys.exit)
    with pytest.raises(SystemExit) as raised:
        stage.play(define, stage.run(define, 3))
    assert raised.value.code == 3


def test_a_process_that_cannot_be_put_back_runs_no_other_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no way back")

    stage = Stage()
    monkeypatch.setattr(stage.work_loop.leftovers, "ends_clean", lambda: False)
    monkeypatch.setattr(stage.work_loop.leftovers, "end", refuse)
    define = stage.define(double)
    said = stage.play(define, stage.run(define, 1), ends=False)
    assert len(results(said)) == 1
    assert said[-1] == [LEAVING, "double has changed its process in a way that cannot be undone: no way back"]


def test_the_process_lets_go_of_what_is_the_users() -> None:
    stage = Stage()
    define = stage.define(double)
    stage.play(define, stage.run(define, 1))
    stage.work_loop.let_go()
    assert not stage.work_loop.definitions
    assert stage.work_loop.own_threads() == []


ends: list[tuple[str, threading.Thread]] = []


class Ending:
    """A function whose end is seen."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self) -> list[str]:
        return [name for name, _ in ends]

    def __del__(self) -> None:
        ends.append((self.__name__, threading.current_thread()))


def undefine(*defines: Any) -> Any:
    return (UNDEFINE, [define[1] for define in defines], [define[2]["function"] for define in defines])


def test_a_function_is_forgotten_after_the_tasks_that_were_sent_before_and_ends_on_the_main_thread() -> None:
    stage = Stage()
    one, two = stage.define(Ending("one")), stage.define(Ending("two"))
    ends.clear()
    late = stage.define(double)
    orders = [stage.run(one), stage.run(two), stage.run(two), stage.run(late, 1)]
    said = results(stage.play(one, two, late, *orders[:2], undefine(one), *orders[2:], undefine(one, two)))
    assert [said[order[1]] for order in orders] == [[], [], ["one"], 2]
    assert ends == [(name, threading.main_thread()) for name in ("one", "two")]


def test_a_function_may_be_defined_again() -> None:
    stage = Stage()
    first, again = stage.define(double), stage.define(double)
    orders = [stage.run(first, 1), stage.run(again, 2)]
    said = results(stage.play(first, orders[0], undefine(first), again, orders[1], undefine(first)))
    assert said == {orders[0][1]: 2, orders[1][1]: 4}
    assert (list(stage.work_loop.definitions), list(stage.work_loop.functions)) == ([2], [102])


def test_what_a_blocked_worker_is_to_forget_is_not_given_back() -> None:
    playing[:] = [stage := Stage()]
    define, forgotten = stage.define(return_and_forget), stage.define(Ending("forgotten"))
    ends.clear()
    orders = stage.run(forgotten), stage.run(define, undefine(forgotten))
    said = stage.play(forgotten, define, *orders, ends=False)
    assert results(said) == {order[1]: [] for order in orders}
    assert [name for name, _ in ends] == ["forgotten"]


def return_and_forget(message: Any) -> list[str]:
    """A task that waits meanwhile, as in ``get``: its inbox is closed."""
    work_loop = playing[-1].work_loop
    work_loop._close_inbox("wait")
    hand(message)
    hand((LEAVE, "the play is over"))
    work_loop.inbox.reopen("wait")
    return [name for name, _ in ends]
