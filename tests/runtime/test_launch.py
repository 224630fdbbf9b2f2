"""The choice of the node that a program connects to."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyncray.io.credentials import Credentials
from asyncray.runtime import launch
from asyncray.words import NodeAmounts


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)  # pytest's directories are too long for the path of a socket
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("node.sock")
        listening.listen()
        yield "unix:node.sock"


def test_a_node_of_this_user_is_connected_to(address: str) -> None:
    connection = launch.connect(address)
    assert connection.getpeername() == "node.sock"
    launch.close(connection)


def test_the_node_of_another_user_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "credentials_of", lambda connection: Credentials(1, 12345))
    with pytest.raises(ConnectionError, match=rf"belongs to user 12345 and you are user {os.geteuid()}"):
        launch.connect(address)


def test_a_signal_handler_that_raises_leaves_no_connection(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def interrupt(connection: socket.socket) -> None:
        made.append(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_check_owner", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.connect(address)
    assert made[0].fileno() == -1


def test_a_program_without_the_global_lock_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(RuntimeError, match="-X gil=1"):
        launch.connect(address)


def test_no_node_is_an_error_that_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(tmp_path))
    for where, why in (("auto", "no session runs"), ("unix:/no/such/socket", "No such file or directory")):
        with pytest.raises(ConnectionError, match=rf"at {where} \({why}\). Start one with `asyncray node`"):
            launch.connect(where)
    with pytest.raises(ConnectionError, match=r"at 127.0.0.1:7 \(no session runs\)"):
        launch.connect("127.0.0.1:7")


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("nowhere", ""),
        ("local", ""),
        ("10.0.0.1", ""),
        ("10.0.0.1:", ""),
        ("10.0.0.1:port", ""),
        ("10.0.0.1:0", ""),
        ("10.0.0.1:65536", ""),
        ("::1:7", ""),
        (":7", ""),
        ("ray://10.0.0.1:7", " Write '10.0.0.1:7': ray:// is no part of it."),
        ("asyncray://head:7", " Write 'head:7': asyncray:// is no part of it."),
        ("http://", ""),
    ],
)
def test_what_is_no_address_is_named_so(address: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        launch.connect(address)
    forms = "'local', 'auto', 'HOST:PORT' of a head, and 'unix:PATH'."
    assert str(caught.value) == f"The address {address!r} is none of {forms}{hint}"


@pytest.mark.parametrize(
    ("address", "read", "text"),
    [
        ("10.0.0.1:7", ("10.0.0.1", 7), "10.0.0.1:7"),
        ("localhost:65535", ("127.0.0.1", 65535), "127.0.0.1:65535"),
        ("[::1]:7", ("::1", 7), "[::1]:7"),
    ],
)
def test_the_address_of_a_cluster(address: str, read: tuple[str, int], text: str) -> None:
    cluster = launch.read_cluster_address(address)
    assert cluster == read
    assert cluster is not None
    assert cluster.text == text


def test_other_addresses_are_those_of_a_node() -> None:
    assert launch.read_cluster_address("auto") is None
    assert launch.read_cluster_address("unix:/a:7") is None


def test_a_host_without_an_address_and_a_cluster_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"the cluster at no\.invalid:7: the host 'no\.invalid' has no address"):
        launch.read_cluster_address("no.invalid:7")
    with pytest.raises(
        ConnectionError, match=r"cluster at 10\.0\.0\.1:7: no token for the cluster.*ASYNCRAY_TOKEN_FILE"
    ):
        launch.start_node_in_cluster(launch.ClusterAddress("10.0.0.1", 7))
    monkeypatch.setenv("ASYNCRAY_TOKEN", "secret")
    with pytest.raises(ConnectionError, match="ASYNCRAY_TOKEN holds no token"):
        launch.start_node_in_cluster(launch.ClusterAddress("10.0.0.1", 7))
    assert os.environ["ASYNCRAY_TOKEN"] == "secret"  # a second attempt finds it, too
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("free", "files", "said"),
    [((1, 1), 9, ""), ((0, 1), 9, "No space"), ((1, 0), 9, "No space"), ((1, 0), 0, ""), ((0, 0), 0, "No space")],
)
def test_a_node_that_could_not_write_why_it_ended_had_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: tuple[int, int], files: int, said: str
) -> None:
    node = launch.LocalNode(socket.socket(), 0, str(tmp_path))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_favail=free[1], f_files=files))
    assert node.log_tail().startswith(said)
    assert bool(node.log_tail()) == bool(said)
    node.connection.close()


def test_a_start_that_fails_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's directories are too long for the path of a socket
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(base))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-such-python"))
    amounts: NodeAmounts = {"num_cpus": 1, "num_gpus": 0, "resources": None, "object_store_memory": None}
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="no-such-python"):
        launch.start_node(amounts)
    (tmp_path / "no-such-python").touch()
    with pytest.raises(PermissionError, match="no-such-python"):
        launch.start_node(amounts)
    assert os.listdir("/proc/self/fd") == before
    base.rmdir()
