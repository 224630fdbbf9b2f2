"""Actors with coroutine methods, with a real runtime, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from asyncray.messages import ERROR, FAULT, LEAVING, STOP_TASK, UNDEFINE
from asyncray.worker.async_hosting import AsyncHost
from tests.worker.stage import Stage, results

log: list[str] = []
stages: list[Stage] = []


class Loop:
    def __init__(self) -> None:
        self.bell = asyncio.Event()

    async def start(self) -> int:
        self.task = asyncio.get_running_loop().create_task(self.work())
        await asyncio.sleep(0)
        return 1

    async def work(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("ended")

    async def cancel(self) -> None:
        raise asyncio.CancelledError

    async def fail(self) -> None:
        raise ValueError

    async def wait(self) -> str:
        await self.bell.wait()
        return "rung"

    async def ring(self) -> None:
        self.bell.set()

    async def turn(self) -> None:
        log.append("begin")
        await asyncio.sleep(0)
        log.append("end")

    async def leave(self) -> None:
        stages[-1].work_loop.exit_actor()

    async def exit(self) -> None:
        raise SystemExit(4)


@pytest.fixture
def stage() -> Iterator[Stage]:
    log.clear()
    stages[:] = [stage := Stage()]
    yield stage
    host = stage.work_loop.host
    assert isinstance(host, AsyncHost)
    host._loop.close()
    asyncio.set_event_loop(None)


def play(
    stage: Stage, *names: str, more: Sequence[Any] = (), concurrency: int = 10, ends: bool = True
) -> tuple[list[Any], list[Any]]:
    """An actor and calls of those methods, in order: their results, and all that the worker has said."""
    create = stage.define(Loop, asynchronous=True, concurrency=concurrency)
    methods = {name: stage.define(name, method=name) for name in names}
    made = stage.construct(create)
    calls = [stage.invoke(methods[name]) for name in names]
    said = stage.play(create, *methods.values(), made, *calls, *more, ends=ends)
    found = results(said)
    assert found[made[1]] is None
    return [found.get(call[1], "no reply") for call in calls], said


def test_what_runs_in_the_loop_is_cancelled_at_the_end(stage: Stage) -> None:
    assert play(stage, "start")[0] == [1]
    assert log == []
    stage.work_loop.let_go()
    assert log == ["ended"]


@pytest.mark.parametrize(("name", "kind"), [("cancel", FAULT), ("fail", ERROR)])
def test_what_a_method_raises_is_a_reply(stage: Stage, name: str, kind: int) -> None:
    assert play(stage, name, "start")[0] == [kind, 1]
    stage.work_loop.let_go()


def test_calls_run_at_once_and_the_end_waits_for_them(stage: Stage) -> None:
    replies, said = play(stage, "wait", "ring")
    assert replies == ["rung", None]
    assert said[-1] == [LEAVING, "the play is over"]
    stage.work_loop.let_go()


def test_no_more_calls_run_at_once_than_wanted_and_they_keep_their_order(stage: Stage) -> None:
    assert play(stage, "turn", "turn", "turn", concurrency=1)[0] == [None] * 3
    assert log == ["begin", "end"] * 3
    stage.work_loop.let_go()


def test_a_call_is_cancelled_whether_it_has_begun_or_not(stage: Stage) -> None:
    stops = [(STOP_TASK, b"task-3"), (STOP_TASK, b"task-2")]
    replies, _ = play(stage, "wait", "wait", more=stops, concurrency=1)
    assert replies == [FAULT, FAULT]
    stage.work_loop.let_go()


@pytest.mark.parametrize("concurrency", [1, 10])
def test_a_method_is_forgotten_behind_the_calls_that_were_cancelled_before(stage: Stage, concurrency: int) -> None:
    stops = [(STOP_TASK, b"task-3"), (STOP_TASK, b"task-2"), (UNDEFINE, [3], [103])]
    replies, _ = play(stage, "wait", "wait", more=stops, concurrency=concurrency)
    assert replies == [FAULT, FAULT]
    assert (list(stage.work_loop.definitions), list(stage.work_loop.functions)) == ([1], [101])
    stage.work_loop.let_go()


def test_a_call_that_ends_the_actor_gives_no_reply(stage: Stage) -> None:
    replies, said = play(stage, "leave", ends=False)
    assert replies == ["no reply"]
    assert said[-1] == [LEAVING, "it called exit_actor()"]
    stage.work_loop.let_go()


def test_an_exit_ends_the_process(stage: Stage) -> None:
    with pytest.raises(SystemExit) as raised:
        play(stage, "exit", ends=False)
    assert raised.value.code == 4
    stage.work_loop.let_go()
