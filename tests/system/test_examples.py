"""Every script under `examples/` runs to its end and prints what its article says it prints.

The scripts run as a user runs them: a process each, from another directory, with sleeps a hundred times shorter.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncray.testing import Cluster

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
DEADLINE = 60.0  # seconds; the slowest needs about two
SECONDS = r"\d+\.\d\d s"
FOUR_TASKS = rf"results \[0, 1, 2, 3\] in {SECONDS}"
COUNTS = [r"^0$", r"^2$"]

# For every script, what it must print, in this order. Each is a regular expression, with ^ and $ at every line.
PRINTED = {
    "quickstart.py": [
        r"^1\. Start",
        r"squares: \[0, 1, 4, 9, 16, 25, 36, 49\]",
        r"counted to 10$",
        r"got 40 MB back in \d+ µs, writeable: False",
        r"same memory: \[5000000\.0, 5000000\.0\]",
        r"one result: 25$",
        r"gathered: \[0, 1, 4, 9\]",
        r"^6\. Stop.*\n    took \d+\.\d ms$",
        r"docs/tutorial\.md",
    ],
    "quickstart_async.py": [
        r"one task: 9$",
        r"eight tasks: \[0, 1, 4, 9, 16, 25, 36, 49\]",
        r"counted to 10$",
        r"sums: \[1000000\.0, 1000000\.0\]",
        r"writeable here: False",
        r"as they finish, sorted: \[0, 1, 4, 9\]",
        r"before the timeout: 25$",
        r"task group: \[16, 81\]",
    ],
    "announcement/parallel_functions.py": [
        rf"run_serially: 8 results in {SECONDS}",
        rf"run_in_parallel: 8 results in {SECONDS}",
    ],
    "announcement/shared_weights.py": [
        r"^pickle\.dumps: \d+\.\d+ ms",
        r"^pickle\.loads: \d+\.\d+ ms",
        r"^ray\.put: \d+\.\d+ ms",
        r"^ray\.get: \d+\.\d+ ms",
        r"10 arrays, equal: True, writeable: False",
    ],
    "announcement/simulators.py": [
        *(rf"observation {i}: \[(-?\d+\.\d+(, )?){{4}}\]" for i in range(4)),
        r"rewards of the other: \[1\.0, 1\.0, 1\.0, 1\.0\]",
    ],
    "announcement/task_graph.py": [r"aggregated: \(1000,\) equal to the sum: True"],
    "announcement/task_graph_async.py": [r"aggregated: \(1000,\) equal to the sum: True"],
    "announcement/wait.py": [r"^([0-5]) ready, ([5-9]|10) remaining$", r"^10 results: \[(\d+\.\d+(, )?){10}\]"],
    "announcement/wait_async.py": [
        r"^([0-5]) ready, ([5-9]|10) remaining$",
        r"^10 results with wait$",
        r"^10 results with as_completed$",
    ],
    "cluster/two_machines.py": [
        r"^\$ asyncray node --head --name machine1$",
        r"^\$ asyncray node --address 127\.0\.0\.1:\d+ --name machine2$",
        r"^2 machines with 2 CPUs: machine1, machine2$",
        r"^pi is about 3\.14\d$",
        r"^machine1: \d+ tasks$",
        r"^machine2: \d+ tasks$",
    ],
    "deck/double.py": [r"double of 2: 4$", rf"10000 results in {SECONDS}: \[0, 2, 4, 6\]"],
    "deck/gpu_counter.py": [r"class: 1 2$", r"actor: (1 2|skipped, this machine has no GPU)$"],
    "deck/read_and_add.py": [
        r"functions: \[10, 11, 12, 13\]",
        r"called plainly: TypeError",
        r"tasks: \[10, 11, 12, 13\]",
    ],
    "integrations/cross_validation.py": [
        r"^scores: \[0\.97, 0\.97, 0\.95, 1\.0\] as without workers: True$",
        r"^best C: ",
    ],
    "integrations/dask_bag.py": [r"^sum: 166167000$"],
    "integrations/event_loop.py": [
        r"^digest: [0-9a-f]{8} the loop went on: True$",
        r"^error: invalid literal for int\(\) with base 10: 'twelve'$",
    ],
    "integrations/hyperparameters.py": [r"^trials: 40 near the minimum: True$"],
    "integrations/optimization.py": [r"^minimum at: \[1\.0, 1\.0, 1\.0\]$"],
    "roadmap/actor_pool.py": [r"^20 increments$", r"all counters together: 20$"],
    "roadmap/add.py": [r"^5$", r"TypeError: True", r"100 results in order: True"],
    "roadmap/assistant.py": [
        *(rf"^Completed task\. Total tasks done: {i}$" for i in (1, 2, 3, 4)),
        r"^alex: Completed task\. Total tasks done: 1$",
        r"^bob: Completed task\. Total tasks done: 1$",
    ],
    "roadmap/async_actor.py": [rf"ten calls in {SECONDS}", r"at the same time: ([1-9]|10)$"],
    "roadmap/chef.py": [
        r"Chef pid=\d+.* Starting to make a sandwich",
        r"Finished making a sandwich",
        r"Starting to make a salad",
        r"Finished making a salad",
    ],
    "roadmap/counters.py": [r"^1$", r"^2$", r"^3$", r"^1$", r"^1$", r"from the task: 4$", r"sees it too: 4$"],
    "roadmap/detached_actor.py": [r"first program: 1$", r"second program: 2$", r"killed, and the name is free"],
    "roadmap/objects.py": [
        r"ObjectRef for data: ObjectRef\([0-9a-f]+\)",
        r"Retrieved data: \[1, 2, 3, 4, 5\]",
        r"ObjectRef for large array: ObjectRef\([0-9a-f]+\)",
        r"Shape of retrieved array: \(1000000,\)",
        r"Sum of data: 15$",
    ],
    "roadmap/resources.py": [
        r"task on GPU \[0\]",
        r"actor on GPU \[0\]",
        r"has to wait: True",
        r"task on GPU \[0\] once the actor is gone",
    ],
    "roadmap/slow_function.py": [r"^I can do other things while waiting!$", r"^Done!$"],
    "roadmap/stateless.py": [r"^1$", r"^2$", r"^1$", r"^1$"],
    "tutorial/actors_async.py": [*COUNTS, r"15 messages, the first from here: Message 0 from here\."],
    "tutorial/aggregation.py": [
        rf"^{name}: 36 in {SECONDS}" for name in ("linear", "tree", "linear_while", "tree_while")
    ],
    "tutorial/counter_actor.py": COUNTS,
    "tutorial/message_actor.py": [
        r"^New messages: \[.*'Message \d+ from worker [012]\.'",
        r"^300 messages from 3 workers$",
    ],
    "tutorial/parallel_tasks.py": [FOUR_TASKS],
    "tutorial/parallel_tasks_async.py": [r"tick 0: the event loop is free", FOUR_TASKS],
    "tutorial/task_dependencies.py": [
        r"product of shape \(1000, 1000\)",
        r"same as computed here: True",
        r"the two matrices differ: True",
    ],
    "tutorial/task_dependencies_async.py": [r"product of shape \(1000, 1000\)"],
}


OURS = ("cluster/", "integrations/")
"""Directories of examples that are from no article."""

RUN_BY_ANOTHER = {"cluster/program.py"}
"""Scripts that another example runs."""

IN_CLUSTER = """\
import os, runpy, sys
import asyncray, asyncray.sync

def joins(init):
    def init_in_cluster(*args, **options):
        for amount in ("num_cpus", "num_gpus"):
            options.pop(amount, None)
        return init(*args, **options)
    return init_in_cluster

asyncray.init, asyncray.sync.init = joins(asyncray.init), joins(asyncray.sync.init)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script in the cluster that ASYNCRAY_ADDRESS names. Amounts belong to nodes, so its ``init`` gets none."""


def run_example(name: str, directory: Path, *runner: str) -> tuple[str, str]:
    """Run one script in a directory of its own; return what it wrote to stdout and to stderr."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, *runner, str(EXAMPLES / name)],
        cwd=directory,
        env=environment | {"ASYNCRAY_EXAMPLE_SPEED": "100", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{name} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    check_output(name, *run_example(name, tmp_path))
    assert not list(tmp_path.iterdir())


def check_output(name: str, stdout: str, stderr: str) -> None:
    position = 0
    for expected in PRINTED[name]:
        found = re.compile(expected, re.MULTILINE).search(stdout, position)
        assert found, f"{name} did not print {expected!r} after\n{stdout[:position]}\nbut\n{stdout[position:]}"
        position = found.end()
    assert "Traceback" not in stderr
    assert "Warning" not in stderr


def test_every_example_has_an_entry() -> None:
    scripts = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    assert scripts - RUN_BY_ANOTHER == PRINTED.keys()


def test_every_example_says_where_it_is_from() -> None:
    sources = ("Modern Parallel and Distributed Python", "Ray Essentials", "The announcement of Ray", "The ODSC deck")
    for name in PRINTED:
        head = (EXAMPLES / name).read_text(encoding="utf-8").split("\n", 1)[0]
        ours = "/" not in name or name.startswith(OURS)
        assert ours or any(source in head for source in sources), name


def test_all_of_them_run_in_a_cluster_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one test, because starting the cluster takes as long as an example."""
    node: dict[str, Any] = {"num_cpus": 4, "object_store_memory": 1_000_000_000}
    with Cluster(initialize_head=True, head_node_args={**node, "num_gpus": 1}) as cluster:
        cluster.add_node(**node)
        monkeypatch.setenv("ASYNCRAY_ADDRESS", cluster.address)
        for name in (name for name in PRINTED if not name.startswith(OURS)):
            check_output(name, *run_example(name, tmp_path, "-c", IN_CLUSTER))
        assert {row["State"] for row in cluster.list_all_nodes()[1].rows().values()} == {"ALIVE"}
    assert not list(tmp_path.iterdir())
