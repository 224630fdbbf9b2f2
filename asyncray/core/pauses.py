"""Pauses before a task starts again because its process has ended: of constructors of actors, and of retries.

A task whose process crashes at once would otherwise occupy the node with forks. How long a task pauses is decided by
``actors`` and ``outcomes``.

Invariants (``check``): a task that pauses is WAITING, or has ended meanwhile and is forgotten when its pause ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from asyncray.core.records import Task
from asyncray.core.states import FINISHED, WAITING

FIRST_PAUSE = 0.1
"""Seconds before the second start after a crash; twice as many before each further one. The first comes at once."""

LONGEST_PAUSE = 10.0
"""Seconds: a pause grows no further."""

NEAR = 1.0
"""When a start is due within so many seconds, the shell ticks quickly, so that the start is on time."""


def pause_before_retry(retry: int) -> float:
    """Seconds before the first (1), second (2), ... retry of a task whose process crashes."""
    if retry <= 1:
        return 0.0
    return min(FIRST_PAUSE * 2.0 ** min(retry - 2, 30), LONGEST_PAUSE)


class Pauses:
    """The tasks that pause.

    Args:
        start: queues a task whose pause has ended.
    """

    def __init__(self, start: Callable[[Task], None]) -> None:
        self._start = start
        # Task -> when its pause ends.
        self._until: dict[Task, float] = {}
        # The earliest time in ``_until``, or an earlier one that is not in it any more.
        self._next = math.inf

    def __repr__(self) -> str:
        return f"<Pauses of {len(self._until)} tasks>"

    def add(self, task: Task, until: float) -> None:
        """The task starts again when that time has come."""
        task.state = WAITING
        self._until[task] = until
        self._next = min(self._next, until)

    def forget(self, task: Task) -> None:
        """The task does not start again."""
        self._until.pop(task, None)

    def is_near(self, now: float) -> bool:
        """True if a start is due within NEAR seconds."""
        return self._next - now < NEAR

    def tick(self, now: float) -> None:
        """Some time has passed: starts the tasks whose pause has ended."""
        if now < self._next:
            return
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            if task.state == WAITING:
                self._start(task)
        self._next = min(self._until.values(), default=math.inf)

    def check(self) -> None:
        """Raises AssertionError if a task pauses that waits for its arguments, or was queued meanwhile."""
        for task in self._until:
            assert task.state in (WAITING, FINISHED), f"{task} pauses"
            assert task.state == FINISHED or not task.missing, f"{task} pauses and waits for its arguments"
