"""Entries that a driver adds to ``sys.path`` after ``init``: they travel with what it pickles.

1. **Goal.** What a driver can import its workers can, also after ``sys.path.append("../src")`` in a later cell of a
   notebook. A call costs nothing more.
2. **What does not work.** The setup of the job has the entries of ``init``. By now it is in the daemon, in workers and
   at other nodes, so a change would need messages to all of them, in front of the tasks that need it. And nothing says
   when ``sys.path`` changes.
3. **Solution.** A function or class is pickled once. If the path has other entries by then, it travels with all of the
   program's (``with_paths``), and the receiver makes them its own before it unpickles. So does a function or class that
   goes by its name, such as the class of an argument, if its module is in such an entry (``reduce_by_name``), and so
   does such a module (``reduce_module``). A function that was sent before keeps what it was sent with.
4. **Who adopts them.** Only workers, which serve one job for life. The path of a driver is its own. A worker passes on
   what it has received, in functions of its own, arguments and results.
"""

from __future__ import annotations

import importlib
import itertools
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

from asyncray.runtime import code_paths

if TYPE_CHECKING:
    from types import ModuleType

    from asyncray.words import CodePaths


class LatePaths:
    """The entries that a process knows beyond those of the job's setup. There is one object, in ``late_paths``."""

    def __init__(self) -> None:
        # All entries of the program, if some of them are late. Replaced and never changed.
        self.paths: CodePaths | None = None

        # The entries that the setup of the job lacks.
        self._entries: frozenset[str] = frozenset()

        # By the name of a module: whether it is in one of these.
        self._late: dict[str, bool] = {}

        # In a driver: the paths in the setup of its job. None in workers, and before ``init``.
        self._told: CodePaths | None = None

        # In a driver: ``sys.path`` and the number of modules at the last look.
        self._seen: tuple[list[str], int] = ([], 0)

    def __repr__(self) -> str:
        return f"<LatePaths {sorted(self._entries)}>"

    def begin(self, told: CodePaths) -> None:
        """A driver starts a session, and tells these paths with its job."""
        self._told = told
        self._seen = list(sys.path), len(sys.modules)
        self._change(None, frozenset())

    def look(self) -> None:
        """Looks for further entries of the driver's path, and for imported modules in other places."""
        if self._told is None or self._seen == (sys.path, len(sys.modules)):
            return
        self._seen = list(sys.path), len(sys.modules)
        now = code_paths.entries_of(sys.path, code_paths.working_directory(), sys.modules)
        entries = frozenset(_entries(now)) - frozenset(_entries(self._told))
        now["shadowed"] = _without(now["shadowed"], self._told["shadowed"])
        if (paths := now if entries else None) != self.paths:
            self._change(paths, entries)

    def adopt(self, paths: CodePaths) -> None:
        """Makes the entries of the program those of this process, if it is a worker."""
        if self._told is not None or paths == self.paths:
            return
        known = () if self.paths is None else self.paths["shadowed"]
        entries = self._entries | frozenset(_entries(paths)) - frozenset(map(os.path.normpath, sys.path))
        self._change(paths, entries)
        sys.path[:] = self.arranged(sys.path)
        code_paths.make_way(_without(paths["shadowed"], known))

    def arranged(self, path: list[str]) -> list[str]:
        """This path of a worker, with the entries that it has adopted."""
        return path if self.paths is None else code_paths.arrange(self.paths, path)

    def _change(self, paths: CodePaths | None, entries: frozenset[str]) -> None:
        self.paths, self._entries = paths, entries
        self._late = {}

    def have(self, module: str) -> bool:
        """True if a module that was imported is in a late entry."""
        late = self._late.get(module)
        if late is None:
            self.look()
            name = module.partition(".")[0]
            places = code_paths.places_of({name: sys.modules.get(name)}).get(name, ())
            late = self._late[module] = not self._entries.isdisjoint(places)
        return late

    def note(self, error: BaseException) -> str:
        """Text for an error of a task that may lack the driver's late entries; empty for other errors."""
        if self._told is None or not isinstance(error, ImportError):
            return ""
        self.look()
        return "" if self.paths is None else _NOTE


late_paths = LatePaths()

_NOTE = (
    "sys.path has got entries since init(). A function that was called, or an actor that was made, before they were "
    "added does not know them: define the function or class again, and call it."
)


def with_paths(pickled: bytes) -> bytes:
    """A pickled function or class; with the entries that its receiver may lack, if there are some."""
    late_paths.look()
    return pickled if late_paths.paths is None else pickle.dumps(_Travelling(late_paths.paths, pickled), 5)


class _Travelling:
    """A pickle whose receiver adopts the paths first."""

    def __init__(self, paths: CodePaths, pickled: bytes) -> None:
        self._contents = paths, pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, self._contents


def _unpack(paths: CodePaths, pickled: bytes) -> Any:
    late_paths.adopt(paths)
    return pickle.loads(pickled)


def reduce_by_name(thing: Any) -> Any:
    """The reduction of an importable function or class: pickle's own, unless its module is in a late entry."""
    if not late_paths.have(thing.__module__):
        return NotImplemented
    return _find, (late_paths.paths, thing.__module__, thing.__qualname__)


def reduce_module(module: ModuleType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """The reduction of a module that goes by its name: as it is, unless the module is in a late entry."""
    return (_find, (late_paths.paths, module.__name__)) if late_paths.have(module.__name__) else reduced


def _find(paths: CodePaths, module: str, name: str = "") -> Any:
    late_paths.adopt(paths)
    found: Any = importlib.import_module(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    return found


def _entries(paths: CodePaths) -> list[str]:
    return [os.path.normpath(entry) for entry in itertools.chain(paths["before"], paths["between"], paths["after"])]


def _without(names: list[str], known: list[str] | tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in known]
