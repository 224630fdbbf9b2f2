"""``ExportedFunction``: the function or class that all ``.options()`` copies of a remote function or actor class share.

Promises: a function or class is pickled once in a session, at the first call of any copy, with closures and globals as
they are then; equal options find the same template, which is described once. The session forgets both when the
program has dropped the last copy.

Does not: keep copies or their options alive, or travel with the templates of a session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from asyncray.api.signature import Signature
from asyncray.runtime.exports import Export
from asyncray.runtime.runtime import Runtime

T = TypeVar("T")

Options = Mapping[str, object]

MOST_TEMPLATES = 256
"""Templates cached per function; a full cache is cleared, because the program hardly ever repeats its options."""

_OF_ONE_CALL = ("name", "namespace", "get_if_exists")
"""Options that travel with each call or registration, and are no part of a template."""


class ExportedFunction:
    """A function or class, as its author wrote it.

    Args:
        what: "remote function f" or "actor C", for messages.
        signature: of a call, or of the constructor.
    """

    def __init__(self, target: Any, what: str, signature: Signature) -> None:
        self.target = target
        self.what = what
        self.signature = signature
        self.name: str = getattr(target, "__name__", type(target).__name__)
        self.module: str = getattr(target, "__module__", __name__)
        self.path = f"{self.module}.{getattr(target, '__qualname__', self.name)}"
        self.templates = Templates()
        # The session that has the function or class, and its export there.
        self._exported: tuple[Runtime, Export] | None = None

    def __repr__(self) -> str:
        return f"<ExportedFunction {self.path} {'pickled' if self._exported else 'not pickled'}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_exported": None}

    def export(self, runtime: Runtime) -> Export:
        """The export of the function or class in this session. Sends it at the first call.

        Raises:
            ValueError: it is too large.
            TypeError: it cannot be pickled.
        """
        exported = self._exported
        if exported is None or exported[0] is not runtime:
            exported = self._exported = (runtime, runtime.submitter.export(self.target, self.what))
        return exported[1]


class Templates:
    """Templates of this session, found again by equal options."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        # The session, and its templates by name and options. Another session starts with none.
        self._found: tuple[Runtime, dict[object, Any]] | None = None

    def __repr__(self) -> str:
        return f"<Templates {len(self._found[1]) if self._found else 0}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Templates, ()

    def get_or_make(self, runtime: Runtime, name: str, options: Options, make: Callable[[Runtime, Options], T]) -> T:
        """The result of ``make``: the one that it returned for this name and equal options before, or a new one.

        Args:
            name: of the function or method.
        """
        found = self._found
        if found is None or found[0] is not runtime:
            found = self._found = (runtime, {})
        known = found[1]
        try:
            named = (item for item in options.items() if item[0] not in _OF_ONE_CALL)
            key = (name, *(item if type(item[1]) is not dict else _flat(item) for item in named))
            made: T | None = known.get(key)
        except TypeError:  # an option contains a list, or another object without a hash
            return make(runtime, options)
        if made is None:
            made = make(runtime, options)
            if len(known) >= MOST_TEMPLATES:
                known.clear()
            known[key] = made
        return made


def _flat(item: tuple[str, Any]) -> tuple[str, tuple[Any, ...]]:
    return item[0], tuple(item[1].items())
