"""Signal handlers that raise at every point of the main thread's calls of the session."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

import asyncray.sync as ray
from asyncray.runtime.runtime import Runtime, require
from tests.points import at_every_point, at_point
from tests.sleepers import Came as Interrupted
from tests.sleepers import SignalInSleep

pytestmark = pytest.mark.usefixtures("node")

DEADLINE = 20.0
LARGE = bytes(200_000)


class Came(BaseException):
    pass


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Sends this process a signal whose handler raises ``Came``."""

    def handle(number: int, frame: object) -> None:
        raise Came

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # it may come while a finalizer runs
    before = signal.signal(signal.SIGALRM, handle)
    yield lambda: signal.raise_signal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


@ray.remote
def echo(value: Any) -> Any:
    return value


def assert_nothing_is_left(runtime: Runtime) -> None:
    gc.collect()
    assert ray.get(echo.remote(1), timeout=DEADLINE) == 1
    deadline = time.monotonic() + DEADLINE
    while (status := runtime.request("status"))["objects"] or runtime.references.table:  # the io thread reports drops
        assert time.monotonic() < deadline, (status, runtime.references.table)
    assert status["store"]["used"] == 0
    assert [*runtime.values.reservations.asked, *runtime.connection.replies] == []
    assert not runtime.waiters.has_waiters()


@pytest.mark.parametrize(
    "work",
    [
        lambda: ray.put(LARGE),
        lambda: ray.get(echo.remote(LARGE), timeout=DEADLINE),
        lambda: ray.wait([echo.remote(1), echo.remote(2)], num_returns=1, timeout=DEADLINE),
        lambda: ray.wait([echo.remote(1)], timeout=0),
    ],
    ids=["put", "get", "wait", "look"],
)
def test_nothing_is_left_wherever_it_comes(alarm: Callable[[], None], work: Callable[[], object]) -> None:
    def interrupted() -> None:
        try:
            work()
        except Came:
            pass

    at_every_point(alarm, interrupted)
    assert_nothing_is_left(require())


@pytest.mark.usefixtures("signal_pipe_of_uvloop")
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_may_go_on_wherever_it_comes(
    alarm: Callable[[], None], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def read() -> Any:
        return await echo.remote(1)

    def interrupted() -> None:
        tasks = [loop.create_task(read()) for _ in range(5)]
        try:
            loop.run_until_complete(asyncio.wait(tasks))
        except Came:
            pass
        done, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=DEADLINE))
        assert not pending
        assert sum(task.exception() is None for task in done) >= 4

    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: None)  # it may come in what a loop calls, and that tells of it
    at_every_point(alarm, interrupted)
    loop.close()
    assert_nothing_is_left(require())
    assert not require().connection._flushing_loops


async def gather(refs: list[Any]) -> None:
    await asyncio.gather(*refs)


async def wait_for_all(refs: list[Any]) -> None:
    await asyncio.wait(refs)


@pytest.mark.parametrize(
    "work",
    [
        ray.get,
        lambda refs: ray.get(refs[0]),
        ray.wait,
        lambda refs: asyncio.run(gather(refs)),
        lambda refs: asyncio.run(wait_for_all(refs)),
    ],
    ids=["get", "get one", "wait", "gather", "asyncio.wait"],
)
@pytest.mark.parametrize("readers", [0, 1], ids=["", "another thread reads"])
def test_a_signal_that_comes_as_the_main_thread_falls_asleep_ends_the_wait(
    work: Callable[[list[Any]], object], readers: int
) -> None:
    """The system tells another thread of it, so it interrupts no system call."""

    def is_waiting() -> bool:
        runtime = require()
        waiting, reader = runtime.waiters._all, runtime.channel._reader
        return len(waiting) > readers and reader._poll_timeout_ms is None and not reader._io_thread_must_read

    class Sleeper:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    sleeper = ray.remote(Sleeper).remote()
    refs = [sleeper.sleep.remote() for _ in range(2)]
    other = threading.Thread(target=lambda: ray.wait([refs[1]]))
    with SignalInSleep(is_waiting) as coming:
        if readers:
            other.start()
            while not require().waiters.has_waiters():
                time.sleep(0)
        coming.send()
        with pytest.raises(Interrupted):
            work(refs)
    ray.kill(sleeper)
    if readers:
        other.join(DEADLINE)


@pytest.mark.usefixtures("one_cpu")
def test_what_was_sent_ahead_is_not_lost_wherever_it_comes() -> None:
    @ray.remote
    def quick(number: int, never: list[Any]) -> bool:
        if not number:
            return True

        def handle(signum: int, frame: object) -> None:
            raise Came

        def wait() -> None:
            try:
                ray.wait(never, timeout=0.001)
            except Came:
                pass

        before = signal.signal(signal.SIGALRM, handle)
        try:
            return at_point(number, lambda: signal.raise_signal(signal.SIGALRM), wait)
        finally:
            signal.signal(signal.SIGALRM, before)

    def pauses(self: object) -> None:
        signal.pause()

    never = [ray.remote(type("Never", (), {"pauses": pauses})).remote().pauses.remote()]
    ray.get([quick.remote(0, never) for _ in range(20)], timeout=DEADLINE)
    for number in range(1, 400):
        refs = [quick.remote(number, never), *(quick.remote(0, never) for _ in range(20))]
        came, *others = ray.get(refs, timeout=DEADLINE)
        assert all(others)
        if not came:
            return
