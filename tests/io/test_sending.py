"""Writing to a stream: in order, by any thread, never half a message."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from asyncray.io import sending
from asyncray.wire.frames import encode
from tests.io.stream_client import DEADLINE, Client


def test_what_is_posted_is_written_in_order(client: Client) -> None:
    """By the io thread, and by those who flush; 2,000 messages are several frames."""
    for number in range(2000):
        client.post(number)
        if number % 700 == 0:
            client.channel.flush()
    assert client.daemon.hear(2000) == [(number,) for number in range(2000)]


def test_a_daemon_that_does_not_read_holds_up_nobody(client: Client) -> None:
    """More than any buffer holds: flushing returns, waiting has its timeout, reading goes on; nothing is lost."""
    for number in range(40):
        client.posted.append((number, b"x" * 100_000))
    client.channel.flush()
    assert not client.wait(1, timeout=0.05)
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.wait(1)
    client.post(40)
    assert [message[0] for message in client.daemon.hear(41)] == list(range(41))


def test_draining_writes_everything(client: Client) -> None:
    for number in range(40):
        client.posted.append((number, b"x" * 100_000))
    heard: list[Any] = []
    reader = threading.Thread(target=lambda: heard.extend(client.daemon.hear(40)))
    reader.start()
    client.channel.drain(DEADLINE)
    client.channel.stop(DEADLINE)
    reader.join()
    assert len(heard) == 40


def test_what_finds_no_memory_is_written_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that flushes gets the error, and no message is lost."""

    def encode_all(messages: Sequence[object]) -> list[bytes]:
        raise MemoryError

    client.posted.extend((number,) for number in range(1500))
    with monkeypatch.context() as patch:
        patch.setattr(sending, "encode_all", encode_all)
        with pytest.raises(MemoryError):
            client.channel.flush()
    client.post(1500)
    client.channel.flush()
    assert client.daemon.hear(1501) == [(number,) for number in range(1501)]


def test_a_message_that_cannot_be_encoded_takes_no_other_along(client: Client) -> None:
    """The thread that flushes gets the error. It writes all other messages, also those of later frames."""
    client.posted.extend((number,) for number in range(1200))
    client.posted.insert(700, (object(),))
    client.posted.insert(300, (2**70,))
    with pytest.raises(OverflowError):
        client.channel.flush()
    client.channel.flush()
    assert client.daemon.hear(1200) == [(number,) for number in range(1200)]


def test_draining_has_a_deadline(client: Client) -> None:
    client.posted.append((0, b"x" * 10_000_000))
    client.channel.drain(0.01)


@pytest.mark.usefixtures("swallowed")
def test_an_interrupt_leaves_no_half_message(client: Client) -> None:
    """Ctrl-C again and again while the main thread writes: it raises, but only between messages."""
    client.portion = 10
    over = threading.Event()
    writing = False
    interrupted = written = 0

    def handle(number: int, frame: object) -> None:
        if writing:
            raise KeyboardInterrupt

    def interrupt() -> None:
        while not over.wait(0.0002):
            signal.raise_signal(signal.SIGINT)

    def write_all() -> None:  # a function, for the sake of the loop: see asyncray.io.interrupts
        nonlocal writing
        writing = True
        while client.posted:
            client.channel.flush()
        writing = False

    old = signal.signal(signal.SIGINT, handle)
    nuisance = threading.Thread(target=interrupt, daemon=True)
    nuisance.start()
    while interrupted < 20:
        client.posted.extend((number, b"x" * 500) for number in range(written, written + 1000))
        while client.posted:
            try:
                write_all()
            except KeyboardInterrupt:
                writing = False
                interrupted += 1
        assert [message[0] for message in client.daemon.hear(1000)] == list(range(written, written + 1000))
        written += 1000
    over.set()
    nuisance.join()
    signal.signal(signal.SIGINT, old)


def test_a_finalizer_may_post_and_flush_in_the_middle_of_a_flush(client: Client) -> None:
    collect = client.channel._sender._collect
    once = [True]

    def collect_and_finalize() -> Any:
        messages = collect()
        if once:
            once.clear()
            client.posted.append((2,))
            client.channel.flush()
        return messages

    client.channel._sender._collect = collect_and_finalize
    client.posted.append((1,))
    client.channel.flush()
    assert client.daemon.hear(2) == [(1,), (2,)]
