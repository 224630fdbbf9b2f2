"""What workers run for ``Executor`` and ``map``: a call of any callable, and a call for each item of a chunk.

Imports nothing that a worker has not imported already: the first call of a program waits for this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from asyncray.api.information import node_ip_address
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.values import dump_failure

_initialized: dict[bytes, BaseException | None] = {}
"""Executors whose initializer has run in this process, by their keys, with what it raised."""


class InitializerFailed(Exception):
    """The initializer of an executor raised: no call of this executor can run here."""


def apply(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a callable that travels with its arguments."""
    return function(*args, **kwargs)


def apply_to_each(function: Callable[..., Any], items: Iterable[tuple[Any, ...]], /) -> list[Any]:
    """Calls such a callable for each item of a chunk. An item holds the arguments of a call."""
    return [function(*item) for item in items]


class ForEach:
    """Calls a function that travels once for each item of a chunk.

    Args:
        function: takes the members of an item as its arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__name__ = name_of(function)

    def __repr__(self) -> str:
        return f"<ForEach {self.__name__}>"

    def __call__(self, items: Iterable[tuple[Any, ...]], /) -> list[Any]:
        return apply_to_each(self._function, items)


ItemResults = tuple[float, list[Any], "Failure | None"]
"""Seconds, the results of the items before the one that failed, and its error."""


class Failure:
    """The error of an item, as ``dump_task_error`` gives it, and the refs that it contains."""

    def __init__(self, payload: bytes, refs: list[ObjectRef[Any]]) -> None:
        self.payload = payload
        self.refs = refs

    def __repr__(self) -> str:
        return f"<Failure {len(self.payload)} bytes>"


class Chunk:
    """Calls a function for each item of a chunk of ``map``, until one fails.

    Args:
        function: takes an item.
        raises: the error of an item is the error of the task, which may then run again.
    """

    def __init__(self, function: Callable[..., Any], *, raises: bool) -> None:
        self._function = function
        self._raises = raises
        self.__name__ = name_of(function)

    def __repr__(self) -> str:
        return f"<Chunk {self.__name__}>"

    def __call__(self, items: Iterable[Any] | None, /, *more: Any) -> ItemResults:
        begun = perf_counter()
        values: list[Any] = []
        failure = None
        try:
            # This keeps the values before the one that failed.
            values.extend(map(self._function, more if items is None else items))
        except Exception as error:
            if self._raises:
                raise
            failure = self._failure(error)
        return perf_counter() - begun, values, failure

    def _failure(self, error: Exception) -> Failure:
        payload, refs = dump_failure(
            error, function_name=self.__name__, ip=node_ip_address(), actor_repr=None, skip_frames=1
        )
        return Failure(payload, refs)


class Prepared:
    """A callable that runs an initializer before the first call in each process.

    Args:
        key: of the executor.
        initializer: called with ``initargs``.
        function: called afterwards.
    """

    def __init__(
        self, key: bytes, initializer: Callable[..., object], initargs: tuple[Any, ...], function: Callable[..., Any]
    ) -> None:
        self._key = key
        self._initializer = initializer
        self._initargs = initargs
        self._function = function
        self.__name__ = name_of(function)

    def __repr__(self) -> str:
        return f"<Prepared {self.__name__}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._key not in _initialized:
            _initialized[self._key] = self._initialize()
        error = _initialized[self._key]
        if error is not None:
            raise InitializerFailed(f"The initializer of the executor raised {error!r} in process {os.getpid()}.")
        return self._function(*args, **kwargs)

    def _initialize(self) -> Exception | None:
        try:
            self._initializer(*self._initargs)
        # It may raise anything: told by each call in this process.
        except Exception as error:
            return error
        return None


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function; of another callable, that of its class."""
    return str(getattr(function, "__name__", type(function).__name__))
