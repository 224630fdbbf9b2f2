"""Nested tasks: cancelled on their thread between any two instructions, but not while they write."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncray.messages import PLAIN, RUN_NESTED
from asyncray.runtime.waiters import Waiters
from asyncray.worker.definitions import Definition, SentFunction
from asyncray.worker.nesting import NestedTask
from asyncray.worker.running import Invocation

DEADLINE = 30.0
ROOT = Path(__file__).parents[2]


def make_nested() -> NestedTask:
    definition = Definition({"function": 0, "name": "f", "returns": 1}, SentFunction(pickle.dumps(len)))
    return NestedTask(Invocation((RUN_NESTED, b"id", 1, PLAIN, b"", None, None), definition), Waiters())


@pytest.fixture
def nested() -> NestedTask:
    return make_nested()


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


TRACED = """
import sys, threading
from tests.worker.test_nesting import make_nested, run

def interrupt_at_the_end():
    with nested._lock:
        threading.Thread(target=nested.stop).start()  # waits for the lock, as the end of the task does

for function in (int, interrupt_at_the_end):
    nested = make_nested()
    run(nested, function)
    nested.join()
    sys.settrace(lambda *args: None)
    make_nested()
    sys.settrace(None)
print("traced")
"""


def test_functions_can_be_traced_after_nested_tasks() -> None:
    """With a mark that stays, a function that is traced never begins in Python 3.11."""
    done = subprocess.run([sys.executable, "-c", TRACED], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == ("traced\n", "")
