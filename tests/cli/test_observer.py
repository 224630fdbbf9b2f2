"""The connection of tools, against a daemon that a thread of the test plays."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyncray.cli import observer
from asyncray.cli.observer import Observer, listener, listeners, own_nodes
from asyncray.io.sessions import PROGRAM_FILE
from asyncray.messages import HELLO, NOTICE, REFUSED, REPLY, REQUEST, VERSION, WELCOME, Received
from asyncray.wire.frames import Decoder, encode

DEADLINE = 10.0


class Daemon:
    """Listens at an address, and gives each message of a client to ``answer``, which returns the bytes to send."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="asyncray-")
        self.path = os.path.join(self.directory, "node.sock")
        self.address = f"unix:{self.path}"
        self.heard: list[Received] = []
        self.answer: Callable[[Received], bytes | None] = self.serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def serve(self, message: Received) -> bytes | None:
        if message[0] == HELLO:
            return encode([(WELCOME, {"address": self.address})])
        return encode([(NOTICE, 30, "not for tools"), (REPLY, message[1], [message[2], *message[3]])])

    def _run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                client.settimeout(DEADLINE)
                if not self._serve(client):
                    return

    def _serve(self, client: socket.socket) -> bool:
        """False once the test has ended: it connects and says nothing."""
        decoder = Decoder(1 << 20)
        said = False
        try:
            while data := client.recv(1 << 16):
                said = True
                for message in decoder.feed(data):
                    self.heard.append(message)
                    answer = self.answer(message)
                    if answer is None:
                        return True
                    client.sendall(answer)
        except ConnectionError:
            pass  # the tool has gone, and left messages unread
        return said

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        self._thread.join(DEADLINE)
        self._listener.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.close()


def test_it_greets_and_asks_and_drops_what_is_not_for_tools(daemon: Daemon) -> None:
    with Observer(daemon.address) as tool:
        assert tool.facts == {"address": daemon.address}
        assert tool.request("object", "id", 3) == ("object", "id", 3)
        assert repr(tool) == f"<Observer {daemon.address}>"
    assert daemon.heard[0] == (HELLO, VERSION, "observer", {"pid": os.getpid()})
    assert daemon.heard[1] == (REQUEST, 1, "object", ("id", 3))


def test_a_refusal_is_the_error(daemon: Daemon) -> None:
    daemon.answer = lambda message: encode([(REFUSED, "upgrade the older one")])
    with pytest.raises(ConnectionError, match="refused the connection: upgrade the older one"):
        Observer(daemon.address)


def test_a_connection_that_ends_is_no_answer(daemon: Daemon) -> None:
    daemon.answer = lambda message: None
    with pytest.raises(ConnectionError):
        Observer(daemon.address)


def test_a_daemon_that_hangs_does_not_hang_the_tool(daemon: Daemon) -> None:
    daemon.answer = lambda message: b""
    with pytest.raises(TimeoutError):
        Observer(daemon.address, deadline=0.01)


def test_other_messages_do_not_prolong_the_deadline(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    with Observer(daemon.address, deadline=DEADLINE) as tool:
        daemon.answer = lambda message: encode([(NOTICE, 30, "again")])
        monkeypatch.setattr(observer, "time", SimpleNamespace(monotonic=lambda: DEADLINE * next(times)))
        with pytest.raises(TimeoutError, match="The node did not answer within 10 seconds"):
            tool.request("status")


def test_who_listens_is_known_without_an_answer(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listener(daemon.address) == (os.getpid(), daemon.directory)
    monkeypatch.setattr(observer, "running", lambda: [daemon.directory, f"{daemon.directory}-ended"])
    assert listeners(private=False) == [(os.getpid(), daemon.directory)]
    Path(daemon.directory, PROGRAM_FILE).write_text("python program.py")
    assert listeners(private=False) == []
    assert own_nodes() == [{"address": daemon.address, "pid": os.getpid(), "program": "python program.py"}]
    assert not daemon.heard


@pytest.mark.parametrize(
    ("address", "error"),
    [("unix:/nowhere", ConnectionError), ("127.0.0.1:1", ConnectionError), ("nowhere", ValueError), ("", ValueError)],
)
def test_where_no_node_is(address: str, error: type[Exception]) -> None:
    for ask in (Observer, listener):
        with pytest.raises(error):
            ask(address)
