"""``asyncray stop``: the outcome for each node, and the exit code. The nodes are played by the test."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncray.cli import observer
from asyncray.cli.stop import stop_command
from asyncray.io import processes, sessions


class Nodes:
    """Nodes by session directory: the pid of each, and how many waits its process outlives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: dict[str, tuple[int, int]]) -> None:
        self.nodes = nodes
        self.calls: list[Any] = []
        monkeypatch.setattr(observer, "listeners", self.listeners)
        monkeypatch.setattr(observer, "listener", self.listener)
        monkeypatch.setattr(observer, "Observer", self.observe)
        monkeypatch.setattr(processes, "ends_within", self.ends_within)
        monkeypatch.setattr(processes, "kill", lambda pid: self.calls.append(("kill", pid)))
        monkeypatch.setattr(sessions, "clean_up", lambda name, deadline: self.calls.append(("clean up", name)))

    def listeners(self, *, private: bool) -> list[tuple[int, str]]:
        return [(pid, name) for name, (pid, _) in self.nodes.items() if private or not name.startswith("/private")]

    def listener(self, address: str) -> tuple[int, str]:
        if not address.startswith("unix:"):
            raise ValueError(f"The address {address!r} is none")
        directory = address.removeprefix("unix:").removesuffix("/node.sock")
        if directory not in self.nodes:
            raise ConnectionError("no node there")
        return self.nodes[directory][0], directory

    def observe(self, address: str, deadline: float) -> Any:
        self.calls.append(("ask", self.listener(address)[1]))
        raise TimeoutError("it hangs")

    def ends_within(self, pid: int, seconds: float) -> bool:
        (outlives,) = (times for number, times in self.nodes.values() if number == pid)
        return not outlives


def stop(*arguments: str) -> Result:
    return CliRunner().invoke(stop_command, arguments)


def test_every_node_is_asked_and_one_that_does_not_answer_may_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"/a": (1, 0), "/b": (2, 0)})
    result = stop()
    assert result.exit_code == 0
    assert result.output.splitlines() == ["unix:/a/node.sock (pid 1): stopped", "unix:/b/node.sock (pid 2): stopped"]
    assert nodes.calls == [("ask", "/a"), ("ask", "/b")]


def test_one_that_still_runs_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"/a": (1, 1)})
    result = stop()
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "unix:/a/node.sock (pid 1): running",
        "Nodes that still run did not stop in time: --force kills them.",
    ]
    assert nodes.calls == [("ask", "/a")]


def test_force_kills_only_nodes_that_do_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"/a": (1, 1), "/b": (2, 0)})
    result = stop("--force", "--json")
    assert result.exit_code == 0
    assert [(row["pid"], row["result"]) for row in json.loads(result.output)] == [(1, "killed"), (2, "stopped")]
    assert nodes.calls == [("ask", "/a"), ("kill", 1), ("clean up", "/a"), ("ask", "/b")]


def test_a_process_that_the_system_does_not_name_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"/a": (0, 1)})
    assert stop("--force").exit_code == 1
    assert nodes.calls == [("ask", "/a")]


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    Nodes(monkeypatch, {"/a": (1, 0)})
    assert stop("--address", "unix:/a/node.sock").exit_code == 0
    missing = stop("--address", "unix:/b/node.sock")
    assert (missing.exit_code, missing.output) == (1, "Error: no node there\n")
    wrong = stop("--address", "nonsense")
    assert wrong.exit_code == 2
    assert "Invalid value for --address: The address 'nonsense' is none" in wrong.output


def test_no_node_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Nodes(monkeypatch, {})
    assert (stop().exit_code, stop().output) == (0, "No node runs.\n")
    assert json.loads(stop("--json").output) == []


def test_nodes_of_programs_are_stopped_with_all_only(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, {"/a": (1, 0), "/private1": (2, 0), "/private2": (3, 0)})
    result = stop()
    assert result.output.splitlines() == [
        "unix:/a/node.sock (pid 1): stopped",
        "2 nodes of programs run on: `asyncray status` shows which, --all stops them.",
    ]
    assert nodes.calls == [("ask", "/a")]
    assert stop("--all").exit_code == 0
    assert nodes.calls[1:] == [("ask", "/a"), ("ask", "/private1"), ("ask", "/private2")]
