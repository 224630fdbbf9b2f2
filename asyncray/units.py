"""Amounts of resources: exact integers inside, plain numbers for people.

Amounts are kept in units of 1/10000, so fractions add up exactly: ten tasks of 0.1 CPU are one CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

UNIT = 10_000
Demand = tuple[tuple[str, int], ...]
"""The resources that a task needs: (name, fixed amount), sorted by name, no zeros."""


def fixed(amounts: Mapping[str, float]) -> Demand:
    """Amounts as programs give them, in fixed point.

    >>> fixed({"CPU": 0.5, "GPU": 0})
    (('CPU', 5000),)
    """
    return tuple(sorted((name, round(amount * UNIT)) for name, amount in amounts.items() if amount))


def plain(amounts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The inverse of ``fixed``, without zeros."""
    return {name: amount / UNIT for name, amount in amounts if amount}
