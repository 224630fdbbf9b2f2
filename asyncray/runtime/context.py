"""Which task this code runs in.

Tasks run on several threads and, in async actors, as several coroutines of one thread: a context variable tells them
apart. What user code starts (asyncio tasks, and threads, see ``asyncray.worker.threads``) has the variable of its
starter. When that task is over, what it has left running belongs to the task on the main thread if there is one: a pool
of threads serves one task after the other, and when one of them waits, the CPU of the running task is free.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class WorkerInfo(Protocol):
    """What a worker process offers to the code that runs in it."""

    @property
    def actor_id(self) -> bytes | None:
        """The actor of the process."""

    @property
    def actor_name(self) -> str | None:
        """Its name, empty if it has none."""

    @property
    def descriptor(self) -> bytes:
        """What handles of the actor are made of."""

    @property
    def restarted(self) -> bool:
        """True in a restarted actor."""

    @property
    def devices(self) -> list[Any]:
        """Assigned GPUs."""

    @property
    def demand(self) -> list[Any]:
        """Assigned resources: [name, fixed amount]."""

    def exit_actor(self) -> NoReturn:
        """Ends the actor. Raises TypeError where there is none."""


class TaskContext:
    """The running task, as the code in it may ask."""

    __slots__ = ("blocks", "cancelled", "finished", "function_name", "id", "name", "shield")

    def __init__(self, task_id: bytes, name: str, function_name: str, blocks: bool) -> None:
        self.id = task_id
        self.name = name
        self.function_name = function_name
        self.blocks = blocks  # to wait in it holds resources that others may use meanwhile
        self.cancelled = False
        self.finished = False
        self.shield: AbstractContextManager[None] | None = None  # inside it the thread is not interrupted

    def __repr__(self) -> str:
        return f"<TaskContext {self.id.hex()} {self.name}>"


_variable: ContextVar[TaskContext | None] = ContextVar("asyncray_task", default=None)
_main: list[TaskContext | None] = [None]


def running_task() -> TaskContext | None:
    """The task that the caller belongs to; None in a driver."""
    task = _variable.get()
    if task is None:
        return _main[0]
    return (_main[0] or task) if task.finished else task


def enter(context: TaskContext) -> None:
    """This thread or coroutine runs that task from now on."""
    _variable.set(context)


def enter_main(context: TaskContext) -> None:
    """The main thread runs that task from now on, and threads of none, or of one that is over, belong to it."""
    _main[0] = context
    _variable.set(context)


def leave(context: TaskContext) -> None:
    """The task that this thread or coroutine runs is over."""
    context.finished = True
    _variable.set(None)
    if _main[0] is context:
        _main[0] = None
