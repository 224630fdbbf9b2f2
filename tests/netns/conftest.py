"""Four machines for each test, and the leak check of the system tests around it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.network import Machine, NetworkCluster, lacks, network
from tests.system.conftest import nothing_left, sessions

__all__ = ["nothing_left", "sessions"]


@pytest.fixture(scope="session")
def possible() -> None:
    """Skips the tests where this machine makes no network namespaces."""
    if missing := lacks():
        pytest.skip(missing)


@pytest.fixture
def machines(possible: None, nothing_left: object, sessions: Path) -> Iterator[list[Machine]]:
    with network(4, sessions) as made:
        yield made


@pytest.fixture
def cluster(machines: list[Machine]) -> Iterator[NetworkCluster]:
    """A head on the first machine, and nodes on the second and third. The fourth has no node."""
    made = NetworkCluster(machines)
    try:
        for machine, name in zip(machines[1:3], ("second", "third"), strict=True):
            made.add(machine, "--resources", json.dumps({name: 1}))
        yield made
    finally:
        for machine in machines:
            machine.plug_in()
        made.close()
