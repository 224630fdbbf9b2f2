"""The task that code runs in, in threads and coroutines."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from types import TracebackType

from asyncray.runtime.context import (
    TaskContext,
    enter,
    enter_main,
    forget_tasks,
    in_event_loop,
    leave,
    running_task,
    uninterrupted,
)


def task(name: str) -> TaskContext:
    return TaskContext(name.encode(), name, f"m.{name}")


def test_a_thread_without_a_loop_is_none() -> None:
    async def main() -> tuple[bool, bool]:
        return in_event_loop(), await asyncio.to_thread(in_event_loop)

    assert not in_event_loop()
    assert asyncio.run(main()) == (True, False)


def test_coroutines_of_one_thread_run_different_tasks() -> None:
    async def run(name: str) -> str | None:
        enter(task(name))
        await asyncio.sleep(0)
        running = running_task()
        return None if running is None else running.name

    async def main() -> list[str | None]:
        return list(await asyncio.gather(run("one"), run("two")))

    assert asyncio.run(main()) == ["one", "two"]
    assert running_task() is None


def test_what_a_finished_task_left_running_belongs_to_the_task_on_the_main_thread() -> None:
    first, second = task("first"), task("second")

    def check() -> None:
        enter_main(first)
        inherited = contextvars.copy_context()
        leave(first)
        assert inherited.run(running_task) is first
        enter_main(second)
        assert inherited.run(running_task) is second
        found: list[TaskContext | None] = []
        thread = threading.Thread(target=lambda: found.append(running_task()))
        thread.start()
        thread.join()
        assert found == [second]
        leave(second)
        assert running_task() is None

    contextvars.copy_context().run(check)


class Shield:
    entered = False

    def __enter__(self) -> None:
        self.entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.entered = False


def test_work_of_a_nested_task_is_done_inside_its_shield() -> None:
    nested, shield, found = task("nested"), Shield(), list[bool]()
    nested.shield = shield

    def check() -> None:
        enter(nested)
        uninterrupted(lambda: found.append(shield.entered))

    contextvars.copy_context().run(check)
    uninterrupted(lambda: found.append(shield.entered))
    assert found == [True, False]


def test_a_forked_child_runs_no_task_in_any_context() -> None:
    main, other = task("main"), task("other")

    def check() -> None:
        enter_main(main)
        context = contextvars.copy_context()
        context.run(enter, other)
        if pid := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert (running_task(), context.run(running_task)) == (main, other)
            leave(main)
        else:
            forget_tasks()
            os._exit((running_task(), context.run(running_task)) != (None, None))

    contextvars.copy_context().run(check)
