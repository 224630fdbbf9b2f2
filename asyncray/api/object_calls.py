"""Arguments and results of ``get``, ``wait`` and ``cancel``, the same for both faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asyncray.ids import is_call
from asyncray.messages import CANCEL, UNRESOLVED
from asyncray.runtime import current
from asyncray.runtime.references import LocalObject, exists
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import require

_FOR_EVER = 1e8
"""Seconds: three years. Event loops reject much longer ones."""


def local_objects(refs: object) -> list[LocalObject]:
    """Returns the local objects of a list of refs, for ``get``.

    Raises:
        ValueError: not a list of refs.
        OwnerDiedError: a ref is of a session that has ended.
    """
    if not isinstance(refs, (list, tuple)):
        raise ValueError(
            f"Invalid type of object refs, {type(refs)}, is given. 'object_refs' must either be an ObjectRef or a list "
            "of ObjectRefs."
        )
    found = _extract(refs, _not_for_get)
    check_sessions(found)
    return found


def _extract(refs: Sequence[Any], complaint: Callable[[object], Exception]) -> list[LocalObject]:
    """Returns the local objects; raises the complaint about the first item that is no ref."""
    try:
        return [ref._local for ref in refs]
    except AttributeError:
        raise complaint(next(ref for ref in refs if not isinstance(ref, ObjectRef))) from None


def _not_for_get(item: object) -> Exception:
    kind = type(item).__name__
    return ValueError(f"Invalid type of object refs: the list contains a {kind} ({item!r:.80}), not only ObjectRefs.")


def _not_for_wait(item: object) -> Exception:
    return TypeError(f"wait() expected a list of ObjectRefs, got a list with a {type(item).__name__}.")


def check_sessions(found: Sequence[LocalObject]) -> None:
    """Raises OwnerDiedError if an object is of a session that has ended."""
    if found:
        references = current.session_of(found[0]).references
        for local in found:
            if local.table is not references:
                current.session_of(local)


def check_timeout(timeout: float | None) -> float | None:
    """Returns the timeout; None if it is longer than clocks can count.

    Raises:
        TypeError: not a number.
        ValueError: a negative number.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"The timeout must be a number of seconds or None, not {type(timeout).__name__}.")
    if not timeout >= 0:
        raise ValueError(f"The timeout must not be negative, not {timeout}.")
    return None if timeout > _FOR_EVER else timeout


def check_wait(refs: object, num_returns: object, timeout: float | None) -> list[LocalObject]:
    """Checks the arguments of ``wait``.

    Raises:
        TypeError: not a list of refs.
        ValueError: duplicates, or ``num_returns`` out of range.
        OwnerDiedError: a ref is of a session that has ended.
    """
    current.check_started()
    if isinstance(refs, ObjectRef):
        raise TypeError("wait() expected a list of ObjectRefs, got a single ObjectRef.")
    if not isinstance(refs, list):
        raise TypeError(f"wait() expected a list of ObjectRefs, got {type(refs).__name__}.")
    found = _extract(refs, _not_for_wait)
    check_timeout(timeout)
    if not found:
        return found
    if len(set(found)) != len(found):
        raise ValueError("Wait requires a list of unique object refs: one of them appears twice.")
    if not isinstance(num_returns, int) or num_returns < 1:
        raise ValueError(f"Invalid number of objects to return {num_returns!r}: it must be 1 or more.")
    if num_returns > len(found):
        raise ValueError(f"num_returns cannot be greater than the number of refs given: {num_returns} of {len(found)}.")
    check_sessions(found)
    return found


def partition(
    refs: Sequence[ObjectRef[Any]], objects: Sequence[LocalObject], enough: int
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]] | None:
    """Returns (ready, not ready), at most ``enough`` of the first kind, both in order; None if fewer are ready."""
    # Programs that take results one by one as they finish: the result is the only list that is built.
    if enough == 1:
        for index, local in enumerate(objects):
            if local.kind != UNRESOLVED:
                return [refs[index]], [*refs[:index], *refs[index + 1 :]]
        return None
    ready: list[ObjectRef[Any]] = []
    rest: list[ObjectRef[Any]] = []
    for ref, local in zip(refs, objects, strict=True):
        (ready if local.kind != UNRESOLVED and len(ready) < enough else rest).append(ref)
    return (ready, rest) if len(ready) == enough else None


def partition_anywhere(
    refs: Sequence[ObjectRef[Any]], objects: Sequence[LocalObject], enough: int
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]] | None:
    """Returns the same, where an object is ready that exists on any node."""
    ready: list[ObjectRef[Any]] = []
    rest: list[ObjectRef[Any]] = []
    for ref, local in zip(refs, objects, strict=True):
        (ready if len(ready) < enough and exists(local) else rest).append(ref)
    return (ready, rest) if len(ready) == enough else None


def partition_now(
    refs: Sequence[ObjectRef[Any]], objects: Sequence[LocalObject], enough: int, *, fetch: bool = True
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Returns the same with those that are ready now, also if these are fewer than ``enough``."""
    if not fetch:
        count = min(enough, sum(map(exists, objects)))
        return partition_anywhere(refs, objects, count) or ([], list(refs))
    count = min(enough, sum(local.kind != UNRESOLVED for local in objects))
    return (partition(refs, objects, count) if count else None) or ([], list(refs))


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancels the task that returns an object. Returns at once; a task that has finished is not touched.

    Args:
        ref: a return value of the task.
        force: kill the worker that runs the task. Not for actor calls.
        recursive: also cancel the tasks and calls that the task has submitted.

    Raises:
        TypeError: not a ref.
        OwnerDiedError: it is of a session that has ended.
        ValueError: ``force`` for a call of an actor.

    Example::

        ref = slow.remote()
        ray.cancel(ref)
        ray.get(ref)  # raises TaskCancelledError
    """
    current.check_started()
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel() only supported for object refs. Got: {type(ref)}.")
    current.session_of(ref._local)
    runtime = require()
    if force and is_call(ref._local.id):
        raise ValueError("force=True is not supported for actor tasks.")
    # As truth values: numpy's cannot be sent.
    runtime.post((CANCEL, ref.task_id(), bool(force), bool(recursive)))
    runtime.flush()
