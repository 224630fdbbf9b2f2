"""Placement groups: resources that are set aside together, in bundles, for tasks and actors that name them.

Promises: arguments are checked here, with the errors that programs for Ray match on. A group is registered when
``placement_group`` returns, and gets its resources when there are enough; ``ready`` gives a ref to that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncray.api import strategies
from asyncray.api.loop_warning import warn_in_loop
from asyncray.api.object_calls import check_timeout
from asyncray.api.options import check_amount, check_labels
from asyncray.api.strategies import selector_conditions
from asyncray.ids import PUT_INDEX, PlacementGroupID
from asyncray.messages import GROUP_READY, UNRESOLVED
from asyncray.runtime.context import current_group
from asyncray.runtime.refs import ObjectRef, own
from asyncray.runtime.runtime import require
from asyncray.runtime.serialization import serialize
from asyncray.units import fixed, plain

if TYPE_CHECKING:
    from asyncray.words import GroupRow

VALID_PLACEMENT_GROUP_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """A handle of a placement group. Equal handles are of the same group; they can be pickled.

    Args:
        id: the group.
        bundle_specs: the bundles; None: the first use asks for them.
    """

    def __init__(
        self,
        id: PlacementGroupID,
        bundle_specs: Sequence[dict[str, float]] | None = None,
    ) -> None:
        self.id = id
        self._bundles = None if bundle_specs is None else [dict(bundle) for bundle in bundle_specs]

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle of no group."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def is_empty(self) -> bool:
        """True for a handle of no group."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle: name -> amount. Empty if the group was removed long ago."""
        if self._bundles is None:
            row = require().request("groups", self.id.binary())
            self._bundles = [] if row is None else [plain(bundle) for bundle in row["bundles"]]
        return self._bundles

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that is ready when all bundles are set aside. Its value is this handle.

        Returns:
            A ref: await it, or ``get`` it. It raises ``TaskPlacementGroupRemoved`` if the group is removed.

        Raises:
            NotStartedError: no session runs.

        Example::

            await placement_group([{"CPU": 1}]).ready()
        """
        runtime = require()
        object_id = runtime.connection.ids.next_task_id() + PUT_INDEX
        ref: ObjectRef[PlacementGroup] = own(runtime.references, object_id)
        runtime.post((GROUP_READY, self.id.binary(), object_id, serialize(self).pickled))
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Waits until all bundles are set aside.

        Args:
            timeout_seconds: seconds.

        Returns:
            False if they are not by then. A group that was removed counts as ready, as in Ray: its ref raises.

        Example::

            assert placement_group([{"CPU": 1}]).wait(timeout_seconds=10)
        """
        ref = self.ready()
        if timeout_seconds:
            warn_in_loop("wait")
        require().objects.wait([ref._local], 1, timeout=check_timeout(timeout_seconds))
        return ref._local.kind != UNRESOLVED


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    *,
    bundle_label_selector: list[dict[str, str]] | None = None,
) -> PlacementGroup:
    """Sets resources aside, all or none, as soon as there are enough.

    Args:
        bundles: name -> amount, for each bundle. A bundle is on one node.
        strategy: "PACK" (on few nodes, if possible), "SPREAD" (on different nodes, if possible), "STRICT_PACK" (on
            one node) or "STRICT_SPREAD" (on different nodes).
        name: finds the group by ``get_placement_group``, in the namespace of this program.
        lifetime: None: the group ends with this program, or with the detached actor that makes it. "detached": it
            lives until it is removed.
        bundle_label_selector: for each bundle the labels that its node must have, as the option ``label_selector``.

    Returns:
        A handle. The group may still wait for resources: see ``PlacementGroup.ready``.

    Raises:
        ValueError: arguments that make no sense, or a name that is taken.

    Example::

        group = placement_group([{"CPU": 1}, {"CPU": 2}], strategy="SPREAD")
        ray.get(group.ready(), timeout=10)
    """
    checked = _check_bundles(bundles)
    if strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        raise ValueError(
            f"Invalid placement group strategy {strategy}. Supported strategies are: "
            f"{VALID_PLACEMENT_GROUP_STRATEGIES}."
        )
    if lifetime not in (None, "detached"):
        raise ValueError(f"Placement group `lifetime` argument must be either `None` or 'detached'. Got {lifetime!r}.")
    selectors = _check_selectors(bundle_label_selector, len(checked))
    runtime = require()
    group_id = runtime.connection.ids.next_task_id()
    rows = [(fixed(bundle), selector_conditions(selector)) for bundle, selector in zip(checked, selectors, strict=True)]
    problem = runtime.request("create_group", group_id, name or "", strategy, rows, lifetime == "detached")
    if problem is not None:
        raise ValueError(problem)
    return PlacementGroup(PlacementGroupID(group_id), checked)


def _check_bundles(bundles: object) -> list[dict[str, float]]:
    """Raises ValueError if they are no bundles. Zero amounts are dropped."""
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError("Bundles must be a non-empty list of resource dictionaries, got an empty list.")
    checked = []
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(name, str) and isinstance(amount, int | float) for name, amount in bundle.items()
        ):
            raise ValueError(f"Bundles must be a non-empty list of resource dictionaries. Got {bundles!r}.")
        amounts = {name: check_amount(name, amount) for name, amount in bundle.items() if amount}
        if not amounts:
            raise ValueError(f"Bundles cannot be an empty dictionary or have only 0 values. Bundles: {bundles!r}.")
        checked.append(amounts)
    return checked


def _check_selectors(selectors: list[dict[str, str]] | None, count: int) -> list[dict[str, str]]:
    if selectors is None:
        return [{} for _ in range(count)]
    if type(selectors) is not list or len(selectors) != count:
        raise ValueError(
            f"Invalid bundle label selector {selectors!r}: it must be a list with one dict for each of the {count} "
            "bundles."
        )
    return [check_labels("bundle_label_selector", selector) for selector in selectors]


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Ends a group: its tasks and actors are killed, those that wait fail, and its resources return.

    Args:
        placement_group: a handle. A group that has ended already is no error.

    Raises:
        ValueError: not a handle.

    Example::

        remove_placement_group(group)
    """
    if not isinstance(placement_group, PlacementGroup):
        raise ValueError(f"remove_placement_group takes a PlacementGroup, not {placement_group!r}.")
    require().request("remove_group", placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group with this name, in the namespace of this program.

    Raises:
        ValueError: the name is empty, or no such group exists (any more).

    Example::

        group = get_placement_group("training")
    """
    if not placement_group_name or not isinstance(placement_group_name, str):
        raise ValueError(f"Please supply a non-empty value to get_placement_group, not {placement_group_name!r}.")
    row = require().request("find_group", placement_group_name)
    if row is None:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(row["group_id"]), [plain(bundle) for bundle in row["bundles"]])


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """States of groups.

    Args:
        placement_group: the group; None: all groups, with those that were removed.

    Returns:
        A dict: ``placement_group_id`` (hex), ``name``, ``bundles`` (index -> resources), ``bundles_to_node_id``,
        ``strategy``, ``state`` ("PENDING", "PREPARED", "CREATED", "RESCHEDULING" or "REMOVED") and ``stats``; empty
        for an unknown group. Without an argument such dicts by ID.

    Example::

        print(placement_group_table(group)["state"])
    """
    if placement_group is None:
        rows: list[GroupRow] = require().request("groups", None)
        return {row["group_id"].hex(): _table_row(row) for row in rows}
    row = require().request("groups", placement_group.id.binary())
    return {} if row is None else _table_row(row)


def _table_row(row: GroupRow) -> dict[str, Any]:
    state = row["state"]
    finished = state in ("CREATED", "REMOVED")
    return {
        "placement_group_id": row["group_id"].hex(),
        "name": row["name"],
        "bundles": {index: plain(bundle) for index, bundle in enumerate(row["bundles"])},
        "bundles_to_node_id": {index: "" if node is None else node.hex() for index, node in enumerate(row["nodes"])},
        "strategy": row["strategy"],
        "state": state,
        "stats": {
            "scheduling_state": "FINISHED" if finished else "INFEASIBLE" if row["why"] else "QUEUED",
            "scheduling_attempt": row["attempts"],
            "why": row["why"],
        },
    }


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the calling task or actor runs in.

    Returns:
        A handle; None outside of groups, and in a driver.

    Example::

        @ray.remote
        def inside():
            return get_current_placement_group()
    """
    require()
    group = current_group()
    return None if group is None else PlacementGroup(PlacementGroupID(group[0]))


def captured_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options, or in a task that captures its children, and names no strategy here, these with its group."""
    group = current_group()
    if group is None or not group[1] or options.get("scheduling_strategy") is not None:
        return options
    handle = PlacementGroup(PlacementGroupID(group[0]))
    captured = strategies.PlacementGroupSchedulingStrategy(handle, placement_group_capture_child_tasks=True)
    return {**options, "scheduling_strategy": captured}
