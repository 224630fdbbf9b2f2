"""``asyncray status`` from a machine without a node."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncray.cli import head_status
from asyncray.cli.status import status_command
from asyncray.head.registry import Registry, RegistryDoor
from asyncray.io.addresses import listen_at
from asyncray.io.strangers import Strangers
from asyncray.io.tls import VARIABLES
from asyncray.io.unproven import UnprovenConnections
from asyncray.runtime.launch import ClusterAddress
from asyncray.testing import Cluster
from tests.certificates import paths_of, tls_of


@pytest.fixture
def elsewhere(nothing_left: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is on another machine, with the token of no cluster."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
        monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
        yield


def status(address: str, *options: str) -> Result:
    return CliRunner().invoke(status_command, ["--address", address, *options])


def refusal(address: str) -> str:
    with pytest.raises(ConnectionError) as caught:
        head_status.head_status(ClusterAddress("127.0.0.1", int(address.rpartition(":")[2])))
    start = f"Could not connect to the cluster at {address}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_a_cluster_shows_its_nodes_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster(initialize_head=True, head_node_args={"node_name": "first"}) as cluster:
        cluster.add_node(node_name="second")
        here = status(cluster.address)
        assert cluster.head_node is not None
        monkeypatch.setenv("ASYNCRAY_TOKEN", Path(cluster.head_node.session_dir, "cluster.token").read_text())
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
            there = status(cluster.address)
            found = json.loads(status(cluster.address, "--json").output)
            for result in (here, there):
                assert result.exit_code == 0
                assert f"Cluster at {cluster.address}" in result.output
                assert "first" in result.output
                assert "second" in result.output
            assert found["cluster_address"] == cluster.address
            monkeypatch.setenv("ASYNCRAY_TOKEN", "ab" * 32)
            wrong = status(cluster.address)
            assert wrong.exit_code == 1
            assert wrong.output == f"Error: Could not connect to the cluster at {cluster.address}: the token is wrong\n"


def test_an_address_where_nobody_answers(elsewhere: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert refusal(address) == "no head answers: Connection refused"
        assert status(address).exit_code == 1


def test_an_address_where_nobody_says_a_word(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_status, "_ANSWER_DEADLINE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert refusal(f"127.0.0.1:{listener.getsockname()[1]}") == "no head answers: timed out"


def test_a_machine_without_a_token(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCRAY_TOKEN")
    assert "no token for the cluster at 127.0.0.1:7" in refusal("127.0.0.1:7")


class _Stranger(BaseHTTPRequestHandler):
    """Some other server, which answers with the text of its class."""

    text = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@pytest.mark.parametrize("text", [b"", b"<html>", b"[]", b"{}", b"[" * 100_000])
def test_another_server_at_the_address(elsewhere: None, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(_Stranger, "text", text)
    with HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert refusal(f"127.0.0.1:{server.server_port}") == "it answers 200, but not as a head does"
        finally:
            server.shutdown()
            thread.join()


async def test_tls_on_one_side_or_of_another_cluster_is_named_so(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = UnprovenConnections(Strangers(), lambda address: False)
    for server, client, why in (
        (tls_of("good"), None, "it speaks TLS: set ASYNCRAY_TLS_CERT, ASYNCRAY_TLS_KEY, ASYNCRAY_TLS_CA"),
        (None, "good", "it does not speak TLS"),
        (tls_of("good"), "other", "its certificate is not good for"),
    ):
        for name, path in zip(VARIABLES.values(), paths_of(client or ""), strict=True):
            monkeypatch.setenv(name, path if client else "")
        door = RegistryDoor(listen_at("127.0.0.1", 0), frozenset(), "", connections, (), server)
        registry = Registry(_no_answer, door)
        host, port = await registry.start()
        assert (await asyncio.to_thread(refusal, f"{host}:{port}")).startswith(why)
        await registry.stop()


async def _no_answer(method: str, arguments: list[Any]) -> tuple[Any, ...]:
    raise AssertionError(method)
