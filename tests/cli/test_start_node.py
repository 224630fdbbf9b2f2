"""``asyncray node``: its options, its announcement, and starts that fail. No node is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncray.cli import start_node
from asyncray.cli.start_node import node_command
from asyncray.node import main, start
from asyncray.runtime import launch
from asyncray.words import NodeFacts

FACTS: NodeFacts = {"address": "unix:/s/node.sock", "pid": 7, "session_dir": "/s", "store_warning": ""}


class Machine:
    """Starts a node as far as the command sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.amounts: Any = None
        self.companion: Any = None
        self.steps: list[str] = []
        self.lifeline: int | None = None
        self.facts = FACTS
        self.failure: tuple[int, str] | None = None
        monkeypatch.setattr(launch, "configuration", self.configuration)
        monkeypatch.setattr(launch, "point_latest", lambda directory: self.steps.append(f"latest is {directory}"))
        monkeypatch.setattr(start, "define_state", lambda: self.steps.append("state"))
        monkeypatch.setattr(start, "start_zygote_early", lambda directory, lock: self.steps.append("zygote"))
        monkeypatch.setattr(main, "serve", self.serve)

    def configuration(self, amounts: Any) -> Any:
        self.amounts = amounts
        return {"directory": "/session", "lock": 7}

    def serve(
        self, config: Any, zygote: Any, ready: Callable[[NodeFacts], None], companion: Any, plan: Any, lifeline: Any
    ) -> tuple[int, str] | None:
        assert plan is None
        self.lifeline = lifeline
        self.companion = companion
        ready(self.facts)
        return self.failure


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(node_command, arguments)


def test_amounts_that_are_not_given_are_the_machines(machine: Machine) -> None:
    assert run().exit_code == 0
    assert set(machine.amounts.values()) == {None}
    assert machine.steps == ["state", "zygote", "latest is /s"]
    assert machine.companion is start_node._run_registry


def test_options_become_amounts(machine: Machine) -> None:
    size = ("--object-store-memory", "2GB")
    given = ("--num-cpus", "2.5", "--num-gpus", "1", "--resources", '{"disk": 2}', "--memory", "3GB")
    assert run(*given, *size).exit_code == 0
    assert machine.amounts == {
        "num_cpus": 2.5,
        "num_gpus": 1,
        "resources": {"disk": 2},
        "object_store_memory": 2_000_000_000,
        "memory": 3_000_000_000,
    }


def test_the_end_of_standard_input_ends_it_only_if_that_is_wanted(machine: Machine) -> None:
    run()
    assert machine.lifeline is None
    run("--until-eof")
    assert machine.lifeline == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("100000000", 10**8), ("80MiB", 80 << 20), ("0.5 gb", 5 * 10**8), (" 1GiB ", 1 << 30), ("100000KB", 10**8)],
)
def test_sizes(machine: Machine, text: str, size: int) -> None:
    assert run("--object-store-memory", text).exit_code == 0
    assert machine.amounts["object_store_memory"] == size


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--object-store-memory", "much", "'much' is no size; write bytes, or a number with one of KB, KiB"),
        ("--object-store-memory", "-1GB", "is no size"),
        ("--object-store-memory", "2 parsecs", "is no size"),
        ("--memory", "much", "is no size"),
        ("--object-store-memory", "1MB", "the minimum allowed is"),
        ("--resources", "disk", """(write it like '{"disk": 2}')"""),
        ("--resources", '{"CPU": 2}', "Use num_cpus"),
        ("--resources", "[1]", "resources must be a dict"),
        ("--num-cpus", "-1", "is not in the range"),
        ("--num-gpus", "0.5", "is not a valid integer"),
    ],
)
def test_wrong_usage_names_the_option(machine: Machine, option: str, value: str, why: str) -> None:
    result = run(option, value)
    assert result.exit_code == 2
    assert option in result.output
    assert why in " ".join(result.output.split())
    assert machine.amounts is None


def test_people_read_how_to_connect_and_that_it_has_stopped(machine: Machine) -> None:
    machine.facts = {**FACTS, "store_warning": "The object store is small."}
    result = run()
    assert "Warning: The object store is small." in result.output
    assert "The node is ready: pid 7, files in /s" in result.output
    assert 'asyncray.sync.init("unix:/s/node.sock")' in result.output
    assert result.output.endswith("The node has stopped.\n")


def test_scripts_read_one_line(machine: Machine) -> None:
    assert json.loads(run("--json").output) == {"address": "unix:/s/node.sock", "pid": 7, "session_dir": "/s"}


def test_a_start_that_fails_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def configuration(amounts: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "configuration", configuration)
    result = run()
    assert result.exit_code == 1
    assert result.output == "Error: The node did not start: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(("code", "words"), [(1, "did not start"), (3, "had to end")])
def test_a_node_that_its_cluster_turns_away_says_why(machine: Machine, code: int, words: str) -> None:
    machine.failure = code, "the token is wrong, or missing"
    result = run()
    assert result.exit_code == code
    assert f"{words}: the token is wrong" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--head", "--address", "a:1"), "give one of them"),
        (("--port", "1"), "belongs to --head"),
        (("--name", "n"), "belong to"),
        (("--labels", "{}", "--head", "--host", "no.such.host.invalid"), "has no address"),
        (("--labels", '{"a": 1}'), "names and texts"),
        (("--labels", "zone"), "write it like"),
        (("--labels", '{"ray.io/node-id": "x"}'), "are the node's own"),
        (("--labels", '{"": "x"}'), "'' is no name of a label"),
        (("--labels", '{"a b": "x"}'), "'a b' is no name of a label: it has letters"),
        (("--labels", '{"zone": "in(a,b)"}'), "'in(a,b)' is no value of a label"),
        (("--address", "nonsense"), "write HOST:PORT"),
        (("--address", "127.0.0.1:1"), "set ASYNCRAY_TOKEN"),
    ],
)
def test_what_does_not_fit_is_said_before_a_process_starts(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(tmp_path))
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert words in " ".join(result.output.replace("│", " ").split())
    assert machine.steps == []
