"""Errors that nobody has read: told to the driver once nobody can read them any more.

An error of user code (or the death of the process that ran it) is entered here when its task ends. It is read when
somebody gets it, asks for it, or when a task that depends on it takes it over. What is left when the last ref of the
task goes, or when the driver says goodbye, would be lost without a word: a driver that calls and does not look at the
result is told. Several return values of one task are one error.

A thousand errors of one function are not told a thousand times: the first ten are, then the 100th, the 1000th, ...
"""

from __future__ import annotations

from typing import Any

from asyncray.config import TOLD_SINGLY
from asyncray.core.outbox import Outbox
from asyncray.core.records import Job, ObjectEntry, Task, Template
from asyncray.exceptions import ActorDiedError
from asyncray.ids import task_of
from asyncray.messages import ERROR, FAULT, UNREAD


class Unread:
    """The errors of one node that nobody has read yet, by task."""

    __slots__ = ("_others", "_outbox", "errors")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.errors: dict[bytes, tuple[Template, str, int, Any]] = {}
        self._others: dict[bytes, int] = {}  # tasks with several return values: so many can still be read

    def __repr__(self) -> str:
        return f"<Unread {len(self.errors)}>"

    def failed(self, task: Task, kind: int, payload: Any) -> None:
        """A task ends with an error. Whoever cancelled it knows, and of a constructor its actor's calls tell."""
        if task.cancelled or task.is_constructor or not _is_news(kind, payload):
            return
        if task.returns:
            self.errors[task.id] = task.template, task.name, kind, payload
            task.template.job.unread[task.id] = None
            if len(task.returns) > 1:
                self._others[task.id] = len(task.returns)
        else:
            self.tell(task.template, task.name, kind, payload)

    def read(self, object_id: bytes) -> None:
        """Somebody has it, or will have it."""
        self._take(task_of(object_id))

    def gone(self, entry: ObjectEntry) -> None:
        """The object of an error is freed. While another one of its task's is not, that may be read."""
        task_id = task_of(entry.id)
        others = self._others.get(task_id, 1) - 1
        if others:
            self._others[task_id] = others
            return
        error = self._take(task_id)
        if error is not None:
            self.tell(*error)

    def _take(self, task_id: bytes) -> tuple[Template, str, int, Any] | None:
        error = self.errors.pop(task_id, None)
        if error is not None:
            self._others.pop(task_id, None)
            del error[0].job.unread[task_id]
        return error

    def job_ends(self, job: Job) -> None:
        """The driver is about to end, with all its refs."""
        for task_id in list(job.unread):
            error = self._take(task_id)
            assert error is not None
            self.tell(*error)

    def tell(self, template: Template, name: str, kind: int, payload: Any) -> None:
        """Tells the driver of an error of this function, or of a constructor that nobody has called after.

        Args:
            name: of the task.
        """
        template.unread += 1
        count, driver = template.unread, template.job.driver
        if driver is not None and (count <= TOLD_SINGLY or str(count).strip("0") == "1"):
            self._outbox.send(driver, (UNREAD, name, kind, payload, count))

    def check(self, table: dict[bytes, ObjectEntry]) -> None:
        """Raises AssertionError where an error is kept for objects that are gone."""
        alive = {task_of(object_id) for object_id in table}
        assert alive.issuperset(self.errors), f"{self} has errors of no object"
        assert self.errors.keys() >= self._others.keys(), f"{self} counts what was read"


def _is_news(kind: int, payload: Any) -> bool:
    if kind != FAULT:
        return kind == ERROR
    name, fields = payload
    if name in ("ActorDiedError", "ActorUnavailableError"):  # not of one that ended because it was to end
        message = str(fields.get("message", ""))
        return message.startswith(ActorDiedError.CREATION_FAILED) or ActorDiedError.WORKER_DIED in message
    return bool(name == "WorkerCrashedError")
