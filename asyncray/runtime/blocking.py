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

    Waits of one task overlap: those of coroutines and threads, and that of a signal handler that calls ``get`` while
    the task waits. The daemon counts them, so each wait is reported once at its beginning and once at its end, and the
    worker's hooks get the waiter, by which they tell the waits apart.

    Args:
        append: queues a message for the daemon. A function in C, at whose beginning no signal handler runs.
        request_flush: sees to it that the queue is sent.
    """

    def __init__(self, append: Callable[[Message], None], request_flush: Callable[[], None]) -> None:
        self._append = append
        self._request_flush = request_flush
        # Hooks of the worker, in the thread that waits. Set once, before the connection is started.
        self.before: Callable[[TaskContext, Waiter], None] | None = None
        self.after: Callable[[Waiter], None] | None = None

    def __repr__(self) -> str:
        return f"<BlockReporter {'of a worker' if self.before is not None else 'of a driver'}>"

    def begin(self, task: TaskContext | None, waiter: Waiter) -> None:
        """The task is about to wait: the daemon may lend its CPU. The caller flushes."""
        if task is not None and task.blocks:
            # No signal handler runs between these lines: a wait is marked exactly if it is reported.
            waiter.reported = True
            self._append((BLOCKED, task.id))
            if self.before is not None:
                self.before(task, waiter)

    def end(self, task: TaskContext | None, waiter: Waiter, *, was_finished: bool) -> None:
        """The wait has ended. Does nothing if it was not reported, or if its end was.

        If the task ended while it waited, nothing is reported: the daemon would attribute UNBLOCKED to the retry, which
        has the same ID and may be blocked on this worker.
        """
        if waiter.reported and task is not None and task.finished == was_finished:
            # Before the report, because the daemon may send tasks ahead again once it has that.
            if self.after is not None:
                self.after(waiter)
            # As above.
            waiter.reported = False
            self._append((UNBLOCKED, task.id))
            self._request_flush()


def is_finished(task: TaskContext | None) -> bool:
    """True if there is a task, and it has finished."""
    return task is not None and task.finished
