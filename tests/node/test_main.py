"""A node from its configuration: its resources and files, and the requests of its companion."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from asyncray.node import main
from asyncray.node.cluster_shell import ClusterPlan
from asyncray.runtime.interpreters import this_interpreter
from asyncray.words import NodeConfig


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return {
        "directory": str(tmp_path / "session_2026-01-01_00-00-00_0123456789ab"),
        "lock": -1,
        "driver": None,
        "amounts": {"num_cpus": 3, "num_gpus": None, "resources": {"gold": 2}, "object_store_memory": 80 << 20},
    }


async def test_the_node_has_the_amounts_that_it_was_given_and_says_where_it_is(config: NodeConfig) -> None:
    machine = main._make_machine(config, None)
    assert machine.facts["session"] == "asyncray-0123456789ab"
    assert machine.facts["address"] == f"unix:{config['directory']}/node.sock"
    assert machine.facts["interpreter"] == this_interpreter()
    assert machine.facts["pid"] == os.getpid()
    known, resources = await main._querier(machine)("nodes", [])
    assert known
    assert resources[0]["Resources"].items() >= {"CPU": 3, "gold": 2, f"node:{machine.facts['ip']}": 1.0}.items()


async def test_a_companion_may_ask_but_change_nothing(config: NodeConfig) -> None:
    machine = main._make_machine(config, None)
    query = main._querier(machine)
    for method in ("status", "nodes", "all_actors", "jobs"):
        assert (await query(method, []))[0]
    for method in ("stop", "goodbye", "nonsense"):
        known, error, fields = await query(method, [])
        assert (known, error) == (False, "InternalError")
        assert "is no request of the registry" in fields["message"]
    assert not machine.stopping


@pytest.mark.parametrize("is_head", [True, False])
async def test_a_head_without_its_registry_ends_and_another_node_does_not(
    config: NodeConfig, caplog: pytest.LogCaptureFixture, is_head: bool
) -> None:
    async def fail() -> None:
        raise OSError("no port")

    machine = main._make_machine(config, None)
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    main._report(machine, task, is_head=is_head)
    assert "the registry could not be served" in caplog.text
    assert machine.stopping is is_head


async def test_a_node_of_a_cluster_has_its_address_and_only_the_head_is_one(config: NodeConfig) -> None:
    for head in (None, ("10.0.0.1", 7)):
        plan = ClusterPlan(b"", "10.0.0.1:7", "10.0.0.2", "10.0.0.2", head, None, "", {})
        machine = main._make_machine(config, plan)
        assert machine.facts["ip"] == "10.0.0.2"
        assert machine.facts["cluster_address"] == "10.0.0.1:7"
        assert ("node:__internal_head__" in machine.resources.total) is (head is None)
