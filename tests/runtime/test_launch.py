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
    with pytest.raises(ValueError, match="'nowhere' is none of"):
        launch.connect("nowhere")


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
