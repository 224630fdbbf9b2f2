"""The inbox of a worker: tasks and calls that were sent to it and have not started.

The io thread puts them in, and the thread that works takes them out.

Work that has not started can be taken back at any moment (by the daemon, a cancelled task, a task that blocks): every
message is taken out exactly once. While the inbox is *closed* (the task on the main thread waits for an object, or the
process is about to end) it accepts no work, and returns it to the daemon at once. It always accepts the message that
ends the process, and messages about functions that are forgotten.

A task may wait in several places at once: in coroutines, or in a signal handler that calls ``get`` while the task
waits. So the inbox knows each reason for which it is closed, and opens when none is left.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue

from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import LEAVE, UNDEFINE, Received


class Inbox:
    """The queue."""

    def __init__(self) -> None:
        # Messages that have not started, in order.
        self._queue: SimpleQueue[Received] = SimpleQueue()
        # The next message; waits for it. Bound here, as each is called for each message.
        self.take = self._queue.get
        # True if ``take`` would wait now.
        self.empty = self._queue.empty
        # Re-entrant: a finalizer may come here in a thread that holds it.
        self._lock = OwnedRLock()
        # Why no work is accepted: waits of the task, the end of the process. Empty while it is open. ``close`` adds
        # under the lock; the others take out without, because a forked child may be in the middle of a wait.
        self.closed_by: set[object] = set()

    def __repr__(self) -> str:
        return f"<Inbox {self._queue.qsize()} messages{', closed' if self.closed_by else ''}>"

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up inside a critical section of this object."""
        return self._lock.held_by_this_thread()

    def put(self, message: Received) -> bool:
        """False if the inbox is closed: the message must go back."""
        with self._lock:
            if self.closed_by and message[0] not in (LEAVE, UNDEFINE):
                return False
            self._queue.put(message)
            return True

    def filled(self) -> bool:
        """True if ``take`` would not wait now."""
        return not self._queue.empty()

    def drain(self) -> list[Received]:
        """Takes out all messages."""
        messages = []
        try:
            while True:
                messages.append(self._queue.get_nowait())
        except Empty:
            return messages

    def remove(self, task_id: bytes) -> Received | None:
        """Takes out one task. None if it was started, or never came."""
        with self._lock:
            return self._pick(task_id)

    def _pick(self, task_id: bytes) -> Received | None:
        found = None
        for message in self.drain():
            if message[1] == task_id:
                found = message
            else:
                self._queue.put(message)
        return found

    def close(self, reason: object) -> list[Received]:
        """Accepts no more work; takes out all messages."""
        with self._lock:
            self.closed_by.add(reason)
            return self.drain()

    def reopen(self, reason: object) -> None:
        """The reason does not hold any more: accepts work again, unless there is another."""
        self.closed_by.discard(reason)

    def reopen_for_next(self) -> None:
        """The task has ended, and the waits with it that it has left: accepts work again."""
        self.closed_by.clear()
