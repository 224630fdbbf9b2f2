"""A thread belongs to the task of its starter, and after that task to the one that runs."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncray.runtime.context import TaskContext, enter, enter_main, leave, running_task
from asyncray.worker.threads import inheriting

start = inheriting(threading.Thread.start)


def task(name: str) -> TaskContext:
    return TaskContext(name.encode(), name, f"module.{name}")


def seen_by(thread: threading.Thread, seen: list[TaskContext | None]) -> TaskContext | None:
    start(thread)
    thread.join()
    return seen.pop()


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    yield
    last = task("last")
    enter_main(last)
    leave(last)
    assert running_task() is None


def test_it_belongs_to_the_task_of_its_starter_and_so_do_its_own() -> None:
    seen: list[TaskContext | None] = []

    def look() -> None:
        seen.append(running_task())

    def begin_another() -> None:
        inner = threading.Thread(target=look)
        start(inner)
        inner.join()

    main, nested = task("main"), task("nested")
    assert seen_by(threading.Thread(target=look), seen) is None
    enter_main(main)
    assert seen_by(threading.Thread(target=look), seen) is main
    enter(nested)
    for target in (look, begin_another):
        assert seen_by(threading.Thread(target=target), seen) is nested
    leave(nested)
    assert seen_by(threading.Thread(target=begin_another), seen) is main


def test_it_outlives_its_task() -> None:
    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    seen: list[TaskContext | None] = []

    def look_four_times() -> None:
        for _ in range(4):
            turn.acquire()
            seen.append(running_task())
            done.release()

    def let_it_look() -> TaskContext | None:
        turn.release()
        done.acquire()
        return seen[-1]

    first, second = task("first"), task("second")
    enter_main(first)
    thread = threading.Thread(target=look_four_times)
    start(thread)
    assert let_it_look() is first
    leave(first)
    assert let_it_look() is first  # nothing else runs
    enter_main(second)
    assert let_it_look() is second
    leave(second)
    assert let_it_look() is first
    thread.join()


def test_copies_of_a_context_go_on_with_it() -> None:
    first, second = task("first"), task("second")
    enter(first)
    copied = contextvars.copy_context()
    enter(second)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(copied.run, running_task).result() is first


class Own(threading.Thread):
    """A thread with a ``run`` of its own. A test puts another ``run`` into the instance."""

    def __init__(self, seen: list[TaskContext | None]) -> None:
        super().__init__()
        self.seen = seen

    def run(self) -> None:
        self.seen.append(running_task())
        assert "run" not in self.__dict__


def test_subclasses_and_what_others_have_wrapped() -> None:
    seen: list[TaskContext | None] = []
    here = task("here")
    enter(here)
    assert seen_by(Own(seen), seen) is here
    wrapped = threading.Thread()
    wrapper: Callable[[], None] = lambda: seen.append(running_task())  # noqa: E731 - its type is wanted
    wrapped.run = wrapper  # type: ignore[method-assign]  # as such tools do
    assert seen_by(wrapped, seen) is here
    assert wrapped.run is wrapper


def test_what_cannot_be_started_is_as_before() -> None:
    enter(task("here"))
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    start(thread)
    with pytest.raises(RuntimeError, match="only be started once"):
        start(thread)
    release.set()
    thread.join()
    assert "run" not in thread.__dict__
