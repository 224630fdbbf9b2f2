"""Nested tasks: cancelled on their thread between any two instructions, but not while they write."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from asyncray.messages import PLAIN, RUN_NESTED
from asyncray.runtime.waiters import Waiters
from asyncray.worker.definitions import Definition, SentFunction
from asyncray.worker.nesting import NestedTask
from asyncray.worker.running import Invocation

DEADLINE = 30.0


@pytest.fixture
def nested() -> NestedTask:
    definition = Definition({"function": b"", "name": "f", "returns": 1}, SentFunction(pickle.dumps(len)))
    return NestedTask(Invocation((RUN_NESTED, b"id", 1, PLAIN, b"", None, None), definition, blocks=True), Waiters())


def run(nested: NestedTask, function: Any) -> list[Any]:
    """Runs the function as the task, on its thread."""
    outcome: list[Any] = []

    def target(task: NestedTask) -> None:
        try:
            outcome.append(task.run(function, (), {}))
        except KeyboardInterrupt:
            outcome.append("interrupted")

    nested.start(target)
    return outcome


def test_a_task_that_was_stopped_before_does_not_begin(nested: NestedTask) -> None:
    nested.stop()
    outcome = run(nested, lambda: "ran")
    nested.join()
    assert outcome == ["interrupted"]


def test_a_running_task_is_interrupted(nested: NestedTask) -> None:
    begun = threading.Event()

    def spin() -> None:
        begun.set()
        while True:
            pass

    outcome = run(nested, spin)
    begun.wait(DEADLINE)
    nested.stop()
    nested.join()
    assert outcome == ["interrupted"]
    assert nested.invocation.context.cancelled


def test_inside_the_shield_the_interrupt_waits(nested: NestedTask) -> None:
    inside, stopped = threading.Event(), threading.Event()
    written: list[str] = []

    def write() -> None:
        with nested:
            inside.set()
            stopped.wait(DEADLINE)
            written.append("whole")
        written.append("never")

    outcome = run(nested, write)
    inside.wait(DEADLINE)
    nested.stop()
    stopped.set()
    nested.join()
    assert (outcome, written) == (["interrupted"], ["whole"])


def test_a_task_that_has_finished_cannot_be_interrupted(nested: NestedTask) -> None:
    outcome = run(nested, lambda: "ran")
    nested.join()
    nested.stop()
    assert outcome == ["ran"]
    assert nested.working is None
