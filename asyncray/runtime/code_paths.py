"""The places of a program's code, and how its workers find it there.

Owns the difference between the entries of ``sys.path`` that a fresh interpreter has by itself (the *standard library*
and the directories of *installed packages*) and all others, which are the program's.

Promises:

1. Whatever a driver could import from ``sys.path`` at ``init`` its workers can import, from the same file: from the
   directories of the program and of the working directory always, from those inside ``sys.prefix`` or beside it, from
   zip files, zipapps and relative entries. Entries are compared whole, never by how their text begins. The same holds
   for modules that it has imported before, from an entry that does not name their directory any more: from a relative
   one, of which the program has left the directory, or from one that it has removed.
2. The order is the driver's. An entry that stands behind the standard library stays behind it, so a file ``queue.py``
   that does no harm to the driver does none to its workers. A file ``numbers.py`` in front of it is the module that
   workers import, although the process they are forked from has loaded the other.
3. Workers of another environment of the same Python use the packages that are installed there, not the driver's.

Does not send finders that a program has put into ``sys.meta_path``. ``asyncray.runtime.late_paths`` follows changes of
``sys.path`` after ``init`` (Ray does not).
"""

from __future__ import annotations

import functools
import itertools
import os
import site
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from asyncray.io import forking
from asyncray.runtime.reducers import MAIN

if TYPE_CHECKING:
    from asyncray.words import CodePaths


class _Parts(NamedTuple):
    before: list[str]
    standard: list[str]
    between: list[str]
    installed: list[str]
    after: list[str]


def of_program(path: Iterable[object], directory: str | None, modules: Mapping[str, object]) -> CodePaths:
    """The entries of a driver's ``sys.path`` that its workers need.

    Args:
        path: ``sys.path``.
        directory: the working directory; None if it was deleted. It comes last where the path does not name it.
        modules: ``sys.modules``. Places of theirs that the path does not name come behind it.
    """
    paths = entries_of(path, directory, modules)
    if directory is not None and directory not in itertools.chain(paths["before"], paths["between"], paths["after"]):
        paths["after"].append(directory)
    return paths


def entries_of(path: Iterable[object], directory: str | None, modules: Mapping[str, object]) -> CodePaths:
    """As ``of_program``, without the working directory where the path does not name it."""
    entries = [absolute for entry in path if (absolute := _absolute(entry, directory)) is not None]
    parts = _split(entries)
    named = {os.path.normpath(entry) for entry in entries} | _standard_entries() | _installed_entries()
    places = places_of(modules)
    further = [place for place in dict.fromkeys(itertools.chain(*places.values())) if place not in named]
    return {
        "before": parts.before,
        "between": parts.between,
        "after": [*parts.after, *further],
        "shadowed": _shadowed(parts.before, modules, places),
    }


def working_directory() -> str | None:
    """The working directory; None if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _shadowed(before: Sequence[str], modules: Mapping[str, object], places: Mapping[str, Sequence[str]]) -> list[str]:
    """The modules of the standard library instead of which the program has imported others, or would import them."""
    whole = {os.path.normpath(entry) for entry in before}
    return [name for name in _rivals(before) if name not in modules or not whole.isdisjoint(places.get(name, ()))]


def places_of(modules: Mapping[str, object]) -> dict[str, list[str]]:
    """By name: the directories and archives in which the import system finds these modules by their names."""
    found: dict[str, list[str]] = {}
    for name, module in list(modules.items()):
        if "." in name or name in MAIN or not issubclass(type(module), ModuleType):
            continue
        # Not by ``getattr``, which would load a lazy module.
        spec = object.__getattribute__(module, "__dict__").get("__spec__")
        if not isinstance(spec, ModuleSpec):
            continue
        for place in spec.submodule_search_locations or [spec.origin or ""]:
            parent, last = os.path.split(place)
            if os.path.isabs(parent) and last.partition(".")[0] == name:
                found.setdefault(name, []).append(os.path.normpath(parent))
    return found


def _rivals(directories: Sequence[str]) -> list[str]:
    """The names of modules in these directories and archives that modules of the standard library have, too."""
    stems: set[str] = set()
    for directory in directories:
        try:
            stems.update(name.partition(".")[0] for name in forking.names_in(directory))
        except NotADirectoryError:
            # It is an archive, or in one, and may have any module of the library.
            stems.update(sys.stdlib_module_names)
        except OSError:
            continue
    specs = {name: PathFinder.find_spec(name, directories) for name in sorted(stems & sys.stdlib_module_names)}
    # A directory without ``__init__.py`` has no location, and stands behind all others.
    return [name for name, spec in specs.items() if spec is not None and spec.has_location]


def make_way(shadowed: Iterable[str]) -> None:
    """Forgets these modules of the standard library, so that the next import finds those of the program.

    A process that serves no job yet has loaded some, and modules that use them keep them.
    """
    for name in shadowed:
        module = sys.modules.pop(name, None)
        # Only packages, and os, have modules below them. A look at all names costs a forked worker 200 page faults.
        if module is os or hasattr(module, "__path__"):
            for loaded in [other for other in sys.modules if other.startswith(f"{name}.")]:
                del sys.modules[loaded]


def arrange(program: CodePaths, own: Sequence[str]) -> list[str]:
    """The ``sys.path`` of a worker.

    Args:
        program: the driver's entries.
        own: ``sys.path`` of a worker that serves no job yet.
    """
    parts = _split(own)
    ordered = [
        *program["before"],
        *parts.before,
        *parts.standard,
        *program["between"],
        *parts.between,
        *parts.installed,
        *program["after"],
        *parts.after,
    ]
    return list(dict.fromkeys(ordered))


def _absolute(entry: object, directory: str | None) -> str | None:
    """The entry as it is found from any directory; None if it finds nothing."""
    if not isinstance(entry, str):
        return None  # the import system ignores it
    if os.path.isabs(entry):
        return entry
    if directory is None:
        return None
    if entry and os.sep not in entry and not os.path.lexists(entry):
        return entry  # no path: setuptools gives editable installs such names
    return os.path.normpath(os.path.join(directory, entry))


def _split(entries: Sequence[str]) -> _Parts:
    whole = [os.path.normpath(entry) for entry in entries]
    library, packages = _standard_entries(), _installed_entries()
    first = next((at for at, entry in enumerate(whole) if entry in library), len(whole))
    second = next((at for at, entry in enumerate(whole) if entry in packages and at > first), len(whole))
    parts = _Parts([], [], [], [], [])
    for at, entry in enumerate(entries):
        if whole[at] in library:
            parts.standard.append(entry)
        elif whole[at] in packages:
            parts.installed.append(entry)
        else:
            (parts.before if at < first else parts.between if at < second else parts.after).append(entry)
    return parts


@functools.cache
def _standard_entries() -> set[str]:
    library = os.path.dirname(os.path.abspath(os.__file__))
    name = os.path.basename(library)
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    modules = os.path.join(sys.base_exec_prefix, sys.platlibdir, name, "lib-dynload")
    return {library, os.path.join(library, "lib-dynload"), modules, os.path.join(os.path.dirname(library), archive)}


@functools.cache
def _installed_entries() -> set[str]:
    directories = [*site.getsitepackages(), site.USER_SITE]
    return {os.path.normpath(directory) for directory in directories if directory}
