"""What the processes of a lone node load: a module of ours costs 0.2 ms of a start, some of Python cost much more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# The daemon has a driver with a task, an actor and a large value.
DRIVER = """
import os, sys
import asyncray.sync as ray
ray.init(sys.argv[1])

@ray.remote
class Holder:
    def size(self, value):
        return len(value)

@ray.remote
def double(value):
    return value * 2

assert ray.get(Holder.remote().size.remote(double.remote(bytes(200_000)))) == 400_000
ray.shutdown()
os.kill(os.getppid(), 15)
"""

DAEMON = """
import subprocess, sys
from asyncray.node.start import define_state, start_zygote_early
from asyncray.runtime.launch import configuration

def ready(facts):
    subprocess.Popen([sys.executable, "-c", sys.argv[1], facts["address"]])

config = configuration({"num_cpus": 1, "num_gpus": 0, "resources": None, "object_store_memory": None})
define_state()
zygote = start_zygote_early(config["directory"], config["lock"])
from asyncray.node import main
main.serve(config, zygote, ready)
loaded = sorted(sys.modules)
import json
print(json.dumps(loaded))
"""

OF_THE_DAEMON = """
config exception_state exceptions ids messages units
core core.actors core.allocator core.cancelling core.claims core.client_messages core.clock core.dead_refs
core.directory core.elsewhere core.functions core.jobs core.leases core.lives core.machine core.mailboxes
core.object_table core.objects core.outbox core.outcomes core.parking core.pauses core.questions core.records
core.requests core.resources core.scheduler core.shapes core.stalls core.states core.store core.tasks core.unread
core.unsealed core.work core.workers
io io.control_groups io.credentials io.descriptors io.forking io.holes io.interrupts io.janitor io.owned_lock
io.processes io.segments io.session_names io.sessions io.socket_protocol io.spawning io.streams
node node.capacity node.daemon node.doors node.greetings node.logs node.main node.output node.start node.zygotes
runtime runtime.interpreters wire wire.frames
"""
"""A module that few nodes need is not among them: its first need loads it, as in ``NodeMachine.placements``."""


@pytest.fixture
def _directory(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("t")
    directory.chmod(0o700)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", os.fspath(directory))


def loaded_by(program: str, *arguments: str, options: Sequence[str] = ()) -> set[str]:
    """The modules that a program has loaded. It prints them as JSON."""
    command = [sys.executable, *options, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.usefixtures("_directory")
def test_a_lone_node_loads_these_modules() -> None:
    loaded = loaded_by(DAEMON, DRIVER)
    ours = {name.removeprefix("asyncray.") for name in loaded if name.startswith("asyncray.")}
    # The program of this test makes the configuration itself.
    assert ours - {"runtime.launch", "runtime.daemon_log", "runtime.deadlines"} == set(OF_THE_DAEMON.split())
    assert not {"dataclasses", "multiprocessing", "pickle", "numpy", "aiohttp"} & loaded


HEAVY = {"asyncio", "cloudpickle", "dataclasses", "inspect", "logging", "multiprocessing", "numpy", "subprocess"}


@pytest.mark.parametrize("module", ["asyncray.sync", "asyncray.worker.zygote"])
def test_drivers_and_zygotes_load_nothing_heavy_with_their_first_module(module: str) -> None:
    program = f"import sys, {module}; loaded = sorted(sys.modules); import json; print(json.dumps(loaded))"
    assert not HEAVY & loaded_by(program)


def test_a_daemon_starts_its_zygote_before_it_loads_these() -> None:
    """The zygote is ready last. ``-I`` and ``-S``: packages for development load some of them in each process."""
    program = """
import sys
sys.path.append(sys.argv[1])
before = set(sys.modules)
import asyncray.node.start
from asyncray.node import __main__
loaded = set(sys.modules) - before
import json
print(json.dumps(sorted(loaded)))
"""
    loaded = loaded_by(program, os.fspath(Path(__file__).parents[2]), options=["-I", "-S"])
    assert "asyncray.io.spawning" in loaded
    assert not {"collections", "enum", "json", "re", "signal", "socket", "threading", "typing"} & loaded


@pytest.mark.usefixtures("_directory")
def test_a_driver_loads_cloudpickle_while_its_node_starts() -> None:
    """So its first remote function does not wait for it. A driver that finds a node has nothing to wait for."""
    program = """
import json, sys
import asyncray.sync as ray
ray.init(num_cpus=1)
loaded = sorted(sys.modules)
ray.shutdown()
print(json.dumps(loaded))
"""
    assert "cloudpickle.cloudpickle" in loaded_by(program)
