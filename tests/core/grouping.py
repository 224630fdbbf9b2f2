"""Placement groups in the simulated world: how a process makes, removes and asks for them."""

from __future__ import annotations

from typing import Any

from asyncray.core.bundles import GroupHere
from asyncray.ids import PUT_INDEX
from asyncray.messages import GROUP_READY, REQUEST
from asyncray.units import fixed
from tests.core.processes import Process
from tests.core.world import World


def ask(process: Process, method: str, *arguments: Any) -> list[Any]:
    """Sends a request. The list that it returns gets the answer, or nothing if it is refused."""
    answers: list[Any] = []
    process.ask(REQUEST, method, list(arguments), answers.append)
    return answers


def make(
    process: Process, *bundles: dict[str, float], strategy: str = "PACK", name: str = "", detached: bool = False
) -> bytes:
    """Makes a group; returns its ID."""
    group = process.next_id()
    ask(process, "create_group", group, name, strategy, [(fixed(bundle), []) for bundle in bundles], detached)
    return group


def ready(process: Process, group: bytes) -> bytes:
    """Returns the object that gets a value when the group is created."""
    ref = process.next_id() + PUT_INDEX
    process.send((GROUP_READY, group, ref, b"the group"), (ref,))
    return ref


def state(world: World, group: bytes) -> str:
    return world.machine.group_views.rows[group]["state"]


def why(world: World, group: bytes) -> str:
    return world.machine.group_views.rows[group]["why"]


def here(world: World, group: bytes) -> GroupHere:
    return world.machine.bundles.groups[group]


def inside(group: bytes, index: int = -1) -> tuple[Any, ...]:
    """The placement of a recipe."""
    return "bundle", group, index
