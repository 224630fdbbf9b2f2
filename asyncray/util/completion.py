"""Results as they finish, in chunks: ``as_completed`` and ``map_unordered``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import asyncray.sync as ray
from asyncray.runtime.refs import ObjectRef


class Callee(Protocol):
    """A remote function, or a method of an actor handle."""

    def remote(self, item: Any, /) -> Any:
        """Submits a call; its ref."""


def as_completed(
    refs: Sequence[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """The values of refs in the order in which they finish.

    Args:
        refs: different refs.
        chunk_size: how many values are waited for and fetched together; those of a chunk are in the order of ``refs``.
            With 1 each value comes as soon as it is ready; a larger chunk costs less for many small values.
        yield_obj_refs: give the refs and not their values.

    Raises:
        ValueError: ``chunk_size`` below 1, or a ref appears twice.
        TypeError: not refs.
        Exception: a task raised it. The iteration has ended then.

    Example::

        for value in ray.util.as_completed([square.remote(i) for i in range(100)]):
            print(value)
    """
    _check(chunk_size)
    pending = list(refs)

    def results() -> Iterator[Any]:
        rest = pending
        while rest:
            chunk, rest = _next_chunk(rest, chunk_size, as_refs=yield_obj_refs)
            yield from chunk

    return results()


def map_unordered(
    fn: Callee,
    items: Iterable[Any],
    *,
    backpressure_size: int = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """``fn`` of every item, in the order in which the results finish.

    Args:
        fn: a remote function, or a method of an actor handle, that takes one argument.
        items: may be endless: it is read as results are.
        backpressure_size: calls that are submitted and whose results were not taken yet, at most.
        chunk_size: as of ``as_completed``.
        yield_obj_refs: give the refs and not their values.

    Raises:
        TypeError: ``fn`` cannot be called remotely.
        ValueError: ``chunk_size`` below 1, or above ``backpressure_size``.
        Exception: a call raised it. The iteration has ended then.

    Example::

        for value in ray.util.map_unordered(square, range(100_000)):
            print(value)
    """
    _check(chunk_size)
    if backpressure_size < chunk_size:
        raise ValueError(f"backpressure_size ({backpressure_size}) must not be less than chunk_size ({chunk_size}).")
    if not hasattr(fn, "remote"):
        raise TypeError(f"map_unordered() takes a remote function or an actor's method, not {type(fn).__name__}.")

    def results() -> Iterator[Any]:
        pending: list[ObjectRef[Any]] = []
        for item in items:
            pending.append(fn.remote(item))
            if len(pending) >= backpressure_size:
                chunk, pending = _next_chunk(pending, chunk_size, as_refs=yield_obj_refs)
                yield from chunk
        yield from as_completed(pending, chunk_size=chunk_size, yield_obj_refs=yield_obj_refs)

    return results()


def _check(chunk_size: int) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, not {chunk_size}.")


def _next_chunk(refs: list[ObjectRef[Any]], size: int, *, as_refs: bool) -> tuple[list[Any], list[ObjectRef[Any]]]:
    ready, rest = ray.wait(refs, num_returns=min(size, len(refs)))
    return ready if as_refs else ray.get(ready), rest
