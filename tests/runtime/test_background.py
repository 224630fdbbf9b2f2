"""Threads for jobs that nobody waits for."""

from __future__ import annotations

import functools
import os
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from asyncray.runtime.background import BackgroundThreads

DEADLINE = 10.0


def test_jobs_are_done_in_order_on_one_thread_that_starts_with_the_first() -> None:
    threads = BackgroundThreads("test")
    assert not threads._threads
    done: list[tuple[int, str]] = []

    def note(number: int) -> None:
        done.append((number, threading.current_thread().name))

    for number in range(100):
        threads.submit(functools.partial(note, number))
    threads.close(DEADLINE)
    assert done == [(number, "test") for number in range(100)]
    assert not any(thread.is_alive() for thread in threads._threads)


def test_a_job_that_blocks_leaves_the_other_threads() -> None:
    threads = BackgroundThreads("test", most=3)
    gate, done = threading.Event(), threading.Event()
    threads.submit(gate.wait)
    threads.submit(gate.wait)
    threads.submit(done.set)
    assert done.wait(DEADLINE)
    for _ in range(5):
        threads.submit(gate.wait)
    assert len(threads._threads) <= 3
    gate.set()
    threads.close(DEADLINE)


def test_jobs_and_hooks_that_fail_do_not_keep_the_next_job_waiting(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda report: 1 / 0)
    threads = BackgroundThreads("test", most=1)
    done = threading.Event()
    threads.submit(lambda: os.environ["NO_VARIABLE"])
    threads.submit(done.set)
    assert done.wait(DEADLINE)
    threads.close(DEADLINE)
    assert "KeyError: 'NO_VARIABLE'" in capfd.readouterr().err


class _HeldQueue(SimpleQueue[Any]):
    """The thread has taken the first job from this queue, and does not begin it until ``go_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.go_on = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        job = super().get(block, timeout)
        if not self.taken.is_set():
            self.taken.set()
            self.go_on.wait(DEADLINE)
        return job


def test_a_thread_that_takes_a_job_is_not_idle() -> None:
    threads = BackgroundThreads("test", most=2)
    threads._queue = queue = _HeldQueue()
    gate, done = threading.Event(), threading.Event()
    threads.submit(gate.wait)
    assert queue.taken.wait(DEADLINE)
    threads.submit(done.set)
    queue.go_on.set()
    assert done.wait(DEADLINE)
    gate.set()
    threads.close(DEADLINE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_raises_is_reported_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: reported.append(arguments.exc_type))
    threads = BackgroundThreads("test")

    def leave() -> None:
        raise SystemExit

    done = threading.Event()
    threads.submit(leave)
    threads.submit(done.set)
    assert done.wait(DEADLINE)
    threads.close(DEADLINE)
    assert reported == [SystemExit]


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = BackgroundThreads("test", most=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(print)
    gate, done = threading.Event(), threading.Event()
    threads.submit(gate.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        threads.submit(done.set)  # the thread that is there does it
    gate.set()
    assert done.wait(DEADLINE)
    threads.close(DEADLINE)


def test_the_end_does_what_was_queued_and_waits_not_for_itself() -> None:
    threads = BackgroundThreads("test")
    done = threading.Event()
    threads.submit(lambda: threads.close(DEADLINE))
    threads._threads[0].join(DEADLINE)
    threads.put(done.set)  # after the end: by the caller
    assert done.is_set()
