"""Strategies: where the tasks and actors of a remote function or class run. ``asyncray.util`` shows them to programs.

Promises: a strategy checks its arguments where it is made, with the errors that programs for Ray match on; two equal
strategies are equal as keys, so that calls with equal options share a template. ``where_of`` turns options into the
list that travels in a template's spec (``asyncray.core.placements``).

Does not: know which nodes exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from asyncray.ids import PlacementGroupID
    from asyncray.words import TemplateSpec

SPREAD = "SPREAD"

_Conditions = list[list[Any]]
"""Key, operator and values of each condition, as messages have them."""


class GroupHandle(Protocol):
    """A placement group as strategies use it."""

    id: PlacementGroupID

    @property
    def is_empty(self) -> bool:
        """True for a handle of no group."""

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle."""


class _Operator:
    """A condition on a label. Values are strings."""

    name = ""
    wire = ""

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError(f"The variadic parameter of the {self.name} operator must be a non-empty tuple, e.g. ")
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"Type of value in position {position} for the {self.name} operator must be str (e.g. "
                    f'{self.name}("value")) but got {value!r} of type {type(value)}.'
                )
        self.values = values

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.values))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Operator) and (self.wire, self.values) == (other.wire, other.values)

    def __hash__(self) -> int:
        return hash((self.wire, self.values))


class In(_Operator):
    """The label is one of these values."""

    name, wire = "In", "in"


class NotIn(_Operator):
    """The label is none of these values, or the node has no such label."""

    name, wire = "NotIn", "not_in"


class Exists(_Operator):
    """The node has the label, with any value."""

    name, wire = "Exists", "exists"

    def __init__(self) -> None:
        self.values = ()


class DoesNotExist(_Operator):
    """The node has no such label."""

    name, wire = "DoesNotExist", "absent"

    def __init__(self) -> None:
        self.values = ()


class SchedulingStrategy:
    """The base of the strategies, equal if all their fields are."""

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SchedulingStrategy) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class NodeAffinitySchedulingStrategy(SchedulingStrategy):
    """One node.

    Args:
        node_id: hexadecimal, as ``get_runtime_context().get_node_id()`` and ``nodes()`` give it.
        soft: True: any other node will do if this one has ended, or never fits. False: the task fails then, with
            ``TaskUnschedulableError`` (an actor with ``ActorUnschedulableError``).

    Raises:
        ValueError: no node can have this ID.
        TypeError: an argument has the wrong type.

    Example::

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        f.options(scheduling_strategy=here).remote()
    """

    def __init__(self, node_id: str, soft: bool) -> None:  # noqa: FBT001 - Ray's
        if not isinstance(node_id, str):
            raise TypeError(f"node_id must be a str of hexadecimal digits, not {node_id!r}")
        bytes.fromhex(node_id)  # raises ValueError
        self.node_id = node_id
        self.soft = bool(soft)

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"

    def _key(self) -> tuple[Any, ...]:
        return "affinity", self.node_id, self.soft


class NodeLabelSchedulingStrategy(SchedulingStrategy):
    """A node with certain labels.

    Args:
        hard: label -> ``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``. All must hold. Without such a node the task
            fails with ``TaskUnschedulableError``.
        soft: the same; nodes that meet them are preferred.

    Raises:
        ValueError: both are empty, or something in them is of another form.

    Example::

        east = NodeLabelSchedulingStrategy({"zone": In("east-1", "east-2")}, soft={"disk": Exists()})
        f.options(scheduling_strategy=east).remote()
    """

    def __init__(self, hard: dict[str, Any] | None, *, soft: dict[str, Any] | None = None) -> None:
        self.hard = _operators(hard, "hard")
        self.soft = _operators(soft, "soft")
        if not (self.hard or self.soft):
            raise ValueError("The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty.")

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard}, soft={self.soft})"

    def _key(self) -> tuple[Any, ...]:
        return "labels", tuple(self.hard.items()), tuple(self.soft.items())


def _operators(found: dict[str, Any] | None, name: str) -> dict[str, _Operator]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(
            f'The {name} parameter must be a map (e.g. {{"key1": In("value1")}}) but got type {type(found)}.'
        )
    for key, operator in found.items():
        if not isinstance(key, str):
            raise ValueError(
                f'The map key of the {name} parameter must be of type str (e.g. {{"key1": In("value1")}}) but got '
                f"{key} of type {type(key)}."
            )
        if not isinstance(operator, In | NotIn | Exists | DoesNotExist):
            raise ValueError(
                f"The map value for key {key} of the {name} parameter must be one of the `In`, `NotIn`, `Exists` or "
                f'`DoesNotExist` operator (e.g. {{"key1": In("value1")}}) but got {operator} of type {type(operator)}.'
            )
    return dict(found)


class PlacementGroupSchedulingStrategy(SchedulingStrategy):
    """The resources of a placement group.

    Args:
        placement_group: the group.
        placement_group_bundle_index: the bundle, from 0; -1: any bundle that fits.
        placement_group_capture_child_tasks: True: tasks and actors that the task submits run in the group, too, unless
            they name a strategy of their own.

    Example::

        group = placement_group([{"CPU": 1}, {"CPU": 2}])
        f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 1)).remote()
    """

    def __init__(
        self,
        placement_group: GroupHandle | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,  # noqa: FBT001 - Ray's
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index})"

    def _key(self) -> tuple[Any, ...]:
        captures = bool(self.placement_group_capture_child_tasks)
        return "bundle", self.placement_group, self.placement_group_bundle_index, captures


# From options to the list in a spec -----------------------------------------------------------------------------------


def _conditions(operators: Mapping[str, _Operator]) -> _Conditions:
    return [[key, operator.wire, list(operator.values)] for key, operator in operators.items()]


def selector_conditions(selector: Mapping[str, str]) -> _Conditions:
    """The conditions of a checked ``label_selector``: ``value``, ``!value``, ``in(a, b)`` or ``!in(a, b)``."""
    found = []
    for key, expression in selector.items():
        wanted = expression.removeprefix("!")
        values = wanted[3:-1].split(",") if wanted.startswith("in(") else [wanted]
        operator = "not_in" if expression.startswith("!") else "in"
        found.append([key, operator, [value.strip() for value in values]])
    return found


def place(spec: TemplateSpec, options: Mapping[str, Any], demand: Mapping[str, float], what: str) -> None:
    """Writes into a spec where its tasks run, and the placement group that code in them finds itself in.

    Arguments and errors as of ``where_of``.
    """
    where = where_of(options, demand, what)
    if where is None:
        return
    spec["where"] = where
    if where[0] == "bundle":
        strategy = options["scheduling_strategy"]
        spec["options"]["group"] = [where[1], bool(strategy.placement_group_capture_child_tasks)]


def where_of(options: Mapping[str, Any], demand: Mapping[str, float], what: str) -> list[Any] | None:
    """Where tasks with these options run, as the list of a spec. None: the node decides.

    Args:
        options: the checked options of a task or actor.
        demand: the resources that it needs to be placed.
        what: "function f" or "actor C", for messages.

    Raises:
        ValueError: the options contradict each other, or no bundle of the group can ever serve the demand.
    """
    strategy = options.get("scheduling_strategy")
    selectors = [options.get("label_selector"), *_fallback_selectors(options)]
    if any(selectors):
        if isinstance(strategy, SchedulingStrategy):
            raise ValueError(f"The options label_selector and scheduling_strategy={strategy!r} exclude each other.")
        return ["selectors", [selector_conditions(selector or {}) for selector in selectors]]
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        return ["affinity", bytes.fromhex(strategy.node_id), strategy.soft]
    if isinstance(strategy, NodeLabelSchedulingStrategy):
        return ["labels", _conditions(strategy.hard), _conditions(strategy.soft)]
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        return _bundle_of(strategy, demand, what)
    return ["spread"] if strategy == SPREAD else None


def _fallback_selectors(options: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return [fallback["label_selector"] for fallback in options.get("fallback_strategy") or ()]


def _bundle_of(strategy: PlacementGroupSchedulingStrategy, demand: Mapping[str, float], what: str) -> list[Any] | None:
    group, index = strategy.placement_group, strategy.placement_group_bundle_index
    if group is None or group.is_empty:
        if index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return None
    bundles = group.bundle_specs
    # A group of which nothing is known was removed, and the task will fail with that reason.
    if bundles and not -1 <= index < len(bundles):
        raise ValueError(
            f"placement group bundle index {index} is invalid. Valid placement group indexes: 0-{len(bundles) - 1}"
        )
    wanted = bundles if index == -1 else bundles[index : index + 1]
    if bundles and not any(all(bundle.get(name, 0) >= amount for name, amount in demand.items()) for bundle in wanted):
        place = "any bundles" if index == -1 else f"bundle {index}"
        raise ValueError(
            f"Cannot schedule {what} with the placement group because the resource request {dict(demand)} cannot fit "
            f"into {place} for the placement group, {bundles}. An actor that names no num_cpus needs 1 CPU to be "
            "placed: give it num_cpus=0 where bundles have none."
        )
    return ["bundle", group.id.binary(), index]
