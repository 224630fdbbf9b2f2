"""Reports of tasks that wait."""

from __future__ import annotations

from typing import Any

from asyncray.messages import BLOCKED, UNBLOCKED
from asyncray.runtime.blocking import BlockReporter, is_finished
from asyncray.runtime.context import TaskContext
from asyncray.runtime.waiters import ThreadWaiter


def task(*, blocks: bool = True) -> TaskContext:
    context = TaskContext(b"task", "f", "m.f")
    context.blocks = blocks
    return context


def test_a_wait_is_reported_around_the_hooks_of_the_worker() -> None:
    events: list[Any] = []
    reporter, waiter = BlockReporter(events.append), ThreadWaiter(1)
    reporter.before = lambda task, waiter: events.append(("before", waiter))
    reporter.after = lambda task: events.append("after")
    waiting = task()
    reporter.begin(waiting, waiter)
    reporter.end(waiting, was_finished=False)
    assert events == [(BLOCKED, b"task"), ("before", waiter), "after", (UNBLOCKED, b"task")]


def test_nothing_is_said_of_a_task_that_ended_while_it_waited() -> None:
    events: list[Any] = []
    reporter, waiting = BlockReporter(events.append), task()
    reporter.begin(waiting, ThreadWaiter(1))
    waiting.finished = True
    reporter.end(waiting, was_finished=False)
    assert events == [(BLOCKED, b"task")]
    assert is_finished(waiting)


def test_drivers_and_actors_report_nothing() -> None:
    events: list[Any] = []
    reporter = BlockReporter(events.append)
    for waiting in (None, task(blocks=False)):
        reporter.begin(waiting, ThreadWaiter(1))
        reporter.end(waiting, was_finished=False)
    assert events == []
    assert not is_finished(None)
