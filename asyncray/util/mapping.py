"""``map``: a function of every item, in chunks whose size it finds out, and no further ahead than it may.

A task for each item would cost some tens of microseconds an item, whatever the function does. So items travel in
chunks. The size of a chunk begins at one, grows with what the workers report of the time that items take, and aims at
tasks of ten milliseconds: long enough for the cost of a task not to count, short enough for results to come steadily
and for all workers to finish at about the same time.
"""

from __future__ import annotations

import builtins
import reprlib
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sized
from functools import partial
from itertools import islice
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

import asyncray.sync as ray
from asyncray.api.actor import ActorClass
from asyncray.api.asynchronous import wait as wait_async
from asyncray.api.function import RemoteFunction
from asyncray.api.handle import ActorMethod
from asyncray.api.progress import Meter, make_meter
from asyncray.runtime.errors import load_task_error
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import deserialize
from asyncray.util.calls import Chunk, ItemResults, name_of
from asyncray.util.remote_forms import RemoteForms, count_slots, is_stateless

T = TypeVar("T")
R = TypeVar("R")

SubmitChunk = Callable[[list[Any]], ObjectRef[Any]]
"""Submits the task of a chunk."""

_AIM = 0.01
"""Seconds that a task should take."""

_LEAST = 0.001
"""Seconds that it should take at least, where chunks get smaller towards the end."""

_GROWTH = 8
"""A chunk has at most so many times the items of one whose time is known: the first items may be the cheap ones."""

_LARGEST = 100_000
"""Items in a chunk, at most."""

_LEAST_IN_FLIGHT = 4

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class ChunkSizes:
    """Decides how many items the next chunk has.

    Args:
        total: the number of all items, if it is known.
        slots: tasks that run at once.
    """

    def __init__(self, total: int | None, slots: int) -> None:
        self._left = total
        self._slots = slots
        # Seconds that an item takes; None before the first report.
        self._seconds: float | None = None
        # Items in the largest chunk whose time is known.
        self._largest = 0

    def __repr__(self) -> str:
        return f"<ChunkSizes {self._seconds} s an item, {self._left} items left>"

    def take(self) -> int:
        """The size of the next chunk, which is made now."""
        size = self._suggest()
        if self._left is not None:
            self._left = max(0, self._left - size)
        return size

    def _suggest(self) -> int:
        if self._seconds is None:
            return 1
        size = min(_AIM / self._seconds, _GROWTH * self._largest, _LARGEST)
        if self._left is not None:
            # Half of what would be a fair share: towards the end chunks get smaller, and all slots end together.
            size = min(size, max(self._left / (2 * self._slots), _LEAST / self._seconds))
        return max(1, int(size))

    def report(self, count: int, seconds: float) -> None:
        """A worker took so long for a chunk of so many items."""
        if count:
            each = max(seconds / count, 1e-9)
            # A larger chunk says more of the next one than all smaller ones before.
            self._seconds = each if self._seconds is None or count > self._largest else (self._seconds + each) / 2
            self._largest = max(self._largest, count)


class FixedSize(ChunkSizes):
    """Chunks of one size."""

    def __init__(self, size: int) -> None:
        super().__init__(None, 1)
        self._size = size

    def _suggest(self) -> int:
        return self._size


class _SentChunk:
    """A chunk that was submitted."""

    __slots__ = ("first", "items", "ref")

    def __init__(self, ref: ObjectRef[Any], first: int, items: list[Any]) -> None:
        self.ref = ref
        # The number of its first item among all.
        self.first = first
        self.items = items

    def __repr__(self) -> str:
        return f"<_SentChunk {len(self.items)} items from {self.first}>"


class MapResults(Generic[R]):
    """The results of ``map``: an iterator, and an asynchronous one. A program uses one of the two."""

    def __init__(
        self,
        submit: SubmitChunk,
        items: Iterable[Any],
        sizes: ChunkSizes,
        in_flight: int,
        *,
        ordered: bool,
        meter: Meter | None,
    ) -> None:
        self._submit = submit
        self._items = iter(items)
        self._sizes = sizes
        self._in_flight = in_flight
        self._ordered = ordered
        self._meter = meter
        # Chunks whose results were not taken, in the order of their items.
        self._ahead: dict[ObjectRef[Any], _SentChunk] = {}
        # Items that were submitted, and items whose results have come.
        self._count = self._done = 0
        self._iterator: Iterator[R] | None = None

    def __repr__(self) -> str:
        return f"<MapResults {self._count} items submitted, {len(self._ahead)} tasks ahead>"

    def __iter__(self) -> Iterator[R]:
        if self._iterator is None:
            self._iterator = self._iterate() if self._meter is None else self._iterate_shown(self._meter)
        return self._iterator

    def __next__(self) -> R:
        return next(iter(self))

    def _iterate_shown(self, meter: Meter) -> Iterator[R]:
        try:
            yield from self._iterate()
        finally:
            meter.close()

    def _iterate(self) -> Iterator[R]:
        while self._send():
            ready = next(iter(self._ahead)) if self._ordered else ray.wait(list(self._ahead))[0][0]
            sent = self._ahead.pop(ready)
            try:
                result = ray.get(ready)
            except Exception as error:
                _name_items(error, sent)
                raise
            del ready
            yield from self._open(sent, result)
            del sent, result

    async def __aiter__(self) -> AsyncIterator[R]:
        try:
            async for value in self._iterate_async():
                yield value
        finally:
            if self._meter is not None:
                self._meter.close()

    async def _iterate_async(self) -> AsyncIterator[R]:
        while self._send():
            ready = next(iter(self._ahead)) if self._ordered else (await wait_async(list(self._ahead)))[0][0]
            sent = self._ahead.pop(ready)
            try:
                result = await ready
            except Exception as error:
                _name_items(error, sent)
                raise
            del ready
            for value in self._open(sent, result):
                yield value
            del sent, result

    def _send(self) -> bool:
        """Submits as many chunks as may be ahead. False if there is none left to wait for."""
        while len(self._ahead) < self._in_flight:
            items = list(islice(self._items, self._sizes.take()))
            if not items:
                break
            ref = self._submit(items)
            self._ahead[ref] = _SentChunk(ref, self._count, items)
            self._count += len(items)
        return bool(self._ahead)

    def _show(self, count: int, *, failed: bool) -> None:
        self._done += count + failed
        if self._meter is not None:
            self._meter.update(self._done, int(failed))

    def _open(self, sent: _SentChunk, result: ItemResults) -> Iterator[R]:
        seconds, values, failure = result
        self._sizes.report(len(values), seconds)
        self._show(len(values), failed=failure is not None)
        self._send()  # so that no worker is idle while the caller deals with these
        yield from values
        if failure is not None:
            error = load_task_error(failure.payload, deserialize)
            at = len(values)
            _name_items(error, _SentChunk(sent.ref, sent.first + at, sent.items[at : at + 1]))
            raise error


class _ResultsOfCalls(MapResults[R]):
    """The results of calls that take one item each, and return its result alone."""

    def _open(self, sent: _SentChunk, result: Any) -> Iterator[R]:
        self._show(1, failed=False)
        self._send()
        yield result


class MapOptions(TypedDict, total=False):
    """The options of ``map`` for type checkers."""

    chunksize: int | Literal["auto"]
    in_flight: int | None
    ordered: bool
    progress: bool


@overload
def map(
    f: RemoteFunction[[T], ObjectRef[R]],
    items: Iterable[T],
    **options: Unpack[MapOptions],
) -> MapResults[R]: ...
@overload
def map(
    f: ActorMethod,
    items: Iterable[Any],
    **options: Unpack[MapOptions],
) -> MapResults[Any]: ...
@overload
def map(
    f: Callable[[T], R],
    items: Iterable[T],
    **options: Unpack[MapOptions],
) -> MapResults[R]: ...
def map(
    f: Any,
    items: Iterable[Any],
    *,
    chunksize: int | Literal["auto"] = "auto",
    in_flight: int | None = None,
    ordered: bool = True,
    progress: bool = False,
) -> MapResults[Any]:
    """``f`` of every item. For ``for``, and for ``async for``.

    Args:
        f: a plain function or another callable, a remote function, whose options count, or an actor's method.
        items: read as results are taken, so it may be endless. A ref among them is replaced by its value.
        chunksize: items that one task takes. "auto" begins with one, and makes tasks of some 10 ms. An actor's method
            takes one item a call.
        in_flight: tasks whose results were not taken yet, at most. None: twice as many as the CPUs can run, at least 4.
        progress: shows how many items are done, as ``asyncray.progress`` does.
        ordered: results in the order of the items. With False the results of a chunk come when it is done.

    Returns:
        An iterator over the results. After an error it has ended; tasks that are under way then go on.

    Raises:
        TypeError: ``f`` cannot be called, or ``items`` are not iterable.
        ValueError: ``chunksize`` or ``in_flight`` is below 1, or ``chunksize`` is above 1 for an actor's method.
        Exception: from the iterator: ``f`` raised it for an item. A note at the error names the item.

    Example::

        for root in asyncray.util.map(math.sqrt, range(1_000_000)):
            print(root)

        async for page in asyncray.util.map(parse, paths, ordered=False):
            print(page)
    """
    _check(chunksize, "auto", "chunksize")
    _check(in_flight, None, "in_flight")
    if not isinstance(items, Iterable):
        raise TypeError(f"map() takes items that a for loop can read, not {type(items).__name__}.")
    total = len(items) if isinstance(items, Sized) else None
    if isinstance(f, ActorMethod):
        if chunksize not in ("auto", 1):
            raise ValueError(
                f"chunksize must be 1 for an actor's method, which takes one item a call, not {chunksize}."
            )
        most = _LEAST_IN_FLIGHT if in_flight is None else in_flight
        meter = make_meter(total, f._info.name) if progress else None
        return _ResultsOfCalls(lambda each: f.remote(each[0]), items, FixedSize(1), most, ordered=ordered, meter=meter)
    function = _of_chunks(f)
    slots = count_slots(function)
    sizes = ChunkSizes(total, slots) if chunksize == "auto" else FixedSize(chunksize)
    meter = make_meter(total, name_of(f)) if progress else None
    most = max(_LEAST_IN_FLIGHT, 2 * slots) if in_flight is None else in_flight
    return MapResults(lambda each: _submit(function, each), items, sizes, most, ordered=ordered, meter=meter)


def _check(value: object, otherwise: object, name: str) -> None:
    if value != otherwise and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be 1 or more, or {otherwise!r}, not {value!r:.80}.")


def _submit(function: RemoteFunction[..., Any], items: list[Any]) -> ObjectRef[Any]:
    # A ref is replaced by its value where it is an argument of its own, and not inside a list.
    ref: ObjectRef[Any] = (
        function.remote(None, *items) if ObjectRef in set(builtins.map(type, items)) else function.remote(items)
    )
    return ref


_forms = RemoteForms(lambda function: _remote(Chunk(function, raises=False)))
"""Of plain functions."""

_forms_of_remote: weakref.WeakKeyDictionary[RemoteFunction[..., Any], RemoteFunction[..., Any]] = (
    weakref.WeakKeyDictionary()
)
"""Of remote functions, with their options."""


def _of_chunks(f: Any) -> RemoteFunction[..., Any]:
    """The remote function that calls ``f`` for each item of a chunk."""
    if isinstance(f, RemoteFunction):
        if not f.has_one_result:
            raise ValueError(f"map() takes functions with one result, not {f.__name__}, whose num_returns is another.")
        found = _forms_of_remote.get(f)
        if found is None:
            found = _forms_of_remote[f] = f.wrapped_by(partial(Chunk, raises=f.may_retry_errors))
        return found
    if not callable(f) or isinstance(f, ActorClass):
        raise TypeError(
            f"map() takes a function or another callable, a remote function, or an actor's method, not {f!r:.80}."
        )
    return _forms.of(f) if is_stateless(f) else _remote(Chunk(f, raises=False))


def _remote(chunk: Chunk) -> RemoteFunction[..., Any]:
    made: Any = ray.remote(chunk)  # an object with __call__, which mypy takes for a class
    return cast("RemoteFunction[..., Any]", made)


def _name_items(error: Exception, sent: _SentChunk) -> None:
    """Adds a note to the error that says which item it is about."""
    first, count = sent.first, len(sent.items)
    if count == 1:
        error.add_note(f"This is about item {first} of map(): {_short.repr(sent.items[0])}")
    else:
        error.add_note(f"This is about an item of map() from {first} to {first + count - 1}.")
