"""Programs that connect to a cluster by its address: at a node on their machine, or with a small one of their own.

A program "on another machine" is one with another directory for sessions: it finds no node and no token there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.exceptions import LocalNodeDiedError
from asyncray.io.tls import VARIABLES
from asyncray.testing import Cluster, ClusterNode
from asyncray.testing.local_cluster import start_daemon
from tests.certificates import paths_of
from tests.system.conftest import Run
from tests.system.waiting import until

DEADLINE = 30.0


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as made:
        yield made


@pytest.fixture
def elsewhere(nothing_left: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is on another machine from now on."""
    with tempfile.TemporaryDirectory(dir=os.environ["ASYNCRAY_TMPDIR"]) as directory:
        monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
        yield Path(directory)
        ray.shutdown()


@pytest.fixture
def token(cluster: Cluster, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of the cluster, which this process knows on the other machine, too."""
    text = Path(head_of(cluster).session_dir, "cluster.token").read_text().strip()
    monkeypatch.setenv("ASYNCRAY_TOKEN", text)
    return text


def head_of(cluster: Cluster) -> ClusterNode:
    assert cluster.head_node is not None
    return cluster.head_node


def states(cluster: Cluster) -> list[str]:
    """The states of all nodes but the head, as the head knows them."""
    head = head_of(cluster)
    return [row["State"] for node, row in head.rows().items() if node != head.node_id]


@ray.remote(num_cpus=0)
def where() -> str:
    return ray.get_runtime_context().get_node_id()


def test_a_program_attaches_to_a_node_of_the_cluster_on_its_machine(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = cluster.add_node()
    port = cluster.address.rpartition(":")[2]
    for address in (cluster.address, f"localhost:{port}"):
        with ray.init(address) as context:
            assert context["node_id"] == head_of(cluster).node_id
            assert context["address"] == cluster.address
    with ray.init("auto") as context:
        assert context["node_id"] == other.node_id  # the newest
    monkeypatch.setenv("ASYNCRAY_ADDRESS", cluster.address)
    ray.set_auto_init(True)  # as in a process that has had no session
    assert ray.get(where.remote()) == head_of(cluster).node_id
    ray.shutdown()
    with pytest.raises(ValueError, match=r"num_cpus must not be provided. ASYNCRAY_ADDRESS=127.*: unset it to start"):
        ray.init(num_cpus=1)
    assert states(cluster) == ["ALIVE"]


@pytest.mark.parametrize("option", [{"labels": {"a": "b"}}, {"resources": {"a": 1}}, {"num_cpus": 1}, {"num_gpus": 0}])
def test_what_belongs_to_a_new_node_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} must not be provided"):
        ray.init("127.0.0.1:7", **option)


def test_without_a_node_a_small_one_joins_and_ends_with_the_program(cluster: Cluster, token: str) -> None:
    before = head_of(cluster).rows()[head_of(cluster).node_id]["Resources"]
    with ray.init(head_of(cluster).address):
        job_at_head = ray.get_runtime_context().get_job_id()
    with ray.init(cluster.address) as context:
        assert context["node_id"] != head_of(cluster).node_id
        assert states(cluster) == ["ALIVE"]
        assert ray.get_runtime_context().get_job_id() != job_at_head
        found = ray.cluster_resources()
        assert (found["CPU"], found["memory"]) == (2, before["memory"])
        assert ray.get(where.remote()) in (context["node_id"], head_of(cluster).node_id)
        assert ray.get(ray.put("here")) == "here"
    assert states(cluster) == ["LEFT"]
    # The token is the program's still, so it may come again.
    assert os.environ["ASYNCRAY_TOKEN"] == token
    with ray.init(cluster.address):
        assert sorted(states(cluster)) == ["ALIVE", "LEFT"]


def test_a_cluster_at_an_address_of_version_six(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    node = start_daemon(["--head", "--host", "::1", "--num-cpus", "1"], {})
    try:
        assert node.cluster_address.startswith("[::1]:")
        with ray.init(node.cluster_address) as context:
            assert context["node_id"] == node.node_id
        monkeypatch.setenv("ASYNCRAY_TOKEN", Path(node.session_dir, "cluster.token").read_text())
        with tempfile.TemporaryDirectory(dir=elsewhere) as directory:
            monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
            with ray.init(node.cluster_address) as context:
                assert context["node_ip_address"] == "::1"
                assert len(node.rows()) == 2
    finally:
        node.ask_to_end()
        node.end()


def test_the_same_in_asyncio_code(cluster: Cluster, token: str, run: Run) -> None:
    async def main() -> None:
        async with asyncray.init(cluster.address) as context:
            assert context["node_id"] != head_of(cluster).node_id
            assert (await asyncray.cluster_resources())["CPU"] == 2
            assert await where.remote() in (context["node_id"], head_of(cluster).node_id)

    run(main())
    assert states(cluster) == ["LEFT"]


def test_others_do_not_attach_to_the_small_node_of_a_program(cluster: Cluster, token: str) -> None:
    program = "import sys, asyncray.sync as ray; print(ray.init(sys.argv[1])['node_id'], flush=True); input()"
    command = [sys.executable, "-c", program, cluster.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        node = other.stdout.readline().strip()
        with ray.init(cluster.address) as context:
            assert context["node_id"] not in (node, head_of(cluster).node_id)
            assert states(cluster) == ["ALIVE", "ALIVE"]
        other.communicate("\n", DEADLINE)


def test_the_token_is_on_no_command_line_and_in_no_environment_of_workers(cluster: Cluster, token: str) -> None:
    before = psutil.Process().children()  # the head, and processes of other tests that have not ended
    with ray.init(cluster.address):
        ray.get(where.remote())
        daemons = [process for process in psutil.Process().children() if process not in before]
        assert len(daemons) == 1
        children = daemons[0].children(recursive=True)
        assert children
        for process in (*daemons, *children):
            assert token not in " ".join(process.cmdline())
        for process in children:
            assert token not in process.environ().values()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_program_that_a_signal_ends_takes_its_node_with_it(cluster: Cluster, token: str, how: signal.Signals) -> None:
    program = "import sys, asyncray.sync as ray; ray.init(sys.argv[1]); print('joined', flush=True); input()"
    command = [sys.executable, "-c", program, cluster.address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "joined\n"
        left = psutil.Process(other.pid).children(recursive=True)
        assert left
        other.send_signal(how)
        other.wait(DEADLINE)
        _, alive = psutil.wait_procs(left, timeout=5)
        assert not alive
    until(lambda: states(cluster) == ["LEFT"])


def test_a_program_learns_why_its_node_ends(cluster: Cluster, token: str) -> None:
    @ray.remote(num_cpus=0)
    def wait_forever() -> None:
        threading.Event().wait()

    with ray.init(cluster.address):
        ref = wait_forever.remote()
        cluster.remove_node(head_of(cluster))
        with pytest.raises(
            LocalNodeDiedError, match="no part of its cluster any more: the head has ended: it got SIGTERM"
        ):
            ray.get(ref)


# Clusters that cannot be joined ---------------------------------------------------------------------------------------


def refusal(address: str) -> str:
    """The text of the error of a program that cannot connect."""
    with pytest.raises(ConnectionError) as caught:
        ray.init(address)
    text = str(caught.value)
    assert text.startswith(f"Could not connect to the cluster at {address}: ")
    assert "\n" not in text
    assert not ray.is_initialized()
    return text


def test_a_program_without_a_good_token_reads_so_in_one_line(
    cluster: Cluster, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no token for the cluster at" in refusal(cluster.address)
    monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
    assert refusal(cluster.address).endswith(": the token is wrong, or missing")
    assert states(cluster) == []


@pytest.fixture
def secured_cluster(nothing_left: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with TLS, whose files this process knows, too."""
    for variable, path in zip(VARIABLES.values(), paths_of("good"), strict=True):
        monkeypatch.setenv(variable, path)
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as made:
        yield made


def test_a_program_joins_a_cluster_with_tls_by_its_environment(
    secured_cluster: Cluster, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = Path(head_of(secured_cluster).session_dir, "cluster.token").read_text().strip()
    monkeypatch.setenv("ASYNCRAY_TOKEN", token)
    with ray.init(secured_cluster.address):
        assert states(secured_cluster) == ["ALIVE"]
    monkeypatch.setenv(VARIABLES["ca"], paths_of("other")[2])
    assert "its certificate is not good for" in refusal(secured_cluster.address)
    monkeypatch.delenv(VARIABLES["key"])
    assert "TLS needs three files, and --tls-key (or ASYNCRAY_TLS_KEY) is missing" in refusal(secured_cluster.address)


def test_an_address_where_nobody_answers(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
    monkeypatch.setenv("ASYNCRAY_JOIN_DEADLINE", "0.5")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        text = refusal(address)
    assert f"no head answers at {address}: " in text
    assert text.endswith(" tries in 0.5 s, the last one: Connection refused")


class _OtherVersion(BaseHTTPRequestHandler):
    """Answers as a head of a release to come."""

    def do_GET(self) -> None:
        body = json.dumps({"version": 99, "node": "00" * 8, "cluster": "00" * 16, "nonce": "00" * 32}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


def test_a_head_of_another_release(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
    with HTTPServer(("127.0.0.1", 0), _OtherVersion) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert "speaks version 99 of the protocol" in refusal(f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def silent_head(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listener that never answers, at which a node waits for longer than a test may take."""
    monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
    monkeypatch.setenv("ASYNCRAY_JOIN_DEADLINE", "1000")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        yield listener


def test_a_start_that_is_cancelled_while_its_node_joins_leaves_nothing(silent_head: socket.socket, run: Run) -> None:
    async def main() -> None:
        address = f"127.0.0.1:{silent_head.getsockname()[1]}"
        start = asyncio.ensure_future(asyncray.init(address).__aenter__())
        connection, _ = await asyncio.to_thread(silent_head.accept)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        connection.close()

    run(main())
    assert not asyncray.is_initialized()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_ended_while_its_node_joins_leaves_nothing(
    silent_head: socket.socket, how: signal.Signals
) -> None:
    program = "import sys, asyncray.sync as ray; ray.init(sys.argv[1])"
    command = [sys.executable, "-c", program, f"127.0.0.1:{silent_head.getsockname()[1]}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as other:
        connection, _ = silent_head.accept()
        with connection:
            left = psutil.Process(other.pid).children(recursive=True)
            assert left
            other.send_signal(how)
            other.wait(DEADLINE)
            _, alive = psutil.wait_procs(left, timeout=5)
            assert not alive
