"""Placements: where the tasks of a template wish to run, as values that are keys of tables.

A template names its placement once. ``HERE`` (in ``records``) is the default: the node decides. The others stand for
the option ``scheduling_strategy`` and for labels of nodes. ``read_where`` makes them from the lists that travel in a
template's spec and in messages between nodes, and ``written`` is its inverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

IN: Final = "in"
NOT_IN: Final = "not_in"
EXISTS: Final = "exists"
ABSENT: Final = "absent"
_OPERATORS = (IN, NOT_IN, EXISTS, ABSENT)

Condition: TypeAlias = tuple[str, str, tuple[str, ...]]
"""A condition on the labels of a node: key, operator (IN, NOT_IN, EXISTS or ABSENT), values."""

Conditions: TypeAlias = tuple[Condition, ...]
"""Conditions all of which must hold."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The next node in turn, wherever the arguments are."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """One node."""

    node: bytes
    soft: bool
    """If the node has ended or never fits, any other node will do."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A node whose labels meet ``hard``, and preferably ``soft``. Without such a node the task cannot run."""

    hard: Conditions
    soft: Conditions


@dataclass(frozen=True, slots=True)
class Selectors:
    """A node whose labels meet the first of the alternatives that any node meets. Without one the task waits."""

    alternatives: tuple[Conditions, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle of a placement group, or any of them that fits (``ANY_BUNDLE``)."""

    group: bytes
    index: int


ANY_BUNDLE: Final = -1

Named: TypeAlias = "Spread | Affinity | Labels | Selectors | Bundle"
"""The placements that programs can ask for."""

SPREAD: Final = Spread()


def meets(labels: Mapping[str, str], conditions: Conditions) -> bool:
    """True if a node with these labels meets all of the conditions."""
    return all(_meets_one(labels.get(key), operator, values) for key, operator, values in conditions)


def _meets_one(value: str | None, operator: str, values: tuple[str, ...]) -> bool:
    if operator == EXISTS:
        return value is not None
    if operator == ABSENT:
        return value is None
    return (value in values) == (operator == IN)


def read_where(parts: Sequence[Any]) -> Named:
    """Returns the placement that a list from a message describes.

    Raises:
        ValueError: it describes none.
    """
    try:
        kind, *fields = parts
        if kind == "bundle":
            group, index = fields
            return Bundle(_checked(group, bytes), _checked(index, int))
        if kind == "affinity":
            node, soft = fields
            return Affinity(_checked(node, bytes), _checked(soft, bool))
        if kind == "labels":
            hard, soft = fields
            return Labels(read_conditions(hard), read_conditions(soft))
        if kind == "selectors":
            (alternatives,) = fields
            return Selectors(tuple(read_conditions(conditions) for conditions in alternatives))
        if kind == "spread" and not fields:
            return SPREAD
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{parts!r} is no placement")


def _checked(value: Any, wanted: type) -> Any:
    if not isinstance(value, wanted):
        raise TypeError(value)
    return value


def read_conditions(rows: Sequence[Any]) -> Conditions:
    """Returns the conditions on labels that a list from a message describes.

    Raises:
        TypeError, ValueError: it describes none.
    """
    conditions = []
    for key, operator, values in rows:
        if operator not in _OPERATORS:
            raise ValueError(operator)
        conditions.append((_checked(key, str), operator, tuple(_checked(value, str) for value in values)))
    return tuple(conditions)


def written(where: Named) -> list[Any]:
    """Returns a placement as the list that ``read_where`` reads."""
    if isinstance(where, Bundle):
        return ["bundle", where.group, where.index]
    if isinstance(where, Affinity):
        return ["affinity", where.node, where.soft]
    if isinstance(where, Labels):
        return ["labels", where.hard, where.soft]
    if isinstance(where, Selectors):
        return ["selectors", where.alternatives]
    return ["spread"]
