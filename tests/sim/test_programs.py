"""Programs run on all nodes of a cluster, while nodes join and die, links break, and hosts stand still."""

from __future__ import annotations

import pytest

from tests.sim.days import begin, live
from tests.sim.test_membership import A_CHUNK, FIRST_SEED, SEEDS


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, A_CHUNK))
def test_a_day_of_a_cluster_ends_without_a_trace(first: int) -> None:
    for seed in range(first, min(first + A_CHUNK, FIRST_SEED + SEEDS)):
        try:
            live(begin(seed))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
