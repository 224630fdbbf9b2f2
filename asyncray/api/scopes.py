"""``TaskGroup``: a scope that remote work does not outlive.

Owns the refs that were added to it and are not ready. Promises: when the block is left, however that comes, all of
them are; what the scope does not wait for it has cancelled, and awaits the end of that. It is ``asyncio.TaskGroup`` for
refs, with its words and rules (those of 3.13, under every Python), but a callback per ref is enough for it, which takes
no task of the loop. Does not: keep the refs that are ready, know the values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from asyncray.exceptions import AsyncrayError, TaskCancelledError, TaskError
from asyncray.messages import CANCEL
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import Runtime

T = TypeVar("T")


class TaskGroup:
    """A scope for remote work: what is added to it is over when the block is left.

    Awaiting a ref never cancels the work behind it; this does. At its end the block waits for all refs that were added.
    If one fails, or the block raises, or whoever runs it is cancelled, the other refs are cancelled (recursively, as by
    ``asyncray.cancel``), and it waits until they are over: what has not started never runs, a running task is
    interrupted, an async method gets ``asyncio.CancelledError``. A plain method of an actor that already runs cannot be
    interrupted and is waited for, as a task is that catches its ``KeyboardInterrupt`` and goes on. What cancelled tasks
    have submitted themselves is cancelled, but not waited for. The end of the session ends all waiting.

    Raises:
        ExceptionGroup: the errors of the refs that failed and of the block, as from ``asyncio.TaskGroup``. A ref that
            was cancelled, by this scope or by somebody else, counts as over and not as failed.
        asyncio.CancelledError: whoever runs the block was cancelled, and nothing failed.

    Example::

        async with asyncray.TaskGroup() as group:
            left = group.add(work.remote(1))
            right = group.add(work.remote(2))
        print(await left, await right)
    """

    def __init__(self) -> None:
        self._parent: asyncio.Task[Any] | None = None  # who runs the block; None before it
        self._pending: set[ObjectRef[Any]] = set()
        self._errors: list[BaseException] = []
        self._all_over: asyncio.Future[None] | None = None  # of who has left the block and waits
        self._leaving = False
        self._aborting = False
        self._parent_cancelled = False  # by this scope, to end the block

    def __repr__(self) -> str:
        state = "aborting" if self._aborting else "leaving" if self._leaving else "entered" if self._parent else "new"
        return f"<TaskGroup {state}, {len(self._pending)} pending, {len(self._errors)} failed>"

    def add(self, ref: ObjectRef[T]) -> ObjectRef[T]:
        """Makes the scope wait for a ref, and cancel it if need be. Returns the ref.

        Args:
            ref: what ``.remote()`` returned. Of a call with several results add each.

        Raises:
            TypeError: not a ref.
            RuntimeError: the block was not entered, is over, or is being ended by an error. The ref is cancelled then:
                nothing is to outlive the scope.
        """
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"TaskGroup.add() takes an ObjectRef, which f.remote() returns, not {type(ref).__name__}.")
        objects = current.session_of(ref._local).objects
        refusal = self._refusal()
        if refusal is not None:
            _cancel([ref])
            raise RuntimeError(f"{self!r} {refusal}")
        if ref not in self._pending:
            self._pending.add(ref)
            objects.add_callback(ref, lambda ref: self._ready(ref, objects), None)
        return ref

    def _refusal(self) -> str | None:
        if self._parent is None:
            return "has not been entered"
        if self._aborting:
            return "is shutting down"
        return "is finished" if self._leaving and not self._pending else None

    async def __aenter__(self) -> Self:
        if self._parent is not None:
            raise RuntimeError(f"{self!r} has already been entered")
        self._parent = asyncio.current_task()
        if self._parent is None:
            raise RuntimeError(f"{self!r} cannot determine the parent task")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving = True
        if error is not None:
            self._abort()
        cancelled = await self._wait() or (error if isinstance(error, asyncio.CancelledError) else None)
        try:
            self._raise(error, cancelled)
        finally:
            self._errors = []  # errors hold frames, and those hold this

    async def _wait(self) -> asyncio.CancelledError | None:
        """Waits until all refs are ready. Who waits may be cancelled: that ends the refs, not the waiting."""
        cancelled = None
        while self._pending:
            self._all_over = asyncio.get_running_loop().create_future()
            try:
                await self._all_over
            except asyncio.CancelledError as caught:
                if not self._aborting:
                    cancelled = caught
                    self._abort()
        return cancelled

    def _raise(self, error: BaseException | None, cancelled: BaseException | None) -> None:
        """Raises what the block is to raise, given what was raised in it."""
        parent = cast("asyncio.Task[Any]", self._parent)
        if self._parent_cancelled and parent.uncancel() == 0:
            cancelled = None  # it was only this scope
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise error
        if cancelled is not None and not self._errors:
            raise cancelled
        if error is not None and not isinstance(error, asyncio.CancelledError):
            _remove_copy(self._errors, error)
            self._errors.append(error)
        if self._errors:
            if parent.cancelling():  # from outside: the next await is to raise it, as the group hides it
                parent.uncancel()
                parent.cancel()
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors) from None

    def _ready(self, ref: ObjectRef[Any], objects: current.ObjectReader) -> None:
        self._pending.discard(ref)
        if not self._pending and self._all_over is not None and not self._all_over.done():
            self._all_over.set_result(None)
        error = objects.error(ref._local)
        if error is None or _is_cancellation(error, self._aborting):
            return
        self._errors.append(error)
        if not self._aborting:
            self._abort()
            if not self._leaving:
                self._parent_cancelled = True
                cast("asyncio.Task[Any]", self._parent).cancel()

    def _abort(self) -> None:
        self._aborting = True
        _cancel(self._pending)


def _cancel(refs: Iterable[ObjectRef[Any]]) -> None:
    """Cancels the tasks of those refs whose session is not over, in one batch."""
    runtime = cast("Runtime | None", current.session)
    if runtime is not None:
        for ref in refs:
            if ref._local.table is runtime.references:
                runtime.post((CANCEL, ref.task_id(), False, True))
        runtime.flush()


def _is_cancellation(error: BaseException, by_us: bool) -> bool:
    """A task whose ``get`` raised that its child was cancelled has failed, except where we have cancelled both."""
    return isinstance(error, TaskCancelledError) and (by_us or not isinstance(error, TaskError))


def _remove_copy(errors: list[BaseException], error: BaseException) -> None:
    """Whoever awaits a failed ref in the block gets the error that the ref has already given: it is told once."""
    if isinstance(error, AsyncrayError):
        for index, known in enumerate(errors):
            if isinstance(known, AsyncrayError) and str(known) == str(error):
                del errors[index]
                return
