"""The machines of placements exist from the first need on: a node that has none starts without their modules."""

from __future__ import annotations

import subprocess
import sys

from asyncray.core.placement_machines import PlacementMachines
from tests.core.grouping import inside, make, state
from tests.core.programs import Recipe
from tests.core.world import World

MODULES = ("placements", "placement_machines", "destinations", "bundles", "groups", "group_choice", "group_requests")

PROGRAM = f"""
import sys
from asyncray.core.machine import NodeMachine
machine = NodeMachine(b"n" * 8, {{"CPU": 1}}, "prefix", 1 << 20, {{}})
machine.flush()
machine.tick()
machine.check()
print([name for name in {MODULES} if f"asyncray.core.{{name}}" in sys.modules])
"""


def test_a_node_without_placements_does_not_load_their_modules() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_first_template_with_a_placement_makes_them() -> None:
    world = World(CPU=2)
    driver = world.driver()
    driver.submit(Recipe())
    world.settle()
    machines = world.machine.placements
    assert isinstance(machines, PlacementMachines)
    assert world.machine.placements is machines
    group = make(driver, {"CPU": 1})
    ref = driver.submit(where=inside(group))
    world.settle()
    assert state(world, group) == "CREATED"
    assert ref in driver.values
    world.end()
