"""``ActorPool``: hands values to whichever actor of a fixed set is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import asyncray.sync as ray
from asyncray.api.actor import ActorHandle
from asyncray.runtime.refs import ObjectRef

Submit = Callable[[ActorHandle[Any], Any], ObjectRef[Any]]


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
        self._actor_of: dict[ObjectRef[Any], tuple[int, ActorHandle[Any]]] = {}
        self._ref_of: dict[int, ObjectRef[Any]] = {}
        self._next_submission = 0
        self._next_result = 0
        self._waiting: list[tuple[Submit, Any]] = []

    def __repr__(self) -> str:
        return f"<ActorPool {len(self._idle)} idle, {len(self._actor_of)} busy, {len(self._waiting)} values waiting>"

    def map(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Results of ``fn(actor, value)`` for all values, in the order of the values. Submits at once.

        Results of earlier submissions that nobody fetched are forgotten.
        """
        self._forget_results()
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """The same, in the order in which results are ready."""
        self._forget_results()
        for value in values:
            self.submit(fn, value)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _forget_results(self) -> None:
        while self.has_next():
            try:
                self.get_next_unordered(timeout=0)
            except TimeoutError:
                break

    def submit(self, fn: Submit, value: Any) -> None:
        """Runs ``fn(actor, value)`` on a free actor, now or when one is free."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        self._actor_of[ref] = (self._next_submission, actor)
        self._ref_of[self._next_submission] = ref
        self._next_submission += 1

    def has_next(self) -> bool:
        """True if there are results to fetch, or will be."""
        return bool(self._actor_of)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Raises:
            StopIteration: there is none.
            TimeoutError: it is not ready in time.
            ValueError: ``get_next_unordered`` has taken the result whose turn it is.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._next_result >= self._next_submission:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        ref = self._ref_of[self._next_result]
        if timeout is not None and not ray.wait([ref], timeout=timeout)[0]:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            self._take(ref)
            return None
        self._take(ref)
        return ray.get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result that is ready, whichever it is.

        Raises:
            StopIteration: there is none.
            TimeoutError: none is ready in time.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        ready, _ = ray.wait(list(self._actor_of), num_returns=1, timeout=timeout)
        if not ready:
            if ignore_if_timedout:
                return None
            raise TimeoutError("Timed out waiting for result")
        self._take(ready[0])
        return ray.get(ready[0])

    def _take(self, ref: ObjectRef[Any]) -> None:
        """The result is taken: its actor is free for the next value."""
        number, actor = self._actor_of.pop(ref)
        del self._ref_of[number]
        self._next_result = max(self._next_result, number + 1)
        self._return(actor)

    def _return(self, actor: ActorHandle[Any]) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.pop(0))

    def has_free(self) -> bool:
        """True if an actor is idle and nothing waits for it."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Takes an idle actor out of the pool; None if all are busy."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Adds an actor.

        Raises:
            ValueError: it is in the pool already.
        """
        if actor in self._idle or any(actor == busy for _, busy in self._actor_of.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return(actor)
