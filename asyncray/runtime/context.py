"""The task that running code belongs to.

Tasks run on several threads and, in async actors, as several coroutines of one thread: a context variable tells them
apart. The asyncio tasks and threads that user code starts (see ``asyncray.worker.threads``) inherit the variable of
their starter. When that task has finished, the threads that it left running belong to the task on the main thread, if
one runs there: a pool of threads serves one task after the other, and when one of its threads waits, the CPU of the
running task is free.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from asyncray.io.interrupts import with_signals_deferred

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class WorkerInfo(Protocol):
    """The facts that a worker process offers to the code that runs in it."""

    @property
    def actor_id(self) -> bytes | None:
        """The actor of the process."""

    @property
    def actor_name(self) -> str | None:
        """Its name, empty if it has none."""

    @property
    def descriptor(self) -> bytes:
        """The pickled class description from which handles of the actor are made."""

    @property
    def restarted(self) -> bool:
        """True in a restarted actor."""

    @property
    def devices(self) -> list[Any]:
        """Assigned GPUs."""

    @property
    def demand(self) -> Sequence[tuple[str, int]]:
        """Assigned resources: [name, fixed amount]."""

    def exit_actor(self) -> NoReturn:
        """Ends the actor. Raises TypeError where there is none."""


class TaskContext:
    """The running task, as the code in it may ask."""

    __slots__ = ("blocks", "cancelled", "finished", "function_name", "group", "id", "name", "shield")

    def __init__(self, task_id: bytes, name: str, function_name: str) -> None:
        self.id = task_id
        self.name = name
        self.function_name = function_name
        # Waiting inside this task should lend its CPU. No argument: a keyword would cost 0.15 us.
        self.blocks = True
        # The placement group that it runs in, and whether its children go there, too. None outside of groups.
        self.group: tuple[bytes, bool] | None = None
        # Set by the thread that interrupts the task, before it does. The task submits only clean-up afterwards.
        self.cancelled = False
        # Set by ``leave``.
        self.finished = False
        # Inside it the thread of a nested task is not interrupted; None for all other tasks.
        self.shield: AbstractContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<TaskContext {self.id.hex()} {self.name}>"


_variable: ContextVar[TaskContext | None] = ContextVar("asyncray_task", default=None)
_main_task: TaskContext | None = None

capturing = False
"""Tasks of this process may run in a placement group that captures their children. ``capture_children`` sets it."""


def running_task() -> TaskContext | None:
    """The task that the caller belongs to; None in a driver."""
    task = _variable.get()
    if task is None:
        return _main_task
    return (_main_task or task) if task.finished else task


def capture_children() -> None:
    """From now on calls look whether the running task captures its children."""
    global capturing
    capturing = True


def current_group() -> tuple[bytes, bool] | None:
    """The placement group of the running task, and whether it captures its children; None outside of groups."""
    task = running_task()
    return None if task is None else task.group


def enter(context: TaskContext) -> None:
    """This thread or coroutine runs that task from now on."""
    _variable.set(context)


def enter_main(context: TaskContext) -> None:
    """The main thread runs that task from now on. Threads of no task, or of a finished one, belong to it."""
    global _main_task
    _main_task = context
    _variable.set(context)


def leave(context: TaskContext) -> None:
    """The task that this thread or coroutine runs has finished."""
    global _main_task
    context.finished = True
    _variable.set(None)
    if _main_task is context:
        _main_task = None


def forget_tasks() -> None:
    """A forked child runs no task, in any inherited context: a session that it starts is that of a driver."""
    global _variable, _main_task
    _variable = ContextVar("asyncray_task", default=None)
    _main_task = None


def in_event_loop() -> bool:
    """True in a thread whose event loop is running."""
    asyncio = sys.modules.get("asyncio")  # start-up cost: a program without it has no loop
    return asyncio is not None and asyncio._get_running_loop() is not None


def uninterrupted(work: Callable[[], None]) -> None:
    """Does the work; signal handlers, and the interrupt of a cancelled task, wait until it is done."""
    task = running_task()
    if task is None or task.shield is None:
        with_signals_deferred(work)
    else:
        with task.shield:
            work()
