"""Several daemons as one cluster: real processes that join, see one another, leave, and are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.cli.observer import Observer
from asyncray.io.addresses import listen_at
from asyncray.testing import Cluster, ClusterNode
from tests.certificates import paths_of, tls_of
from tests.system.waiting import until

MAIN = "from asyncray.cli import main; main(prog_name='asyncray')"

DEADLINE = 30.0
"""Seconds for one event, on a machine that is busy with other tests."""


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    """A head and two more nodes, which know one another."""
    with Cluster(initialize_head=True, head_node_args={"node_name": "head"}) as made:
        made.add_node(wait=False)
        made.add_node()
        yield made


def states(node: ClusterNode) -> list[str]:
    """The states of all nodes as this one knows them."""
    return [row["State"] for row in node.rows().values()]


def exit_code(node: ClusterNode) -> int | None:
    """Waits until the daemon of the node has ended."""
    until(lambda: not node.is_alive)
    return node.exit_code


@contextmanager
def started(*options: str, **variables: str) -> Iterator[dict[str, Any]]:
    """Runs ``asyncray node`` as people do, and gives its facts."""
    command = [sys.executable, "-m", "asyncray", "node", "--json", "--num-cpus", "1", *options]
    environment = {**os.environ, **variables}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(DEADLINE)


def test_three_nodes_are_one_cluster_for_programs_and_people(cluster: Cluster) -> None:
    head, one, two = cluster.list_all_nodes()
    ids = {node.node_id for node in (head, one, two)}
    assert len(ids) == 3
    with ray.init(one.address):
        assert {row["NodeID"] for row in ray.nodes() if row["Alive"]} == ids
        assert ray.cluster_resources()["CPU"] == 3.0
        assert ray.available_resources()["CPU"] == 3.0
    done = subprocess.run([sys.executable, "-m", "asyncray", "status"], capture_output=True, text=True, check=True)
    assert f"Cluster at {cluster.address}" in done.stdout
    for node in ids:
        assert node in done.stdout
    cluster.shutdown()
    # Each daemon stopped in order, and the head knew it.
    assert [node.exit_code for node in (head, one, two)] == [0, 0, 0]
    log = Path(head.session_dir, "logs", "node.log").read_text()
    assert f"node {two.node_id} at 127.0.0.1 was stopped: it got SIGTERM" in log


def test_a_killed_daemon_is_lost_everywhere_and_a_stopped_one_is_fenced(cluster: Cluster) -> None:
    head, killed, stopped = cluster.list_all_nodes()
    cluster.remove_node(killed, allow_graceful=False)
    for node in (head, stopped):
        until(lambda node=node: node.rows()[killed.node_id]["State"] == "LOST")  # type: ignore[misc]
    assert "refuses connections" in head.rows()[killed.node_id]["DeathReasonMessage"]
    os.kill(stopped.pid, signal.SIGSTOP)
    until(lambda: head.rows()[stopped.node_id]["State"] == "LOST")
    assert "it was silent" in head.rows()[stopped.node_id]["DeathReasonMessage"]
    os.kill(stopped.pid, signal.SIGCONT)
    assert exit_code(stopped) == 3
    assert "Error: The node had to end: " in stopped.errors()
    assert states(head) == ["ALIVE", "LOST", "LOST"]


def test_nodes_end_at_once_with_a_head_that_is_stopped(cluster: Cluster) -> None:
    head, one, two = cluster.list_all_nodes()
    cluster.remove_node(head)
    for node in (one, two):
        assert exit_code(node) == 3
        assert node.errors() == "Error: The node had to end: the head has ended: it got SIGTERM\n"
    assert head.exit_code == 0


def test_a_new_node_may_have_the_name_of_a_lost_one(cluster: Cluster) -> None:
    head = cluster.list_all_nodes()[0]
    with started("--address", cluster.address, "--name", "twin", "--labels", '{"zone": "east"}') as first:
        os.kill(first["pid"], signal.SIGKILL)
        with started("--address", cluster.address, "--name", "twin") as second:
            until(lambda: "LOST" in states(head))
            rows = {row["State"]: row for row in head.rows().values() if row["NodeName"] == "twin"}
            assert rows.keys() == {"LOST", "ALIVE"}
            assert rows["LOST"]["NodeID"] != rows["ALIVE"]["NodeID"]
            assert second["pid"] != first["pid"]


def test_a_port_that_another_program_uses_and_a_version_that_does_not_fit(cluster: Cluster) -> None:
    """Each is one line."""
    with listen_at("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        assert refusal("--head", "--port", port) == f"port {port} of 127.0.0.1 is in use"
    program = f"import asyncray.wire.handshake as handshake; handshake.LINK_VERSION = 99; {MAIN}"
    done = subprocess.run(
        [sys.executable, "-c", program, "node", "--address", cluster.address],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert "speaks version 1 of the protocol, this node 99: upgrade the older one" in done.stderr
    assert done.stderr.count("\n") == 1


def refusal(*options: str) -> str:
    """The reason that a node does not start."""
    command = [sys.executable, "-m", "asyncray", "node", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    start = "Error: The node did not start: "
    assert done.returncode == 1
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix(start).strip()


def test_a_node_that_asyncray_stop_ends_has_left(cluster: Cluster) -> None:
    head, one, _ = cluster.list_all_nodes()
    with Observer(one.address) as observer:
        observer.request("stop")
    assert exit_code(one) == 0
    until(lambda: head.rows()[one.node_id]["State"] == "LEFT")


def test_the_token_is_on_no_command_line_in_no_log_and_in_no_environment_of_workers() -> None:
    with started("--head") as head:
        directory = Path(head["session_dir"])
        token = (directory / "cluster.token").read_text().strip()
        assert len(token) == 64
        address = head["cluster_address"]
        with started("--address", address, ASYNCRAY_TOKEN=token) as node:
            children = psutil.Process(node["pid"]).children(recursive=True)
            assert children
            for process in (psutil.Process(node["pid"]), psutil.Process(head["pid"]), *children):
                assert token not in " ".join(process.cmdline())
            for process in children:
                assert token not in process.environ().values()
            logs = [*directory.glob("logs/*"), *Path(node["session_dir"]).glob("logs/*")]
            assert not any(token in path.read_text() for path in logs)
        registry = json.loads((directory / "registry.json").read_text())
        assert registry["url"] == f"http://{address}"
        assert token not in registry["token"]
    assert not (directory / "cluster.token").exists()


def test_with_tls_nodes_join_and_tools_show_a_certificate() -> None:
    certificate, key, authority = paths_of("good")
    options = ("--tls-cert", certificate, "--tls-key", key, "--tls-ca", authority)
    variables = {"ASYNCRAY_TLS_CERT": certificate, "ASYNCRAY_TLS_KEY": key, "ASYNCRAY_TLS_CA": authority}
    with (
        started("--head", *options) as head,
        started("--address", head["cluster_address"], **variables) as node,
    ):
        for facts in (head, node):
            file = Path(facts["session_dir"]) / "registry.json"
            until(file.exists)
            registry = json.loads(file.read_text())
            assert registry["url"].startswith("https://127.0.0.1:")
            request = urllib.request.Request(
                f"{registry['url']}/api/nodes", headers={"Authorization": f"Bearer {registry['token']}"}
            )
            with urllib.request.urlopen(request, timeout=DEADLINE, context=tls_of("good").client) as response:
                assert len(json.load(response)) == 2
            for context in (tls_of("other", authority="good").client, ssl.create_default_context()):
                with pytest.raises(OSError):
                    urllib.request.urlopen(request, timeout=DEADLINE, context=context)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ASYNCRAY_TOKEN": "ab" * 32}, "the token is wrong, or missing"),
        ({"ASYNCRAY_TOKEN": "secret"}, "ASYNCRAY_TOKEN holds no token"),
        ({"ASYNCRAY_TMPDIR": ""}, "no token for the cluster at"),
    ],
)
def test_a_node_without_a_good_token_says_so_in_one_line(variables: dict[str, str], words: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    given = {name: str(tmp_path) if name == "ASYNCRAY_TMPDIR" else value for name, value in variables.items()}
    with started("--head") as head:
        command = [sys.executable, "-m", "asyncray", "node", "--address", head["cluster_address"]]
        environment = {**os.environ, **given}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("Error: The node did not start: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        with Observer(head["address"]) as observer:
            assert [row["State"] for row in observer.request("nodes")] == ["ALIVE"]


def test_a_second_head_at_the_same_port_says_so_in_one_line() -> None:
    with started("--head") as head:
        port = head["cluster_address"].rpartition(":")[2]
        command = [sys.executable, "-m", "asyncray", "node", "--head", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 1
        assert f"a head runs at 127.0.0.1:{port} already: join it with" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_cleaner_of_temporary_directories_does_not_hide_the_cluster(cluster: Cluster) -> None:
    head, node, _ = cluster.list_all_nodes()
    base = Path(head.session_dir).parent
    shutil.rmtree(base / "clusters")
    for session in (head.session_dir, node.session_dir):
        shutil.rmtree(session)
    until((base / "clusters" / cluster.address).exists)
    until(Path(node.session_dir, "cluster.json").exists)
    with ray.init(cluster.address):
        assert len(ray.nodes()) == 3
    with started("--address", cluster.address):
        until(lambda: states(head) == ["ALIVE"] * 4)
