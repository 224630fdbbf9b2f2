"""``ActorPool``: hands values to whichever actor of a fixed set is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import asyncray.sync as ray
from asyncray.api.handle import ActorHandle
from asyncray.runtime.refs import ObjectRef

Submit = Callable[[ActorHandle[Any], Any], Any]
"""Calls a method of the actor with the value; returns its ref, or a list of refs if it has several results."""


class _Run:
    """A value at work."""

    __slots__ = ("actor", "number", "ref", "refs")

    def __init__(self, number: int, actor: ActorHandle[Any], refs: Any) -> None:
        self.number = number
        self.actor = actor
        self.refs: Any = refs
        self.ref: ObjectRef[Any] = refs[0] if isinstance(refs, list) else refs

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
        self._running: dict[ObjectRef[Any], _Run] = {}
        self._run_of: dict[int, _Run] = {}
        self._next_submission = 0
        self._next_result = 0
        self._waiting: deque[tuple[Submit, Any]] = deque()

    def __repr__(self) -> str:
        return f"<ActorPool {len(self._idle)} idle, {len(self._running)} busy, {len(self._waiting)} values waiting>"

    def map(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Runs ``fn(actor, value)`` for all values. Submits at once.

        Results of earlier submissions that nobody fetched are forgotten.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            values: read to their end before this returns.

        Returns:
            An iterator over the results, in the order of the values.

        Raises:
            Exception: from the iterator, what a call raised. That ends it; ``get_next`` goes on behind it.

        Example::

            for result in pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3]):
                print(result)  # 2, 4, 6
        """
        self._forget_results()
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """The same as ``map``, in the order in which results are ready.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            values: read to their end before this returns.

        Returns:
            An iterator over the results.

        Raises:
            Exception: from the iterator, what a call raised. That ends it; ``get_next_unordered`` goes on behind it.

        Example::

            for result in pool.map_unordered(lambda actor, value: actor.double.remote(value), [1, 2, 3]):
                print(result)  # 4, 2, 6, or in any other order
        """
        self._forget_results()
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _forget_results(self) -> None:
        while self._running:
            self._take(next(iter(self._running.values())))

    def submit(self, fn: Submit, value: Any) -> None:
        """Runs ``fn(actor, value)`` on a free actor, now or when one is free. Does not wait.

        Args:
            fn: calls a method of the actor with the value; returns its ref, or a list of its refs.
            value: given to it.

        Raises:
            Exception: what ``fn`` itself raises.

        Example::

            pool.submit(lambda actor, value: actor.double.remote(value), 1)
            print(pool.get_next())  # 2
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        run = _Run(self._next_submission, actor, fn(actor, value))
        self._running[run.ref] = self._run_of[run.number] = run
        self._next_submission += 1

    def has_next(self) -> bool:
        """True if there are results to fetch, or will be.

        Example::

            while pool.has_next():
                print(pool.get_next())
        """
        return bool(self._running)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Args:
            timeout: seconds, or None for ever.
            ignore_if_timedout: forget the result that did not come in time, instead of keeping it for the next call.

        Raises:
            StopIteration: there is none.
            TimeoutError: it is not ready in time.
            ValueError: ``get_next_unordered`` has taken the result whose turn it is.
            Exception: what the call raised.

        Example::

            for value in range(3):
                pool.submit(lambda actor, value: actor.double.remote(value), value)
            print([pool.get_next(timeout=10) for _ in range(3)])  # [0, 2, 4]
        """
        if not self._running:
            raise StopIteration("No more results to get")
        if self._next_result >= self._next_submission:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        return self._result([self._run_of[self._next_result]], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result that is ready, whichever it is.

        Args:
            timeout: seconds, or None for ever.
            ignore_if_timedout: forget the oldest if none came in time, instead of keeping it for the next call.

        Raises:
            StopIteration: there is none.
            TimeoutError: none is ready in time.
            Exception: what the call raised.

        Example::

            while pool.has_next():
                print(pool.get_next_unordered())
        """
        if not self._running:
            raise StopIteration("No more results to get")
        return self._result(list(self._running.values()), timeout, ignore_if_timedout)

    def _result(self, runs: list[_Run], timeout: float | None, forget: bool) -> Any:
        ready, _ = ray.wait([run.ref for run in runs], timeout=timeout)
        if ready:
            run = self._running[ready[0]]
            self._take(run)
            return ray.get(run.refs)
        if forget:
            self._take(runs[0])
            raise TimeoutError(f"Timed out waiting for result. The task {runs[0].refs} has been ignored.")
        raise TimeoutError("Timed out waiting for result")

    def _take(self, run: _Run) -> None:
        """The result is taken: its actor is free for the next value."""
        del self._running[run.ref]
        del self._run_of[run.number]
        self._next_result = max(self._next_result, run.number + 1)
        self._return(run.actor)

    def _return(self, actor: ActorHandle[Any]) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def has_free(self) -> bool:
        """True if an actor is idle and nothing waits for it.

        Example::

            if pool.has_free():
                pool.submit(lambda actor, value: actor.double.remote(value), 4)
        """
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
        if actor in self._idle or any(actor == run.actor for run in self._running.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return(actor)
