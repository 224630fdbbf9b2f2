"""The session of this process, if there is one, and how to get one. Below ``Runtime``, so that refs can use it.

Promises: an object of an ended session, or of the process that this one was forked from, raises and starts nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from asyncray.exceptions import NotStartedError, OwnerDiedError
from asyncray.runtime.references import LocalObject, References
from asyncray.runtime.waiters import Waiters


class ObjectReader(Protocol):
    """The side of the runtime that reads objects for refs."""

    def load(self, local: LocalObject) -> Any:
        """The value of an object that has arrived."""

    def load_async(self, local: LocalObject) -> Awaitable[Any]:
        """Waits for the object in a coroutine; its value."""

    def future(self, ref: Any) -> Any:
        """A ``concurrent.futures.Future`` with the object's value."""

    def is_done(self, local: LocalObject) -> bool:
        """True if the object has arrived, or cannot arrive any more."""

    def error(self, local: LocalObject) -> BaseException | None:
        """The exception that ``load`` would raise; None for a value."""

    def add_callback(self, ref: Any, function: Callable[[Any], object], context: Any) -> None:
        """The running loop calls ``function(ref)`` when the object has arrived, or cannot arrive any more."""


class SessionLike(Protocol):
    """The parts of a runtime that refs use."""

    references: References
    waiters: Waiters

    @property
    def objects(self) -> ObjectReader:
        """Reads objects."""


session: SessionLike | None = None
"""The connection of this process. Written by the thread that starts or ends it, under the lock of the session."""

start_implicitly: Callable[[], None] | None = None
"""Starts a session for a program that did not call ``init``; None where that is switched off."""


def require() -> SessionLike:
    """The session; starts one implicitly where that is allowed.

    Raises:
        NotStartedError: there is none, and none is started implicitly.
    """
    if session is None and start_implicitly is not None:
        start_implicitly()
    if session is None:
        raise NotStartedError
    return session


def check_started() -> None:
    """Raises NotStartedError if there is no session and none is started implicitly. Starts none."""
    if session is None and start_implicitly is None:
        require()


def session_of(local: LocalObject) -> SessionLike:
    """The session that an object belongs to.

    Raises:
        OwnerDiedError: that session has ended.
        NotStartedError: there is no session at all, and none is started implicitly.
    """
    if session is not None and local.table is session.references:
        return session
    check_started()
    raise session_ended_error(local)


def session_ended_error(local: LocalObject) -> OwnerDiedError:
    """The error for an object whose session has ended."""
    return OwnerDiedError(
        f"ObjectRef({local.id.hex()}) belongs to another session: its node was left by shutdown(). Refs do not outlive "
        "the session in which they were made.",
        object_id=local.id.hex(),
    )
