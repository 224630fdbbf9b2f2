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


def make_reporter(events: list[Any]) -> BlockReporter:
    reporter = BlockReporter(events.append, lambda: None)
    reporter.before = lambda task, waiter: events.append(("before", waiter))
    reporter.after = lambda waiter: events.append(("after", waiter))
    return reporter


def test_a_wait_is_reported_around_the_hooks_of_the_worker() -> None:
    events: list[Any] = []
    reporter, waiter, waiting = make_reporter(events), ThreadWaiter(1), task()
    reporter.begin(waiting, waiter)
    reporter.end(waiting, waiter, was_finished=False)
    assert events == [(BLOCKED, b"task"), ("before", waiter), ("after", waiter), (UNBLOCKED, b"task")]


def test_the_wait_of_a_signal_handler_is_another_one() -> None:
    events: list[Any] = []
    reporter, outer, inner, waiting = make_reporter(events), ThreadWaiter(1), ThreadWaiter(1), task()
    reporter.begin(waiting, outer)
    reporter.begin(waiting, inner)
    reporter.end(waiting, inner, was_finished=False)
    assert [event for event in events if event[0] in ("before", "after")] == [
        ("before", outer),
        ("before", inner),
        ("after", inner),
    ]
    assert (outer.reported, inner.reported) == (True, False)
    reporter.end(waiting, outer, was_finished=False)
    reports = [event[0] for event in events if event[0] in (BLOCKED, UNBLOCKED)]
    assert reports == [BLOCKED, BLOCKED, UNBLOCKED, UNBLOCKED]


def test_an_end_is_reported_once_and_only_after_its_beginning() -> None:
    """A signal handler may raise before the beginning is reported, and before or after the end is."""
    events: list[Any] = []
    reporter, waiter, waiting = BlockReporter(events.append, lambda: None), ThreadWaiter(1), task()
    reporter.end(waiting, waiter, was_finished=False)
    reporter.begin(waiting, waiter)
    for _ in range(2):
        reporter.end(waiting, waiter, was_finished=False)
    assert events == [(BLOCKED, b"task"), (UNBLOCKED, b"task")]


def test_nothing_is_said_of_a_task_that_ended_while_it_waited() -> None:
    events: list[Any] = []
    reporter, waiter, waiting = BlockReporter(events.append, lambda: None), ThreadWaiter(1), task()
    reporter.begin(waiting, waiter)
    waiting.finished = True
    reporter.end(waiting, waiter, was_finished=False)
    assert events == [(BLOCKED, b"task")]
    assert is_finished(waiting)


def test_drivers_and_actors_report_nothing() -> None:
    events: list[Any] = []
    reporter, waiter = BlockReporter(events.append, lambda: None), ThreadWaiter(1)
    for waiting in (None, task(blocks=False)):
        reporter.begin(waiting, waiter)
        reporter.end(waiting, waiter, was_finished=False)
    assert events == []
    assert not is_finished(None)
