"""Remote functions that the helpers of this package make of plain callables, and how many of them run at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import asyncray.sync as ray
from asyncray.api.function import RemoteFunction
from asyncray.api.signature import is_asynchronous, is_generator

_MOST_FORMS = 64


class RemoteForms:
    """The remote forms of the functions that were called last, so that each travels once.

    Args:
        make: makes the remote form of a function.
    """

    def __init__(self, make: Callable[[Callable[..., Any]], RemoteFunction[..., Any]]) -> None:
        self._make = make
        # Re-entrant: a finalizer may call a function in a thread that holds it.
        self._lock = threading.RLock()
        # The function that was called last is at the end.
        self._forms: OrderedDict[Callable[..., Any], RemoteFunction[..., Any]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<RemoteForms of {len(self._forms)} functions>"

    def of(self, function: Callable[..., Any]) -> RemoteFunction[..., Any]:
        """Returns the remote form of a function."""
        with self._lock:
            form = self._forms.pop(function, None) or self._make(function)
            self._forms[function] = form
            if len(self._forms) > _MOST_FORMS:
                self._forms.popitem(last=False)
            return form


def is_stateless(function: Callable[..., Any]) -> bool:
    """True for functions: not for bound methods, partial functions and other objects, whose state may change."""
    if isinstance(function, BuiltinFunctionType):
        return isinstance(function.__self__, ModuleType)
    return isinstance(function, FunctionType) and not (is_generator(function) or is_asynchronous(function))


def count_slots(function: RemoteFunction[..., Any]) -> int:
    """How many tasks of this function all nodes can run at once. At least one."""
    resources = ray.cluster_resources()
    demand = function.demand or {"CPU": 1.0}
    return max(1, int(min(resources.get(name, 0.0) / amount for name, amount in demand.items())))
