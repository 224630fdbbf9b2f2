"""A thread that a coroutine waits for, however often that is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncray.api.thread_call import ThreadCall


async def test_the_outcome_is_that_of_the_function() -> None:
    assert await ThreadCall(lambda: threading.current_thread().name).result() == "asyncray-session"
    with pytest.raises(ZeroDivisionError):
        await ThreadCall(lambda: 1 // 0).result()


async def test_a_cancelled_caller_may_wait_for_the_end_and_is_cancelled_again() -> None:
    go = threading.Event()
    call = ThreadCall(go.wait)
    steps: list[str] = []

    async def use() -> None:
        try:
            await call.result()
        except asyncio.CancelledError:
            steps.append("cancelled")
            await call.finished()
            steps.append("finished")
            raise

    task = asyncio.create_task(use())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert steps == ["cancelled"]
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["cancelled", "finished"]


async def test_what_nobody_asks_for_is_no_warning() -> None:
    await ThreadCall(lambda: 1 // 0).finished()


async def test_without_a_thread_it_runs_where_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that could not end for lack of a thread would leave its processes behind."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    call = ThreadCall(lambda: threading.current_thread().name)
    assert await call.result() == threading.current_thread().name
    await call.finished()
