"""Unread errors: reports an error to the driver once no process can read it any more.

When a task ends with an error of user code, or with the death of the process that ran it, the node enters the error
here. The error counts as read when a process gets it or waits for it, or when a task that depends on it fails with it.
An error that is still unread when the last ref of its task is released, or when the driver says goodbye, would be lost
silently. So a driver that never looks at a result receives UNREAD. Several return values of one task are one error.

The driver does not receive all of a thousand errors of one function: it receives the first ten, then the 100th, the
1000th, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncray.config import REPORTED_SINGLY
from asyncray.core.outbox import Outbox
from asyncray.core.records import Job, ObjectEntry, Task, Template
from asyncray.exceptions import ActorDiedError
from asyncray.ids import task_of
from asyncray.messages import ERROR, FAULT, UNREAD


class Unread:
    """The unread errors of one node, by task."""

    __slots__ = ("_others", "_outbox", "errors")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        # ID of a task -> its template and name, and the kind and payload of its error.
        self.errors: dict[bytes, tuple[Template, str, int, Any]] = {}
        # ID of a task with several return values -> how many of them are not freed.
        self._others: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Unread {len(self.errors)}>"

    def failed(self, task: Task, kind: int, payload: Any) -> None:
        """A task ends with an error: enters it.

        Leaves out cancelled tasks, because the canceller knows, and constructors, because the actor's calls fail with
        the same error.
        """
        if task.cancelled or task.is_constructor or not _is_news(kind, payload):
            return
        if task.returns:
            self.errors[task.id] = task.template, task.name, kind, payload
            task.template.job.unread[task.id] = None
            if len(task.returns) > 1:
                self._others[task.id] = len(task.returns)
        else:
            self.report(task.template, task.name, kind, payload)

    def read(self, object_id: bytes) -> None:
        """A process or a dependent task has the error of this object, or will have it."""
        self._take(task_of(object_id))

    def freed(self, entry: ObjectEntry) -> None:
        """The object of an error is freed: reports the error, unless another return value of its task still exists."""
        task_id = task_of(entry.id)
        others = self._others.get(task_id, 1) - 1
        if others:
            self._others[task_id] = others
            return
        error = self._take(task_id)
        if error is not None:
            self.report(*error)

    def _take(self, task_id: bytes) -> tuple[Template, str, int, Any] | None:
        error = self.errors.pop(task_id, None)
        if error is not None:
            self._others.pop(task_id, None)
            del error[0].job.unread[task_id]
        return error

    def job_ends(self, job: Job) -> None:
        """The driver is about to end, with all its refs: reports every unread error of its job."""
        for task_id in list(job.unread):
            error = self._take(task_id)
            assert error is not None
            self.report(*error)

    def report(self, template: Template, name: str, kind: int, payload: Any) -> None:
        """Counts an error of this function and reports it to the driver, if the driver is to see this count.

        The function may also be a constructor whose actor got no call afterwards.

        Args:
            name: of the task.
        """
        template.unread += 1
        count = template.unread
        if count <= REPORTED_SINGLY or str(count).strip("0") == "1":
            self._outbox.send_to_driver(template.job, (UNREAD, name, kind, payload, count))

    def check(self, table: Mapping[bytes, ObjectEntry]) -> None:
        """Raises AssertionError if an error is kept for objects that were freed."""
        alive = {task_of(object_id) for object_id in table}
        assert alive.issuperset(self.errors), f"{self} has errors of no object"
        assert self.errors.keys() >= self._others.keys(), f"{self} counts errors that were read"


def _is_news(kind: int, payload: Any) -> bool:
    if kind != FAULT:
        return kind == ERROR
    name, fields = payload
    # An actor that was ended on purpose is no news; one that crashed or failed in its constructor is.
    if name in ("ActorDiedError", "ActorUnavailableError"):
        message = str(fields.get("message", ""))
        return message.startswith(ActorDiedError.CREATION_FAILED) or ActorDiedError.WORKER_DIED in message
    return bool(name == "WorkerCrashedError")
