"""The budgets of the design, by row name: the figures that are good enough. Measured against on two cores.

``at_least`` is what a release must reach, ``aim`` what puts asyncray ahead of everyone. For rates they are lower
bounds, for everything else upper ones. ``relay_share`` is the least share of the bare relay's rate.
"""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """For one row, in its unit; None where none is set."""

    at_least: float | None = None
    aim: float | None = None
    relay_share: float | None = None


NO_BUDGET = Budget()

BUDGETS: dict[str, Budget] = {
    "import + init + first result": Budget(0.4, 0.25),
    "shutdown": Budget(0.3, 0.1),
    "idle 2-worker node: memory": Budget(120, 80),
    "idle 2-worker node: processes": Budget(6),
    "idle 2-worker node: threads": Budget(16),
    "idle 2-worker node: CPU": Budget(1, 0.3),
    "single client get calls (Plasma Store)": Budget(100_000, 300_000),
    "single client put calls (Plasma Store)": Budget(20_000, 50_000),
    "put of 0.8 GB, first time": Budget(2.6),
    "single client put gigabytes": Budget(12, 18),
    "get of an 800 MB array": Budget(300e-6, 60e-6),
    "the seeds' weights: put": Budget(0.15, 0.04),
    "the seeds' weights: get": Budget(500e-6, 100e-6),
    "100 MB argument to 20 tasks": Budget(0.033, 0.010),
    "10 results of 100 MB each": Budget(4, 10),
    "single client get object containing 10k refs": Budget(40, 100),
    "single client wait 1k refs": Budget(20, 60),
    "single client tasks sync": Budget(4_000, 7_000),
    "single client tasks async": Budget(27_000, 50_000, 0.25),
    "100,000 tasks at once": Budget(25_000, 45_000),
    "100,000 tasks at once: peak memory": Budget(400, 250),
    "1,000,000 tasks queued, then run": Budget(60, 25),
    "1,000,000 tasks queued, then run: peak memory": Budget(None, 1_500),
    "multi client tasks async": Budget(20_000, 40_000),
    "20 tasks that each run 100": Budget(15_000, 30_000),
    "binary tree of 1,024 adds": Budget(0.2, 0.08),
    "chain of 1,000 tasks": Budget(0.25, 0.12),
    "new actors with a first call": Budget(60, 150),
    "1:1 actor calls sync": Budget(5_000, 8_000),
    "1:1 actor calls async": Budget(30_000, 60_000, 0.25),
    "n:n actor calls async": Budget(25_000, 40_000),
    "1:1 async-actor calls async": Budget(25_000, 50_000),
    "event beside 200,000 tasks and 10,000 actors": Budget(1e-3, 100e-6),
    "task's end beside 5,000 different demands": Budget(1e-3, 100e-6),
    "tasks on another node": Budget(30_000, 45_000),
    "tasks on another node sync": Budget(2_000),
    "actor calls on another node": Budget(30_000, 45_000),
    "actor calls on another node sync": Budget(2_000),
    "get of 800 MB from another node": Budget(1, 2),
    "1 GiB to 4 nodes": Budget(1),
    "small tasks during that: slowdown": Budget(2),
    "get of 10,000 small objects of another node": Budget(0.5),
    "a node joins": Budget(0.5),
    "a lost node is known": Budget(1.5),
}
