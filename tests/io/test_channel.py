"""A process's stream, against a real socket whose other end the test holds."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from asyncray.io import forking
from asyncray.wire.frames import encode
from tests.io.stream_client import DEADLINE, LIMIT, Client
from tests.points import at_point


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "the connection was closed"),
        ((LIMIT + 1).to_bytes(4, "little"), "nonsense"),
        (b"\x01\x00\x00\x00\xc1", "nonsense"),
    ],
)
def test_the_end_of_the_stream_is_told_once(client: Client, sent: bytes, reason: str) -> None:
    client.daemon.socket.sendall(sent)
    client.daemon.socket.shutdown(socket.SHUT_WR)
    assert client.ended.wait(DEADLINE)
    assert reason in client.closed[0]
    client.post(1)
    client.channel.flush()  # no process reads it, and nothing is raised


def test_who_waits_at_the_end_is_let_go(client: Client) -> None:
    waiting = threading.Thread(target=client.wait, args=(1, 0.1))
    waiting.start()
    client.daemon.socket.close()
    waiting.join(DEADLINE)
    assert not waiting.is_alive()
    assert client.ended.wait(DEADLINE)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_the_stream_to_its_parent(client: Client) -> None:
    pid = os.fork()
    if not pid:
        client.post(1)
        client.channel.flush()
        os._exit(client.channel._socket.fileno() != -1)
    assert os.waitpid(pid, 0)[1] == 0
    client.post(2)
    assert client.daemon.hear(1) == [(2,)]
    client.daemon.socket.sendall(encode([(3,)]))
    assert client.wait(1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_a_stream_is_made_finds_all_of_it_or_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def fork() -> None:
        if forking.lock.held_by_this_thread():
            return  # another thread that forks would wait for the lock here
        pid = os.fork()
        if not pid:
            os._exit(len(forking._registered))
        assert os.waitpid(pid, 0)[1] == 0

    clients: list[Client] = []
    number = 0
    while at_point(number := number + 1, fork, lambda: clients.append(Client())):
        clients.pop().end()
    clients.pop().end()
    assert number > 10
    assert capfd.readouterr().err == ""


def test_a_channel_whose_io_thread_cannot_start_closes_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = os.listdir("/proc/self/fd")
    client = Client()
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError):
        client.channel.start()
    client.end()
    assert os.listdir("/proc/self/fd") == before
