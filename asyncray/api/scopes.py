"""``TaskGroup``: a scope that remote work does not outlive.

Owns the refs that were added to it and are not ready. Promises: when the block ends, for whatever reason, all of them
are ready; the scope cancels the tasks that it does not wait for, and awaits their end. It is ``asyncio.TaskGroup``
for refs, with its words and rules (those of 3.13, under every Python), but it needs only a callback per ref and no
task of the loop. Does not: keep the refs that are ready, know the values.
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
    """A scope for remote work: all refs that were added to it have finished when the block ends.

    Awaiting a ref never cancels the work behind it; this does. At its end the block waits for all refs that were
    added. If one fails, if the block raises, or if the task that runs the block is cancelled, the scope cancels the
    other refs (recursively, as by ``asyncray.cancel``) and waits until they have finished: a task that has not
    started never runs, a running task is interrupted, an async method gets ``asyncio.CancelledError``. The scope
    waits for a plain method of an actor that already runs, because it cannot be interrupted, and for a task that
    catches its ``KeyboardInterrupt`` and goes on. The tasks that cancelled tasks have submitted themselves are
    cancelled, too, but the scope does not wait for them. The end of the session ends all waiting.

    Raises:
        ExceptionGroup: the errors of the refs that failed and of the block, as from ``asyncio.TaskGroup``. A ref that
            was cancelled, by this scope or by other code, counts as finished and not as failed.
        asyncio.CancelledError: the task that runs the block was cancelled, and nothing failed.

    Example::

        async with asyncray.TaskGroup() as group:
            left = group.add(work.remote(1))
            right = group.add(work.remote(2))
        print(await left, await right)
    """

    def __init__(self) -> None:
        self._parent: asyncio.Task[Any] | None = None  # the task that runs the block; None before
        # Refs that were added and are not ready.
        self._pending: dict[ObjectRef[Any], None] = {}
        # Errors of refs that failed, in the order in which they came.
        self._errors: list[BaseException] = []
        # The task that has left the block awaits it: resolved when no ref is pending.
        self._all_ready: asyncio.Future[None] | None = None
        # The block has ended: no ref may be added once none is pending.
        self._leaving = False
        # The refs were cancelled: none may be added.
        self._aborting = False
        self._parent_cancelled = False  # by this scope, to end the block

    def __repr__(self) -> str:
        state = "aborting" if self._aborting else "leaving" if self._leaving else "entered" if self._parent else "new"
        return f"<TaskGroup {state}, {len(self._pending)} pending, {len(self._errors)} failed>"

    def add(self, ref: ObjectRef[T]) -> ObjectRef[T]:
        """Makes the scope wait for a ref, and cancel it if need be. Returns the ref.

        Args:
            ref: a result of ``.remote()``. If a call has several results, add each.

        Raises:
            TypeError: not a ref.
            RuntimeError: the block was not entered, has finished, or is being ended by an error. The ref is cancelled
                then, because nothing may outlive the scope.
        """
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"TaskGroup.add() takes an ObjectRef, which f.remote() returns, not {type(ref).__name__}.")
        objects = current.session_of(ref._local).objects
        refusal = self._refusal()
        if refusal is not None:
            _cancel([ref])
            raise RuntimeError(f"{self!r} {refusal}")
        if ref not in self._pending:
            self._pending[ref] = None
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
        """Waits until all refs are ready. A cancellation of the waiting task cancels the refs, and it waits on."""
        cancelled = None
        while self._pending:
            self._all_ready = asyncio.get_running_loop().create_future()
            try:
                await self._all_ready
            except asyncio.CancelledError as caught:
                if not self._aborting:
                    cancelled = caught
                    self._abort()
        return cancelled

    def _raise(self, error: BaseException | None, cancelled: BaseException | None) -> None:
        """Raises the errors of the refs, together with the exception that the block has raised."""
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
            # Cancelled from outside: the next await must raise it, because the group hides it.
            if parent.cancelling():
                parent.uncancel()
                parent.cancel()
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors) from None

    def _ready(self, ref: ObjectRef[Any], objects: current.ObjectReader) -> None:
        self._pending.pop(ref, None)
        if not self._pending and self._all_ready is not None and not self._all_ready.done():
            self._all_ready.set_result(None)
        error = objects.error(ref._local)
        if error is None or _is_cancellation(error, by_us=self._aborting):
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
    """Cancels the tasks of the refs of this session, in one batch."""
    runtime = cast("Runtime | None", current.session)
    if runtime is not None:
        for ref in refs:
            if ref._local.table is runtime.references:
                runtime.post((CANCEL, ref.task_id(), False, True))
        runtime.flush()


def _is_cancellation(error: BaseException, *, by_us: bool) -> bool:
    """A task whose ``get`` raised that its child was cancelled has failed, except where we have cancelled both."""
    return isinstance(error, TaskCancelledError) and (by_us or not isinstance(error, TaskError))


def _remove_copy(errors: list[BaseException], error: BaseException) -> None:
    """Removes the error of a failed ref that the block awaits itself, so that the group holds it once."""
    if isinstance(error, AsyncrayError):
        for index, known in enumerate(errors):
            if isinstance(known, AsyncrayError) and str(known) == str(error):
                del errors[index]
                return
