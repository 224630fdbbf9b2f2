"""``ActorPool``: hands values to the free actors of a fixed set.

Owns the values that wait and the calls that run. Promises: each value that was submitted has one outcome, its result or
an error; an actor that has died gets no further value, one that restarts gets the next when it is ready again, and one
whose call raised gets the next at once.

Does not: watch idle actors. The next call of one that died while it was idle fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from time import monotonic
from typing import Any, NoReturn

import asyncray.sync as ray
from asyncray.api.handle import ActorHandle
from asyncray.exceptions import ActorDiedError, ActorError, ActorUnavailableError
from asyncray.runtime.refs import ObjectRef

CallActor = Callable[[ActorHandle[Any], Any], Any]
"""Calls a method of the actor with the value; returns its ref, or a list of refs if it has several results."""


class _Run:
    """A value that an actor works on."""

    __slots__ = ("actor", "number", "ref", "refs")

    def __init__(self, number: int, actor: ActorHandle[Any], refs: Any) -> None:
        self.number = number
        self.actor = actor
        # The result of ``fn``, and its first ref: when that has its value, all have.
        self.refs: Any = refs
        self.ref: ObjectRef[Any] = refs[0] if isinstance(refs, list) and refs else refs
        if not isinstance(self.ref, ObjectRef):
            raise TypeError(f"fn of an ActorPool has to return a ref or a list of refs. It returned {refs!r}.")

    def __repr__(self) -> str:
        return f"<_Run {self.number} {self.ref}>"


class ActorPool:
    """A pool of actors.

    Args:
        actors: handles; they are the pool's until ``pop_idle``.

    Example::

        pool = ActorPool([Worker.remote() for _ in range(2)])
        print(list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3])))
    """

    def __init__(self, actors: list[ActorHandle[Any]]) -> None:
        self._idle = list(actors)
        # Values that actors work on, by the first ref of the call.
        self._running: dict[ObjectRef[Any], _Run] = {}
        # The same by number, in the order of submission.
        self._run_of: dict[int, _Run] = {}
        # Errors that ``fn`` raised for values that had waited for an actor, by number: their outcomes.
        self._errors: dict[int, Exception] = {}
        # The number of the next value that an actor gets, and of the value whose result comes next.
        self._next_submission = 0
        self._next_result = 0
        # Values for which no actor was free.
        self._waiting: deque[tuple[CallActor, Any]] = deque()
        # Restarting actors, by the ref of a call that ends when the actor is ready again or dead.
        self._restarting: dict[ObjectRef[Any], ActorHandle[Any]] = {}
        # The error of the actor that died last; None once an actor was added after it.
        self._death: ActorDiedError | None = None

    def __repr__(self) -> str:
        return f"<ActorPool {len(self._idle)} idle, {len(self._running)} busy, {len(self._waiting)} values waiting>"

    def map(self, fn: CallActor, values: Iterable[Any]) -> Iterator[Any]:
        """Runs ``fn(actor, value)`` for all values. Submits at once.

        Results of earlier submissions that nobody fetched are forgotten.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            values: read to their end before this returns.

        Returns:
            An iterator over the results, in the order of the values.

        Raises:
            Exception: from the iterator: a call raised it. The iterator ends; ``get_next`` goes on behind it.

        Example::

            for result in pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3]):
                print(result)  # 2, 4, 6
        """
        return self._map(fn, values, self.get_next)

    def map_unordered(self, fn: CallActor, values: Iterable[Any]) -> Iterator[Any]:
        """The same as ``map``, in the order in which results are ready.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            values: read to their end before this returns.

        Returns:
            An iterator over the results.

        Raises:
            Exception: from the iterator: a call raised it. The iterator ends; ``get_next_unordered`` goes on behind it.

        Example::

            for result in pool.map_unordered(lambda actor, value: actor.double.remote(value), [1, 2, 3]):
                print(result)  # 4, 2, 6, or in any other order
        """
        return self._map(fn, values, self.get_next_unordered)

    def _map(self, fn: CallActor, values: Iterable[Any], next_result: Callable[[], Any]) -> Iterator[Any]:
        self._forget_results()
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield next_result()

        return results()

    def _forget_results(self) -> None:
        while self._running:
            self._take(next(iter(self._running.values())))
        self._errors.clear()
        self._next_result = self._next_submission
        if self._death is not None or self._restarting:
            self._waiting.clear()

    def submit(self, fn: CallActor, value: Any) -> None:
        """Runs ``fn(actor, value)`` on a free actor, now or when one is free. Does not wait.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            value: given to it.

        Raises:
            TypeError: ``fn`` returned something else, if an actor is free.
            Exception: ``fn`` itself raised it, if an actor is free. If the value waits, its result is that error.

        Example::

            pool.submit(lambda actor, value: actor.double.remote(value), 1)
            print(pool.get_next())  # 2
        """
        self._look_at_restarting()
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()  # before the call: ``fn`` may submit values, too
        try:
            refs = fn(actor, value)
            run = _Run(self._next_submission, actor, refs)
        except BaseException:
            self._idle.append(actor)
            raise
        self._running[run.ref] = self._run_of[run.number] = run
        self._next_submission += 1

    def has_next(self) -> bool:
        """True if there are results or errors to fetch, or will be.

        False while values wait in a pool that has no actor, unless its actors have died: then each of those values has
        the error of the actor that died last. An actor that is added before takes them.

        Example::

            while pool.has_next():
                print(pool.get_next())
        """
        return bool(self._running or self._errors) or (
            bool(self._waiting) and bool(self._restarting or self._death is not None)
        )

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:  # noqa: FBT001 - Ray's
        """The next result in the order of submission.

        Args:
            timeout: seconds, or None for ever.
            ignore_if_timedout: forget the result that did not come in time, instead of keeping it for the next call.

        Raises:
            StopIteration: no result is left.
            TimeoutError: it is not ready in time.
            ValueError: ``get_next_unordered`` has taken the result whose turn it is.
            ActorDiedError: the actor died, or all of them did before one could take the value.
            Exception: the call raised it, or ``fn`` did for a value that had to wait.

        Example::

            for value in range(3):
                pool.submit(lambda actor, value: actor.double.remote(value), value)
            print([pool.get_next(timeout=10) for _ in range(3)])  # [0, 2, 4]
        """
        return self._result(self._next_run, timeout, forget=ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:  # noqa: FBT001 - Ray's
        """The next result that is ready, whichever it is.

        Args:
            timeout: seconds, or None for ever.
            ignore_if_timedout: forget the oldest if none came in time, instead of keeping it for the next call.

        Raises:
            StopIteration: no result is left.
            TimeoutError: none is ready in time.
            ActorDiedError: the actor died, or all of them did before one could take the value.
            Exception: the call raised it, or ``fn`` did for a value that had to wait.

        Example::

            while pool.has_next():
                print(pool.get_next_unordered())
        """
        return self._result(self._all_runs, timeout, forget=ignore_if_timedout)

    def _next_run(self) -> list[_Run]:
        """The run whose turn it is; none while its value waits for an actor that restarts."""
        if (self._running or self._errors) and self._next_result >= self._next_submission:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        self._raise_error(self._next_result)
        return [self._run_of[self._next_result]] if self._running else []

    def _all_runs(self) -> list[_Run]:
        for number in self._errors:
            self._raise_error(number)
        return list(self._running.values())

    def _raise_error(self, number: int) -> None:
        """Raises the error of ``fn`` for a value that had waited, if that is its outcome."""
        error = self._errors.pop(number, None)
        if error is not None:
            self._next_result = max(self._next_result, number + 1)
            raise error

    def _result(self, choose: Callable[[], list[_Run]], timeout: float | None, *, forget: bool) -> Any:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            self._check_next()
            runs = choose()
            left = None if deadline is None else max(0.0, deadline - monotonic())
            ready, _ = ray.wait([*(run.ref for run in runs), *self._restarting], timeout=left)
            if not ready:
                self._timed_out(runs[0] if forget and runs else None)
            run = self._running.get(ready[0])
            if run is None:
                self._look_at_restarting()
                continue
            try:
                result = ray.get(run.refs)
            except Exception:  # of the user's method, or of the system
                self._take(run)
                raise
            self._take(run)
            return result

    def _check_next(self) -> None:
        """Raises the error of ``get_next`` if no call runs, and none will."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        if not self._running and not self._errors and not self._restarting:
            assert self._death is not None
            self._waiting.popleft()
            raise copy(self._death)

    def _timed_out(self, forgotten: _Run | None) -> NoReturn:
        if forgotten is None:
            raise TimeoutError("Timed out waiting for result")
        self._take(forgotten)
        raise TimeoutError(f"Timed out waiting for result. The task {forgotten.refs} has been ignored.")

    def _take(self, run: _Run) -> None:
        """The result is taken: the actor is free for the next value, unless it is dead or restarts."""
        del self._running[run.ref]
        del self._run_of[run.number]
        self._next_result = max(self._next_result, run.number + 1)
        self._call_ended(run.actor, run.ref)

    def _call_ended(self, actor: ActorHandle[Any], ref: ObjectRef[Any]) -> None:
        """Decides whether the actor is free. A call that was forgotten and still runs says nothing against it."""
        error = ref.exception() if ref.done() else None
        # The error may also be that of another actor, which the method uses or which made its argument.
        if isinstance(error, ActorError) and error.actor_id == actor._actor_id.hex():
            if isinstance(error, ActorDiedError):
                self._death = error
                self._submit_waiting()
                return
            if isinstance(error, ActorUnavailableError):
                # Until it is ready again an actor fails its calls at once, unless they have retries.
                self._restarting[actor.__ray_ready__.options(max_task_retries=-1).remote()] = actor
                return
        self._idle.append(actor)
        self._submit_waiting()

    def _look_at_restarting(self) -> None:
        for ref in [ref for ref in self._restarting if ref.done()]:
            self._call_ended(self._restarting.pop(ref), ref)

    def _submit_waiting(self) -> None:
        while self._waiting and self._idle:
            try:
                self.submit(*self._waiting.popleft())
            except Exception as error:  # of the user's ``fn``
                # Not raised here: the caller fetches the result of another value.
                self._errors[self._next_submission] = error
                self._next_submission += 1

    def has_free(self) -> bool:
        """True if an actor is idle and nothing waits for it.

        Example::

            if pool.has_free():
                pool.submit(lambda actor, value: actor.double.remote(value), 4)
        """
        self._look_at_restarting()
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Takes an idle actor out of the pool.

        Returns:
            Its handle; None if all are busy.

        Example::

            spare = pool.pop_idle()
            if spare is not None:
                ray.kill(spare)
        """
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Adds an actor. It begins at once with a value that waits.

        Args:
            actor: a handle.

        Raises:
            ValueError: it is in the pool already.

        Example::

            pool.push(Worker.remote())
        """
        busy = (run.actor for run in self._running.values())
        if actor in (*self._idle, *busy, *self._restarting.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._death = None
        self._idle.append(actor)
        self._submit_waiting()
