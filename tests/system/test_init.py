"""An ``init`` that is cancelled, interrupted or fails leaves nothing, and both faces give back what they took."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import asyncray
import asyncray.sync as ray
from asyncray.api import session as api_session
from asyncray.exceptions import AsyncrayError, LocalNodeDiedError
from asyncray.io import forking
from asyncray.runtime.connection import Connection
from tests.points import at_point
from tests.system.conftest import SHARED


class Came(BaseException):
    pass


def state() -> tuple[object, object]:
    return signal.getsignal(signal.SIGTERM), sys.unraisablehook


@pytest.fixture(autouse=True)
def given_back() -> Iterator[None]:
    """Checks after each test that signals are as before, and that no session and no child is left."""
    SHARED.stop()  # which are children, too
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = state()
    yield
    assert not ray.is_initialized()
    assert state() == before
    assert api_session._driver is None
    assert not forking._registered
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    signal.signal(signal.SIGTERM, handler)


async def test_an_init_that_runs_out_of_time() -> None:
    for seconds in (0, 0.001, 0.03, 0.1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds), asyncray.init(num_cpus=0):
                await asyncio.sleep(10)
        assert not asyncray.is_initialized()
    async with asyncray.init(num_cpus=0):
        assert asyncray.is_initialized()


async def test_an_init_that_is_cancelled_again_and_again() -> None:
    async def use() -> None:
        async with asyncray.init(num_cpus=0):
            raise AssertionError("entered")

    task = asyncio.create_task(use())
    while not task.done():
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_an_init_whose_coroutine_is_closed() -> None:
    starting = asyncray.init(num_cpus=0).__await__()
    starting.send(None)
    starting.close()
    for thread in [thread for thread in threading.enumerate() if thread.name == "asyncray-session"]:
        await asyncio.to_thread(thread.join)
    assert not asyncray.is_initialized()
    assert api_session._driver is None


async def test_a_cancelled_init_leaves_the_session_that_was_there_before() -> None:
    async with asyncray.init(num_cpus=1):
        task = asyncio.create_task(asyncray.init(ignore_reinit_error=True).__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (await asyncray.cluster_resources())["CPU"] == 1


def test_an_interrupt_wherever_it_comes() -> None:
    """Every 61st point is tried, as each is a start of a node; there are some 400."""

    def handle(number: int, frame: object) -> None:
        raise Came

    def init() -> None:
        try:
            ray.init(num_cpus=0)
        except Came:
            return

    before = signal.signal(signal.SIGALRM, handle)
    number = 5
    try:
        while at_point(number, lambda: signal.raise_signal(signal.SIGALRM), init):
            assert not ray.is_initialized(), number
            assert api_session._driver is None, number
            number += 61
    finally:
        signal.signal(signal.SIGALRM, before)
    assert number > 200
    assert ray.is_initialized()
    ray.shutdown()


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_warning_that_raises(face: str) -> None:
    """As ``-W error`` makes it: pytest does, too."""

    async def init() -> None:
        if face == "sync":
            ray.init(num_cpus=0, object_store_memory=10**15)
        else:
            await asyncray.init(num_cpus=0, object_store_memory=10**15)

    with pytest.raises(RuntimeWarning, match="/dev/shm"):
        await init()


def test_an_io_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "asyncray-io":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError):
        ray.init(num_cpus=0)


@pytest.mark.parametrize(
    "leave",
    [lambda: None, lambda: 1 // 0, lambda: asyncio.current_task().cancel()],  # type: ignore[union-attr]
    ids=["end", "exception", "cancellation"],
)
async def test_the_async_face_gives_everything_back(leave: Callable[[], Any]) -> None:
    before = state()

    async def use() -> None:
        async with asyncray.init(num_cpus=0):
            assert state()[0] != before[0]
            assert state()[1] != before[1]
            leave()
            await asyncio.sleep(0)

    await asyncio.gather(asyncio.create_task(use()), return_exceptions=True)


async def test_a_shutdown_that_is_cancelled_goes_on_to_its_end() -> None:
    await asyncray.init(num_cpus=0)
    task = asyncio.create_task(asyncray.shutdown())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not asyncray.is_initialized()


def test_init_in_one_thread_and_shutdown_in_another() -> None:
    """The handler stays, as only the main thread may change it, and acts as the system's until that has a chance."""

    def in_a_thread(function: Callable[[], object]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    in_a_thread(lambda: ray.init(num_cpus=0))
    ray.shutdown()
    ray.init(num_cpus=0)
    in_a_thread(ray.shutdown)
    assert sys.unraisablehook is not api_session.signals._hook
    ray.shutdown()


def test_a_thread_that_waits_while_another_one_ends_the_session_learns_of_that() -> None:
    def wait() -> None:
        waiting.set()
        with pytest.raises(LocalNodeDiedError) as caught:
            ray.get(never)
        errors.append(str(caught.value))

    errors: list[str] = []
    waiting = threading.Event()
    ray.init(num_cpus=0)
    never = ray.remote(abs).remote(-1)  # the node has no CPU for it
    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    while not api_session._connected().waiters.has_waiters():
        threading.Event().wait(0.001)
    ray.shutdown()
    thread.join()
    assert errors == ["This process has left its node by shutdown(): no value arrives any more."]


@pytest.fixture(params=["before", "after"])
def on_welcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a signal handler call a function while ``init`` runs, before or after the node sends WELCOME."""
    step = "this_interpreter" if request.param == "before" else "compare"
    proceed = getattr(api_session, step)

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return proceed(*arguments)

    def use(function: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: function())
        monkeypatch.setattr(api_session, step, interrupted)

    before = signal.getsignal(signal.SIGALRM)
    yield use
    signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_starts_a_session_while_one_starts(
    on_welcome: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start must neither end the first session nor leave a second node behind."""

    def start_another() -> None:
        for use in (lambda: ray.init(num_cpus=0), lambda: ray.put(1)):
            with pytest.raises(RuntimeError, match="in the middle of another init"):
                use()
            refused.append(use)

    refused: list[object] = []
    monkeypatch.setattr(api_session, "_refusal", None)  # as in a process that has had no session
    on_welcome(start_another)
    with ray.init(num_cpus=0):
        assert len(refused) == 2
        assert ray.get(ray.put(1)) == 1


def test_a_signal_handler_that_ends_the_session_that_starts(
    on_welcome: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_welcome(ray.shutdown)
    with pytest.raises(AsyncrayError):
        ray.init(num_cpus=0)
    monkeypatch.undo()
    with ray.init(num_cpus=0):
        assert ray.get(ray.put(1)) == 1


def test_a_signal_handler_that_starts_a_session_while_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_another(connection: Connection, question: str, **limits: Any) -> Any:
        if question == "goodbye":
            with pytest.raises(RuntimeError, match="in the middle of another init"):
                ray.init(num_cpus=0)
            refused.append(question)
        return request(connection, question, **limits)

    request = Connection.request
    refused: list[str] = []
    monkeypatch.setattr(Connection, "request", start_another)
    ray.init(num_cpus=0)
    ray.shutdown()
    assert refused == ["goodbye"]


def test_a_shutdown_that_is_interrupted_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture ``given_back`` checks it."""

    def interrupt(connection: Connection, question: str, **limits: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "request", interrupt)
    ray.init(num_cpus=0)
    with pytest.raises(KeyboardInterrupt):
        ray.shutdown()
