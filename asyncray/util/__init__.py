"""Helpers on top of the public calls, under the names that Ray's users know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncray.sync as ray
from asyncray.api.information import node_ip_address
from asyncray.api.placement_groups import (
    get_current_placement_group,
    get_placement_group,
    placement_group_table,
    remove_placement_group,
)
from asyncray.runtime.runtime import require
from asyncray.util.actor_pool import ActorPool
from asyncray.util.completion import as_completed, map_unordered

# A function and a module of this package have this name. The function wins here, as in Ray.
from asyncray.util.placement_group import placement_group
from asyncray.util.serializers import deregister_serializer, inspect_serializability, register_serializer

if TYPE_CHECKING:
    from asyncray.util.executor import Executor
    from asyncray.util.mapping import map

__all__ = [
    "ActorPool",
    "Executor",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


_HOMES = {"Executor": "executor", "map": "mapping"}
"""The modules of the names that are loaded when they are first used, because they need asyncio or futures."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # start-up cost: most programs use neither

    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def list_named_actors(all_namespaces: bool = False) -> list[Any]:  # noqa: FBT001 - Ray's
    """Names of living actors in this namespace, or with ``all_namespaces`` dicts of ``name`` and ``namespace``."""
    runtime = require()
    namespace = None if all_namespaces else runtime.facts["namespace"]
    rows: list[dict[str, str]] = list(runtime.request("list_named_actors", namespace))
    return rows if all_namespaces else [row["name"] for row in rows]


def get_node_ip_address() -> str:
    """The address of this machine as other nodes see it."""
    ray.get_runtime_context()
    return node_ip_address()
