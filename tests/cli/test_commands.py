"""The commands as people and scripts use them: their output and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import asyncray.cli.stop
import asyncray.sync as ray
from asyncray.cli import main
from asyncray.cli.observer import Observer
from asyncray.io.credentials import Credentials
from asyncray.runtime import launch

DEADLINE = 20.0
HEAVY = ("asyncio", "numpy", "uvloop", "msgpack", "asyncray.runtime.runtime")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@contextlib.contextmanager
def node(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`asyncray node --json` as a process, and what it said when it was ready."""
    command = [sys.executable, "-m", "asyncray", "node", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        except BaseException:
            process.kill()
            raise
        if process.poll() is None:
            process.terminate()
        process.wait(DEADLINE)


@ray.remote
def square(x: int) -> int:
    return x * x


class Keeper:
    def pid(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("command", [[], ["node"], ["status"], ["stop"], ["microbenchmark"]], ids=" ".join)
def test_help_tells_an_example_and_the_exit_codes(command: list[str]) -> None:
    shown = run(*command, "--help")
    assert shown.exit_code == 0
    assert "Example:" in shown.stdout
    assert "Exit codes: 0" in shown.stdout
    assert not command or "--json" in shown.stdout


def test_the_command_line_is_light_until_a_command_runs() -> None:
    code = f"import sys, asyncray.cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_node_is_run_used_shown_and_stopped() -> None:
    with node("--head", "--num-cpus", "1", "--resources", '{"disk": 2}', "--object-store-memory", "100MiB") as started:
        process, facts = started
        assert facts["pid"] == process.pid
        assert os.path.isdir(facts["session_dir"])
        with ray.init("auto", namespace="tests"):
            keeper = ray.remote(Keeper).options(name="keeper [bold]").remote()
            assert ray.get(keeper.pid.remote()) != os.getpid()
            assert ray.get(square.remote(3)) == 9
            assert ray.cluster_resources()["disk"] == 2

            shown = json.loads(run("status", "--json").stdout)
            assert shown["address"] == facts["address"]
            assert shown["resources"]["CPU"] == 1
            assert shown["store"]["capacity"] == 100 << 20
            assert [driver["pid"] for driver in shown["drivers"]] == [os.getpid()]
            assert [(actor["name"], actor["state"]) for actor in shown["actors"]] == [("keeper [bold]", "ALIVE")]

            text = run("status", "--address", facts["address"])
            assert text.exit_code == 0
            for expected in (facts["address"], "disk", "keeper [bold]", "Keeper", "100 MiB", str(os.getpid())):
                assert expected in text.stdout

        stopped = run("stop", "--json")
        assert stopped.exit_code == 0
        assert json.loads(stopped.stdout) == [
            {"address": facts["address"], "pid": process.pid, "result": "stopped"},
        ]
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_node_in_order(number: signal.Signals) -> None:
    with node() as (process, _):
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0


def test_a_node_under_nohup_whose_caller_blocks_signals_is_stopped_by_sigterm_only() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        running = node()
        process, facts = running.__enter__()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGHUP, before)
    with contextlib.ExitStack() as stack:
        stack.push(running)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert "it got SIGTERM" in (Path(facts["session_dir"]) / "logs/node.log").read_text()


def test_a_node_tells_people_how_to_connect() -> None:
    command = [sys.executable, "-m", "asyncray", "node", "--num-cpus", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "ends it" not in said:
            said += process.stdout.readline()
        assert run("stop").stdout.endswith("stopped\n")
        said += process.stdout.read()
    assert 'init("auto")' in said
    assert 'init("unix:/' in said
    assert said.endswith("The node has stopped.\n")


def test_stop_all_ends_the_nodes_of_programs_too() -> None:
    with node() as (process, _):
        context = ray.init(num_cpus=1)
        stopped = json.loads(run("stop", "--all", "--json").stdout)
        assert {row["result"] for row in stopped} == {"stopped"}
        assert len(stopped) == 2
        assert context["address"] in {row["address"] for row in stopped}
        assert process.wait(DEADLINE) == 0


def test_only_force_ends_a_node_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncray.cli.stop, "STOP_DEADLINE", 0.1)
    monkeypatch.setattr(asyncray.cli.stop, "_GRACE", 0.1)
    with node() as (process, facts):
        with ray.init("auto"):
            assert ray.get(square.remote(2)) == 4  # there is a worker to be left over
        process.send_signal(signal.SIGSTOP)
        refused = run("stop")
        assert refused.exit_code == 1
        assert "running" in refused.stdout
        assert "--force" in refused.stdout
        killed = run("stop", "--address", facts["address"], "--force", "--json")
        assert killed.exit_code == 0
        assert json.loads(killed.stdout)[0]["result"] == "killed"
        assert process.wait(DEADLINE) == -signal.SIGKILL


def test_status_does_not_hang_on_a_node_that_hangs() -> None:
    with node() as (process, facts):
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            Observer(facts["address"], deadline=0.05)
        process.send_signal(signal.SIGCONT)


def test_where_no_node_runs() -> None:
    shown = run("status")
    assert shown.exit_code == 1
    assert "Could not find a running node" in shown.stderr
    assert run("stop").stdout == "No node runs.\n"
    assert json.loads(run("stop", "--json").stdout) == []
    missed = run("stop", "--address", "unix:/nowhere/node.sock")
    assert missed.exit_code == 1
    assert "Could not find a running node at unix:/nowhere/node.sock (No such file or directory)" in missed.stderr


@pytest.mark.parametrize("command", ["status", "stop"])
def test_the_node_of_another_user_is_refused_with_the_reason(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "credentials_of", lambda connection: Credentials(1, 12345))
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("node.sock")
        listening.listen()
        refused = run(command, "--address", "unix:node.sock")
    assert refused.exit_code == 1
    assert f"it belongs to user 12345 and you are user {os.geteuid()}" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("status", "--address", "nonsense"), "'nonsense'"),
        (("stop", "--address", "nonsense"), "'nonsense'"),
        (("node", "--num-cpus", "-1"), "--num-cpus"),
        (("node", "--num-gpus", "0.5"), "--num-gpus"),
        (("node", "--resources", "disk"), "--resources"),
        (("node", "--resources", '{"CPU": 1}'), "num_cpus"),
        (("node", "--resources", '{"disk": -1}'), "disk"),
        (("node", "--object-store-memory", "2 gallons"), "GiB"),
        (("node", "--object-store-memory", "74MiB"), "minimum allowed is 78643200 bytes (75 MiB)"),
        (("microbenchmark", "--only", "nonsense"), "--list"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], complaint: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("100000000", 100_000_000), ("0.1GB", 100_000_000), ("80 MiB", 80 << 20), ("90mb", 90_000_000)],
)
def test_sizes(text: str, size: int) -> None:
    with node("--num-cpus", "0", "--object-store-memory", text), Observer("auto") as observer:
        assert observer.request("status")["store"]["capacity"] == size


def test_a_node_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(taken))
    done = run("node")
    assert done.exit_code == 1
    assert "ASYNCRAY_TMPDIR" in done.stderr


def test_the_private_node_of_a_program_is_listed_and_nothing_else(tmp_path: Path) -> None:
    """It is none for ``auto``, for the link to the latest one, and for ``stop`` without ``--all``."""
    program = tmp_path / "shop.py"
    program.write_text(
        "import asyncray.sync as ray\n"
        "with ray.init(num_cpus=1) as context:\n"
        "    print(context['address'], flush=True)\n"
        "    ray.get(ray.remote(lambda: __import__('threading').Event().wait()).remote())\n"
    )
    command = [sys.executable, str(program)]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with pytest.raises(ConnectionError, match="only nodes run that programs have started for themselves"):
            ray.init("auto")
        shown = run("status")
        assert shown.exit_code == 0
        assert address in shown.stdout
        assert f"private: {program}" in shown.stdout
        assert json.loads(run("status", "--json").stdout)["own_nodes"][0]["address"] == address
        assert "Workers" in run("status", "--address", address).stdout
        session = Path(address.removeprefix("unix:")).parent
        assert (session.parent / "latest").resolve() != session
        assert run("stop").stdout.splitlines() == [
            "No node runs.",
            "1 node of a program runs on: `asyncray status` shows which, --all stops them.",
        ]
        with node("--num-cpus", "0") as (_, facts):
            with ray.init("auto") as context:
                assert context["address"] == facts["address"]
            both = run("status").stdout
            assert f"at {facts['address']}" in both.splitlines()[0]
            assert address in both
        assert "stopped" in run("stop", "--all").stdout
        assert process.wait(DEADLINE) == 1
        assert process.stderr is not None
        assert f"`asyncray stop` (pid {os.getpid()}) asked it to stop" in process.stderr.read()
