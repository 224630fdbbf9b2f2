"""The directory: which name belongs to which actor.

A name is a pair of a namespace and a name in it. The directory knows nothing of actors except what programs need to
make a handle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

RegisteredName: TypeAlias = tuple[str, str]
"""Namespace, name."""


class Registration(NamedTuple):
    """An entry of the directory."""

    actor: bytes
    """Its ID."""
    handle: bytes
    """The pickled description from which programs make a handle. The directory never reads it."""
    alive: bool
    """False: the actor is dead, and keeps its name as long as handles of it exist."""


class NameKeeper(Protocol):
    """Learns of the ends of named actors. See ``Directory`` for the methods."""

    def died(self, name: RegisteredName, actor: bytes) -> None: ...
    def free(self, name: RegisteredName, actor: bytes) -> None: ...


class Directory:
    """The names of the actors of a lone node, or of a cluster."""

    def __init__(self) -> None:
        self._table: dict[RegisteredName, Registration] = {}

    def __repr__(self) -> str:
        return f"<Directory {len(self._table)} names>"

    def claim(self, name: RegisteredName, actor: bytes, handle: bytes) -> Registration | None:
        """Gives the name to an actor. If another has it, changes nothing and returns that registration."""
        taken = self._table.get(name)
        if taken is None:
            self._table[name] = Registration(actor, handle, alive=True)
        return taken

    def find(self, name: RegisteredName) -> Registration | None:
        """Returns the registration of a name."""
        return self._table.get(name)

    def died(self, name: RegisteredName, actor: bytes) -> None:
        """The actor is dead. It keeps its name until ``free``."""
        found = self._table.get(name)
        if found is not None and found.actor == actor:
            self._table[name] = found._replace(alive=False)

    def free(self, name: RegisteredName, actor: bytes) -> None:
        """Makes the name available. Does nothing if another actor has it: this one may have lost it before."""
        found = self._table.get(name)
        if found is not None and found.actor == actor:
            del self._table[name]

    def list(self, namespace: str | None) -> Iterator[RegisteredName]:
        """Yields the names of living actors in a namespace; None: in all namespaces."""
        for name, found in self._table.items():
            if found.alive and namespace in (None, name[0]):
                yield name
