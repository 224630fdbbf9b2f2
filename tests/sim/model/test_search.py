"""The model of references between nodes: no state of a small world is wrong, and each broken rule is noticed."""

from __future__ import annotations

import pytest

from tests.sim.model.protocol import Rules
from tests.sim.model.search import exhaust, walk


@pytest.mark.parametrize(
    "rules", [Rules(tasks=2, returns=True), Rules(tasks=2, losses=1), Rules(tasks=1, losses=1, returns=True)]
)
def test_no_state_is_wrong(rules: Rules) -> None:
    found = exhaust(rules)
    assert found.complete, str(found)


def test_no_random_way_through_a_larger_world_is_wrong() -> None:
    found = walk(Rules(nodes=4, tasks=4, losses=1, returns=True), seed=1, walks=50)
    assert found.wrong is None, str(found)


@pytest.mark.parametrize(
    ("broken", "steps"),
    [
        (Rules(tasks=3, registers_at_each_cover=False), 9),
        (Rules(tasks=2, waits_for_registration=False), 10),
        (Rules(tasks=2, losses=1, has_grace=False), 6),
    ],
)
def test_a_broken_rule_loses_the_object(broken: Rules, steps: int) -> None:
    """The first is scenario H9, the last H10; both stand in ``test_references``, too."""
    found = exhaust(broken)
    assert found.wrong is not None
    assert "freed" in found.wrong
    assert len(found.steps) == steps, str(found)
