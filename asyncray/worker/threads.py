"""Threads of user code: they belong to the task of the code that starts them.

A context variable names the task that code runs in, and a new thread does not inherit it. So ``Thread.start`` is
wrapped, in workers only, as OpenTelemetry and Sentry do for their own variables. It wraps the instance's ``run`` and
not that of the class, because subclasses have their own; the wrapper is removed when the thread has begun.

Threads of a pool keep the task that made the pool start them. ``asyncio.to_thread`` takes the caller's along. Threads
that C code starts, or ``_thread``, belong to whatever runs on the main thread.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

from asyncray.runtime.context import enter, running_task

Start = Callable[..., None]


def inherit_tasks() -> None:
    """Makes new threads of this process inherit the task of the thread that starts them."""
    threading.Thread.start = inheriting(threading.Thread.start)  # type: ignore[method-assign]  # see the module


def inheriting(start: Start) -> Start:
    """``Thread.start`` for threads that belong to the task of their starter."""

    @functools.wraps(start)
    def start_in_task(self: threading.Thread) -> None:
        task = running_task()
        if task is None:
            start(self)
            return
        own, run = self.__dict__.get("run"), self.run

        def put_back() -> None:
            if own is None:
                self.__dict__.pop("run", None)
            else:
                self.__dict__["run"] = own

        def run_in_task() -> None:
            put_back()
            enter(task)
            run()

        self.__dict__["run"] = run_in_task
        try:
            start(self)
        except BaseException:  # the system starts no thread, or this one was started before
            put_back()
            raise

    return start_in_task
