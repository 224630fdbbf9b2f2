"""Bad bytes at the daemon's socket: the daemon closes that connection and logs it, and serves the others."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

import asyncray.sync as ray
from asyncray import messages
from asyncray.api.session import Context
from asyncray.config import GREETING_LIMIT
from asyncray.wire.frames import Decoder, encode
from tests.greeting import DRIVER

ANSWER_DEADLINE = 20.0
HELLO = (messages.HELLO, messages.VERSION, "driver", DRIVER)


pid = ray.remote(os.getpid)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


class RawClient:
    """A connection that sends the messages of a test, good or bad."""

    def __init__(self, context: Context) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(context["address"].removeprefix("unix:"))
        self.socket.settimeout(ANSWER_DEADLINE)

    def say(self, *said: Any) -> None:
        self.socket.sendall(encode(list(said)))

    def hear(self) -> list[Any]:
        decoder = Decoder(1 << 30)
        while not (heard := decoder.feed(self.socket.recv(1 << 16))):
            pass
        return heard

    def closed(self) -> bool:
        """Waits for the end of the stream."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def connect(node: Context) -> Iterator[Callable[[], RawClient]]:
    clients: list[RawClient] = []

    def make() -> RawClient:
        clients.append(RawClient(node))
        return clients[-1]

    yield make
    for client in clients:
        client.socket.close()


def log_of(context: Context) -> str:
    return (Path(context["session_dir"]) / "logs" / "node.log").read_text()


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "a frame of"),
        (b"\xff" * 100_000, "a frame of"),
        ((GREETING_LIMIT + 1).to_bytes(4, "little"), "a frame of"),
        (frame(b"\xc1"), "no message"),
        (frame(b"\x91" * 2000), "no message"),  # lists in lists in lists
        (frame(msgpack.packb({"kind": 1})), "no batch"),
        (frame(msgpack.packb([["HELLO"]])), "something else than messages"),
        (encode([(messages.REQUEST, 1, "stop", [])]), "did not say hello"),
        (encode([(messages.HELLO, 999, "driver", DRIVER)]), "version 999"),
        (encode([(messages.HELLO, "x" * 100_000, "driver", DRIVER)]), "version 'xxx"),
        (encode([(messages.HELLO, messages.VERSION, "king", DRIVER)]), "incomplete"),
        (encode([(messages.HELLO, messages.VERSION, ["driver"], DRIVER)]), "incomplete"),
        (encode([(messages.HELLO, messages.VERSION, "driver", {"pid": 1})]), "incomplete"),
        (encode([(messages.HELLO, messages.VERSION, "driver", {**DRIVER, "setup": 3})]), "incomplete"),
        (encode([(messages.HELLO, messages.VERSION, "worker", {"pid": 1, "number": 12345})]), "not expected"),
        (encode([HELLO, (12345,)]), "invalid message"),
        (encode([HELLO, (messages.SUBMIT,)]), "invalid message"),
        (encode([HELLO, (messages.SUBMIT, 1, 2, 3, 4, 5, 6, 7)]), "invalid message"),
        (encode([HELLO, (messages.DONE, b"task", 1, 0, b"", None)]), "invalid message"),
        (encode([HELLO, (messages.SEAL, b"object", "segment", 0, None)]), "invalid message"),
        (encode([HELLO]) + frame(b"\xc1"), "no message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_ends_its_connection_only(
    node: Context, connect: Callable[[], RawClient], said: bytes, logged: str
) -> None:
    client = connect()
    client.socket.sendall(said)
    assert client.closed()
    assert logged in log_of(node)
    assert ray.get(pid.remote()) != os.getpid()


def test_nothing_of_a_batch_is_done_behind_what_makes_no_sense(node: Context, connect: Callable[[], RawClient]) -> None:
    client = connect()
    client.say(HELLO, (messages.PUT,), (messages.REQUEST, 1, "stop", []))
    assert client.closed()
    assert ray.get(pid.remote()) != os.getpid()


def test_random_messages(node: Context, connect: Callable[[], RawClient]) -> None:
    """Known kinds with random contents. The seed is fixed, so that a failure repeats."""
    source = random.Random(20)
    parts: list[Any] = [
        None,
        0,
        1,
        -1,
        2**40,
        1.5,
        True,
        b"",
        b"x" * 22,
        b"y" * 18,
        "text",
        [],
        [b"z" * 22],
        {},
        [[1, b"q"]],
    ]
    kinds = range(messages.FUNCTION, messages.ABANDON + 1)
    for _ in range(60):
        client = connect()
        said = [(source.choice(kinds), *source.choices(parts, k=source.randrange(9))) for _ in range(6)]
        client.say(HELLO, *said)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed()
    assert ray.get(pid.remote()) != os.getpid()


def test_silence_has_a_deadline(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client sends no HELLO, another one half of it."""
    monkeypatch.setenv("ASYNCRAY_START_DEADLINE", "0.3")  # of the daemon: this process has read its own
    with ray.init(num_cpus=0) as context:
        silent, slow = RawClient(context), RawClient(context)
        slow.socket.sendall(encode([HELLO])[:20])
        assert silent.closed()
        assert slow.closed()
        assert log_of(context).count("did not say hello in time") == 2
        for client in (silent, slow):
            client.socket.close()
        assert ray.nodes()


def test_thousands_of_connections(node: Context, connect: Callable[[], RawClient]) -> None:
    """The daemon closes the oldest connections without HELLO, and serves a client that says HELLO."""
    clients = [connect() for _ in range(900)]
    assert clients[0].closed()
    assert ray.get(pid.remote()) != os.getpid()
    clients[-1].say(HELLO)
    assert clients[-1].hear()[0][0] == messages.WELCOME
    assert "500 others came" in log_of(node)


def test_a_driver_that_does_not_read(node: Context, connect: Callable[[], RawClient]) -> None:
    """The daemon keeps the answers for it, and drops output that it did not ask for."""
    client = connect()
    client.say(HELLO)
    client.hear()
    client.say(*[(messages.REQUEST, number, "cluster_resources", []) for number in range(20_000)])
    assert ray.get(pid.remote()) != os.getpid()
    decoder, answers = Decoder(1 << 30), 0
    while answers < 20_000:
        answers += len(decoder.feed(client.socket.recv(1 << 20)))


def test_a_stopped_worker_does_not_stop_the_others(node: Context) -> None:
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    actor = ray.remote(Actor).remote()
    process = psutil.Process(ray.get(actor.pid.remote()))
    process.send_signal(signal.SIGSTOP)
    waiting = [actor.pid.remote() for _ in range(2000)]
    assert ray.get(pid.remote()) != process.pid
    process.send_signal(signal.SIGCONT)
    assert set(ray.get(waiting)) == {process.pid}
