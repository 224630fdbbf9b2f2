"""Invocations become replies, with a runtime whose daemon the test plays."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.config import INLINE_LIMIT
from asyncray.exceptions import ObjectStoreFullError, TaskCancelledError
from asyncray.io.segments import Segment
from asyncray.messages import (
    ABANDON,
    ALLOCATE,
    ALLOCATED,
    DONE,
    DONE_MANY,
    ERROR,
    FAILED,
    FAULT,
    OBJECT,
    PLAIN,
    REPLY_FAULT,
    RUN,
    SHARED,
    UNPIN,
)
from asyncray.runtime.references import Pin
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import serialize
from asyncray.worker import running
from asyncray.worker.definitions import Definition, SentFunction
from asyncray.worker.running import Invocation, Runner
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started

LARGE = np.zeros(INLINE_LIMIT + 1, dtype=np.uint8)


@pytest.fixture
def session() -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as session:
        yield session


@pytest.fixture
def runner(session: tuple[Runtime, DaemonSide]) -> Runner:
    return Runner(session[0], lambda: None)


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create(f"asyncray-test-{os.getpid()}", 1 << 20)
    yield segment
    segment.unlink()
    segment.close()


def invocation(message: Any = (RUN, b"task", 1, PLAIN, b"", None, None), **options: Any) -> Invocation:
    spec: Any = {"name": "f", "returns": 1, "function": 0, **options}
    return Invocation(message, Definition(spec, SentFunction(b"")))


def answering(daemon: DaemonSide, *answers: Callable[[int], tuple[Any, ...]]) -> threading.Thread:
    """Answers so many requests for room, one after the other."""

    def answer() -> None:
        for make in answers:
            daemon.send(make(daemon.next(ALLOCATE)[1]))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


def room(segment: Segment, offset: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda number: (ALLOCATED, number, segment.name, offset, True)


def no_room(number: int) -> tuple[Any, ...]:
    return (REPLY_FAULT, number, "ObjectStoreFullError", {"message": "full"})


def test_arguments_are_put_where_their_places_are(runner: Any) -> None:
    plain = pickle.dumps((("one",), {"two": 2}))
    assert runner.arguments((RUN, b"task", 1, PLAIN, plain, None, None)) == (("one",), {"two": 2})
    assert runner.arguments((RUN, b"task", 1, PLAIN, b"", None, None)) == ((), {})
    last = [[b"o" * 26, PLAIN, plain]]
    args, kwargs = runner.arguments((RUN, b"task", 1, OBJECT, None, last, None))
    assert (list(args), kwargs) == (["one"], {"two": 2})


def test_the_memory_of_a_call_that_does_not_run_goes_back(session: Any, runner: Any) -> None:
    runtime, daemon = session
    values = [[b"o" * 26, SHARED, ["segment", 0, 10]], [b"p" * 26, PLAIN, b""]]
    runner.discard((RUN, b"task", 1, PLAIN, b"", values, None))
    runtime.flush()
    assert daemon.next(UNPIN)[1] == ((b"o" * 26, 1),)


def test_an_argument_that_cannot_be_loaded_gives_the_others_back(session: Any, runner: Any) -> None:
    runtime, daemon = session
    values = [[b"o" * 26, FAULT, ["ObjectStoreFullError", {"message": "full"}]], [b"p" * 26, SHARED, ["x", 0, 10]]]
    with pytest.raises(ObjectStoreFullError, match="full"):
        runner.arguments((RUN, b"task", 1, PLAIN, pickle.dumps(((), {})), values, None))
    runtime.flush()
    assert daemon.next(UNPIN)[1] == ((b"p" * 26, 1),)


@pytest.mark.parametrize(("result", "discards"), [(None, False), ("thrown away", True), (lambda: 1, True)])
def test_what_nobody_wants_is_none(runner: Any, result: Any, *, discards: bool) -> None:
    reply, keep = runner.succeeded(invocation(discards=discards), result)
    assert reply[:2] == (DONE, b"task")
    assert pickle.loads(reply[4]) is None
    assert keep is None


def test_several_results_are_so_many_values(runner: Any) -> None:
    reply, _ = runner.succeeded(invocation(returns=2), iter([1, "two"]))
    assert reply[:2] == (DONE_MANY, b"task")
    assert [pickle.loads(payload) for _, payload, _ in reply[3]] == [1, "two"]
    assert runner.succeeded(invocation(returns=0), "anything")[0][3] == []


@pytest.mark.parametrize(("result", "message"), [([1], "returned 1 values"), (5, "returned int, not 2 values")])
def test_a_wrong_number_of_results_is_an_error(runner: Any, result: Any, message: str) -> None:
    reply, _ = runner.succeeded(invocation(returns=2), result)
    assert raised(runner, reply, ValueError).args == (f"f has num_returns=2 but {message}",)


def raised(runner: Any, reply: Any, kind: type[BaseException]) -> BaseException:
    """The error that the caller of the task gets."""
    assert reply[:2] == (FAILED, b"task")
    with pytest.raises(kind) as caught:
        runner.arguments((RUN, b"next", 1, PLAIN, b"", [[b"o" * 26, reply[3], reply[4]]], None))
    return getattr(caught.value, "cause", None) or caught.value


def test_a_result_that_cannot_be_pickled_is_an_error_that_names_the_task(runner: Any) -> None:
    reply, _ = runner.succeeded(invocation(), threading.Lock())
    assert "return value of f" in str(raised(runner, reply, TypeError))


@pytest.mark.parametrize("returns", [1, 2])
def test_large_results_are_written_to_shared_memory(session: Any, runner: Any, segment: Segment, returns: int) -> None:
    runtime, daemon = session
    large = LARGE + 7
    thread = answering(daemon, room(segment, 4096))
    reply, _ = runner.succeeded(invocation(returns=returns), large if returns == 1 else ["small", large])
    thread.join(DEADLINE)
    kind, place = reply[3:5] if returns == 1 else reply[3][1][:2]
    assert (kind, place[0], place[1]) == (SHARED, segment.name, 4096)
    assert (runtime.values.load(SHARED, place, Pin(b"o" * 26, 1)) == large).all()
    assert runtime.values.reservations.asked == {}


def test_when_there_is_no_room_for_one_the_others_are_given_up(session: Any, runner: Any, segment: Segment) -> None:
    _, daemon = session
    thread = answering(daemon, room(segment, 4096), no_room)
    reply, _ = runner.succeeded(invocation(returns=2), [LARGE, LARGE])
    thread.join(DEADLINE)
    raised(runner, reply, ObjectStoreFullError)
    assert daemon.next(ABANDON)[1:] == [segment.name, 4096]


async def reply_in_loop(runner: Runner, call: Invocation, result: Any) -> tuple[Any, object]:
    reply, kept = runner.small_reply(call, result)
    return (reply, kept) if reply is not None else await runner.large_reply_async(call, kept)


def test_the_same_in_an_event_loop(session: Any, runner: Any, segment: Segment) -> None:
    _, daemon = session
    thread = answering(daemon, room(segment, 4096), no_room)
    reply, _ = asyncio.run(reply_in_loop(runner, invocation(returns=2), [LARGE, LARGE]))
    thread.join(DEADLINE)
    raised(runner, reply, ObjectStoreFullError)
    assert daemon.next(ABANDON)[1:] == [segment.name, 4096]
    small, _ = asyncio.run(reply_in_loop(runner, invocation(), 5))
    assert pickle.loads(small[4]) == 5


def test_many_small_results_are_not_one_huge_message(
    session: Any, runner: Any, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncray.worker.running._MOST_INLINE", 10_000)
    thread = answering(session[1], room(segment, 0))
    reply, _ = runner.succeeded(invocation(returns=2), [bytes(8000), bytes(8000)])
    thread.join(DEADLINE)
    assert [kind for kind, _, _ in reply[3]] == [PLAIN, SHARED]


@pytest.mark.parametrize(("retry_on", "expected"), [(False, False), (True, True)])
def test_an_exception_is_a_reply_that_says_whether_to_try_again(runner: Any, *, retry_on: bool, expected: bool) -> None:
    reply, _ = runner.failed(invocation(retry_on=retry_on), KeyError("no"))
    assert (reply[3], reply[5]) == (ERROR, expected)
    raised(runner, reply, KeyError)


def test_an_interrupt_cancels_but_in_a_constructor(runner: Any) -> None:
    reply, _ = runner.failed(invocation(), KeyboardInterrupt())
    raised(runner, reply, TaskCancelledError)
    reply, _ = runner.raised(invocation(), KeyboardInterrupt())
    assert reply[3] == ERROR


def test_an_exit_where_the_process_must_go_on(runner: Any) -> None:
    reply = runner.exited(invocation(), SystemExit(3))
    assert reply[3:6] == (FAULT, ["WorkerCrashedError", {"message": "f raised SystemExit(3)"}], True)


def test_the_name_of_the_call_comes_first() -> None:
    assert invocation().name == "f"
    assert invocation((RUN, b"task", 1, PLAIN, b"", None, "mine")).name == "mine"


class Clock:
    """Nanoseconds that pass when a test says so."""

    now = 0

    def __call__(self) -> int:
        return self.now


clock = Clock()


class SlowToLoad:
    def __reduce__(self) -> Any:
        return load_slowly, ()


def load_slowly() -> Any:
    clock.now += 50_000_000
    return len


def test_loading_is_not_part_of_a_calls_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "perf_counter_ns", clock)
    definition = Definition({"name": "f", "function": 0, "returns": 1}, SentFunction(serialize(SlowToLoad()).pickled))
    call = Invocation((RUN, b"id", 1, PLAIN, b"", None, None), definition)
    assert definition.function is None
    assert call.load() is len
    clock.now += 3000
    assert call.microseconds() == 3
    assert definition.function is not None
