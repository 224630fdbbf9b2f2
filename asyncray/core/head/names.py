"""Names of actors in a cluster: the head knows the actor of each name, and the node that has claimed it.

A node claims a name before it makes the actor, and frees it when the actor is forgotten or was never made. A claim of a
name that is taken races with the end of the actor that has it:

1. A program kills actor a of node H, and makes another of the same name at node X. The claim of X may come before H has
   freed the name.
2. X names the actors whose end it has requested and not seen (``killed``): the head frees their names itself.
3. Otherwise the head asks H a question before it refuses. The answer comes behind all that H has said before, so a name
   that was free at H is free here by then. The wait ends after a while, and then the name counts as taken.

``free`` names the actor and is ignored for any other, so a late one does not free the name of the next actor. The end
of a node frees all names that it has claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asyncray.core.directory import Directory, RegisteredName, Registration
from asyncray.core.questions import Answer

Reply = Callable[..., None]
"""Takes ``ok`` and a value or a fault."""

AskHolder = Callable[[bytes, str, Sequence[Any], Callable[[Answer], None]], None]
"""Asks a node, and gets an answer in any case: NodeID, method, arguments, and a function that takes the answer."""


class ClusterNames:
    """The names of all actors of a cluster.

    Args:
        ask: asks the node that has claimed a name.
        is_member: returns True for a node that has not ended.
    """

    def __init__(self, ask: AskHolder, is_member: Callable[[bytes], bool]) -> None:
        self._ask = ask
        self._is_member = is_member
        self._directory = Directory()
        # Name -> the node that has claimed it.
        self._holders: dict[RegisteredName, bytes] = {}

    def __repr__(self) -> str:
        return f"<ClusterNames {len(self._holders)}>"

    def claim(self, node: bytes, arguments: Sequence[Any], reply: Reply) -> None:
        """Gives a name to an actor: namespace, name, actor, handle, actors that the node has killed.

        The answer is None, or actor, handle and True if it lives of the registration that was there before.
        """
        namespace, name, actor, handle, killed = arguments
        key = (namespace, name)
        taken = self._directory.find(key)
        if taken is not None and taken.actor in killed:
            self._free(key, taken.actor)
            taken = None
        if taken is None or taken.actor == actor or self._holders[key] == node:
            # The names that the node itself has freed came before its claim.
            self._grant(node, key, actor, handle, reply)
            return

        def answered(answer: Answer) -> None:
            if self._is_member(node):  # otherwise the name would stay taken
                self._grant(node, key, actor, handle, reply)

        self._ask(self._holders[key], "ping", (), answered)

    def _grant(self, node: bytes, key: RegisteredName, actor: bytes, handle: bytes, reply: Reply) -> None:
        taken = self._directory.claim(key, actor, handle)
        if taken is None:
            self._holders[key] = node
        is_other = taken is not None and taken.actor != actor
        reply(ok=True, value=list(taken) if taken is not None and is_other else None)

    def find(self, node: bytes, arguments: Sequence[Any], reply: Reply) -> None:
        """Answers with actor and handle of a name (namespace, name), or None if no living actor has it."""
        found = self._directory.find((arguments[0], arguments[1]))
        reply(ok=True, value=_handle_of(found))

    def list(self, node: bytes, arguments: Sequence[Any], reply: Reply) -> None:
        """Answers with the names of living actors in a namespace, or in all of them (None)."""
        names = self._directory.list(arguments[0])
        reply(ok=True, value=[{"name": name, "namespace": namespace} for namespace, name in names])

    def died(self, node: bytes, arguments: Sequence[Any], reply: Reply) -> None:
        """An actor is dead and keeps its name until ``free``: namespace, name, actor."""
        namespace, name, actor = arguments
        self._directory.died((namespace, name), actor)
        reply(ok=True, value=None)

    def free(self, node: bytes, arguments: Sequence[Any], reply: Reply) -> None:
        """Makes a name available again: namespace, name, actor."""
        namespace, name, actor = arguments
        self._free((namespace, name), actor)
        reply(ok=True, value=None)

    def _free(self, key: RegisteredName, actor: bytes) -> None:
        self._directory.free(key, actor)
        if self._directory.find(key) is None:
            self._holders.pop(key, None)

    def node_ended(self, node: bytes) -> None:
        """A node is LOST or has LEFT: its actors have ended, and those that it wanted to make will not come."""
        for key in [key for key, holder in self._holders.items() if holder == node]:
            found = self._directory.find(key)
            assert found is not None, f"{key} has a holder and no actor"
            self._free(key, found.actor)

    def check(self) -> None:
        """Raises AssertionError if a name has no holder, or a holder no name."""
        assert all(self._directory.find(key) is not None for key in self._holders), "a holder has no name"
        assert set(self._directory.list(None)) <= self._holders.keys(), "a name has no holder"


def _handle_of(found: Registration | None) -> Any:
    return [found.actor, found.handle] if found is not None and found.alive else None
