"""``python -m tests.sim.model``: searches the states of a larger model than ``make test`` does."""

from __future__ import annotations

import argparse
import sys

from tests.sim.model.protocol import Rules
from tests.sim.model.search import exhaust, walk


def main() -> int:
    """Returns the exit code: 1 if a state is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.model", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--losses", type=int, default=0)
    parser.add_argument("--returns", action="store_true")
    parser.add_argument("--walks", type=int, default=0, help="random ways instead of all states")
    arguments = parser.parse_args()
    rules = Rules(arguments.nodes, arguments.tasks, arguments.losses, arguments.returns)
    found = walk(rules, 1, arguments.walks) if arguments.walks else exhaust(rules)
    print(found)
    return found.wrong is not None


sys.exit(main())
