"""Reports to the daemon that a task waits, so that the daemon lends the task's CPU to others meanwhile.

In a worker two hooks run around each wait: the worker returns the tasks that were sent ahead to it, and after the wait
it takes such tasks again.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncray.messages import BLOCKED, UNBLOCKED, Message
from asyncray.runtime.context import TaskContext
from asyncray.runtime.waiters import Waiter


class BlockReporter:
    """Reports the waits of tasks. Drivers have no tasks, and report nothing.

    Args:
        post: queues a message for the daemon.
    """

    def __init__(self, post: Callable[[Message], None]) -> None:
        self._post = post
        # Hooks of the worker, in the thread that waits. Set once, before the connection is started.
        self.before: Callable[[TaskContext, Waiter], None] | None = None
        self.after: Callable[[TaskContext], None] | None = None

    def __repr__(self) -> str:
        return f"<BlockReporter {'of a worker' if self.before is not None else 'of a driver'}>"

    def begin(self, task: TaskContext | None, waiter: Waiter) -> None:
        """The task is about to wait: the daemon may lend its CPU."""
        if task is not None and task.blocks:
            self._post((BLOCKED, task.id))
            if self.before is not None:
                self.before(task, waiter)

    def end(self, task: TaskContext | None, *, was_finished: bool) -> None:
        """The task goes on.

        If the task ended while it waited, nothing is reported: the daemon would attribute UNBLOCKED to the retry, which
        has the same ID and may be blocked on this worker.
        """
        if task is not None and task.blocks and task.finished == was_finished:
            # Before the report, because the daemon may send tasks ahead again once it has that.
            if self.after is not None:
                self.after(task)
            self._post((UNBLOCKED, task.id))


def is_finished(task: TaskContext | None) -> bool:
    """True if there is a task, and it has finished."""
    return task is not None and task.finished
