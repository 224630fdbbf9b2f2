"""Programs run on all nodes of a cluster, while nodes join and die, links break, and hosts stand still."""

from __future__ import annotations

from tests.sim.days import begin, live
from tests.sim.seeds import SEEDS, in_chunks, play_each


@in_chunks(SEEDS)
def test_a_day_of_a_cluster_ends_without_a_trace(seeds: range) -> None:
    play_each(seeds, lambda seed: live(begin(seed)))
