"""A process's stream, against a real socket whose other end the test holds."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.io.channel import Channel
from asyncray.wire.frames import Decoder, encode
from tests.points import at_every_point

DEADLINE = 10.0
LIMIT = 16 << 20


class Daemon:
    """The other end."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(DEADLINE)
        self.decoder = Decoder(LIMIT)

    def hear(self, count: int) -> list[Any]:
        heard: list[Any] = []
        while len(heard) < count:
            heard += self.decoder.feed(self.socket.recv(1 << 16))
        return heard


class Client:
    """A process that uses a channel: what it posted, what it received, and how it was closed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.daemon = Daemon(theirs)
        self.posted: deque[Any] = deque()
        self.portion = 1 << 30  # that is collected at once
        self.received: list[Any] = []
        # Free once something came. No semaphore: a signal handler that raises in its Python code leaves its lock taken.
        self.came = threading.Lock()
        self.came.acquire()
        self.closed: list[str] = []
        self.ended = threading.Event()
        self.channel = Channel(ours, LIMIT, self.collect, self.receive, self.close, lambda: False)

    def collect(self) -> list[Any]:
        return [self.posted.popleft() for _ in range(min(self.portion, len(self.posted)))]

    def receive(self, messages: list[Any]) -> None:
        self.received += messages
        with contextlib.suppress(RuntimeError):  # it is free already
            self.came.release()

    def close(self, reason: str) -> None:
        self.closed.append(reason)
        self.ended.set()

    def post(self, *message: Any) -> None:
        self.posted.append(message)
        self.channel.poke()

    def wait(self, count: int, timeout: float = DEADLINE, soon: bool = False) -> bool:
        """As a thread that waits for so many messages in all: it reads for itself if nobody else does."""

        def done() -> bool:
            return len(self.received) >= count

        def otherwise(timeout: float | None) -> bool:
            return self.came.acquire(timeout=-1 if timeout is None else timeout) and done()

        return self.channel.read_until(done, otherwise, timeout, soon)


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raises while a finalizer runs cannot be heard: no fault of the test's."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    client.channel.start()
    yield client
    client.channel.stop(DEADLINE)
    client.daemon.socket.close()
    assert client.ended.is_set()
    assert len(client.closed) == 1


def test_what_is_posted_is_written_in_order(client: Client) -> None:
    """By the io thread, and by those who flush; 2,000 messages are several frames."""
    for number in range(2000):
        client.post(number)
        if number % 700 == 0:
            client.channel.flush()
    assert client.daemon.hear(2000) == [[number] for number in range(2000)]


def test_a_poke_wakes_the_io_thread(client: Client) -> None:
    for number in range(3):  # asleep, hot, asleep again
        client.post(number)
        assert client.daemon.hear(1) == [[number]]


def test_threads_read_for_themselves_or_through_one_another(client: Client) -> None:
    """Each sends and waits for its answer; whoever has the baton serves the others."""

    def ask(who: int) -> None:
        for number in range(50):
            client.posted.append((who, number))
            client.channel.flush()
            client.channel.read_until(
                lambda number=number: [who, number] in client.received,  # type: ignore[misc]  # mypy knows no default
                lambda timeout, number=number: wait_until([who, number]),  # type: ignore[misc]
                DEADLINE,
            )

    def wait_until(message: list[int]) -> bool:
        while message not in client.received:
            assert client.came.acquire(timeout=DEADLINE)
            with contextlib.suppress(RuntimeError):
                client.came.release()
        return True

    def answer() -> None:
        answered = 0
        while answered < 150:
            asked = client.daemon.hear(1)
            client.daemon.socket.sendall(encode(asked))
            answered += len(asked)

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(3)]
    threads.append(threading.Thread(target=answer))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(client.received) == [[who, number] for who in range(3) for number in range(50)]


def test_a_vigil_in_vain_is_not_repeated_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()  # no io thread reads: whoever waits does
    channel = client.channel
    monkeypatch.setattr(channel, "_vigil", 1_000)
    pauses = []
    for _ in range(100):
        assert not client.wait(1, timeout=0, soon=True)
        pauses.append(channel._pausing)
    # One, and none; one, and none three times; ...: one in 33 at last.
    assert pauses[:6] == [1, 0, 3, 2, 1, 0]
    assert max(pauses) == 32
    monkeypatch.setattr(channel, "_vigil", 10**9 * DEADLINE)
    channel._pausing = 0
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.wait(1, soon=True)
    assert channel._pausing == channel._pause == 0
    channel.abandon()
    client.daemon.socket.close()


class StolenEvents:
    """A poll whose events are another thread's, which was first: each is gone at the second look."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.looks: list[int | None] = []

    def poll(self, milliseconds: int | None) -> list[tuple[int, int]]:
        assert milliseconds is not None, "for ever"
        assert milliseconds >= 0, "for ever"
        self.looks.append(milliseconds)
        return [(self.descriptor, select.POLLIN)] if len(self.looks) % 2 else []


def test_a_vigil_whose_event_another_thread_takes_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    channel = client.channel
    monkeypatch.setattr(channel, "_vigil", 100_000)
    stolen = StolenEvents(channel._wake_read)
    monkeypatch.setattr(channel, "_poll", stolen)
    assert not client.wait(1, timeout=0, soon=True)
    assert len(stolen.looks) > 1
    channel._turn(time.monotonic() - 1)  # so late may a thread be that was put aside
    channel.abandon()
    client.daemon.socket.close()


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


def test_draining_has_a_deadline(client: Client) -> None:
    client.posted.append((0, b"x" * 10_000_000))
    client.channel.drain(0.01)


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
    client.channel.flush()  # nobody hears it, and nothing is raised


def test_who_waits_at_the_end_is_let_go(client: Client) -> None:
    waiting = threading.Thread(target=client.wait, args=(1, 0.1))
    waiting.start()
    client.daemon.socket.close()
    waiting.join(DEADLINE)
    assert not waiting.is_alive()
    assert client.ended.wait(DEADLINE)


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


@pytest.mark.usefixtures("swallowed")
def test_a_handler_that_raises_while_somebody_reads_loses_nothing(client: Client) -> None:
    """A time limit goes off at any moment of request and answer: the next one is served all the same."""

    class TimeIsOver(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        if waiting:
            raise TimeIsOver

    def answer() -> None:
        answered = 0
        while answered < 3000:
            asked = client.daemon.hear(1)
            client.daemon.socket.sendall(encode(asked))
            answered += len(asked)

    waiting = False
    old = signal.signal(signal.SIGALRM, handle)
    answers = threading.Thread(target=answer)
    answers.start()
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(1, 3001):
            client.posted.append((number,))
            while len(client.received) < number:
                try:
                    waiting = True
                    client.channel.flush()
                    client.wait(number, soon=bool(number % 2))
                    waiting = False
                except TimeIsOver:
                    waiting = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    answers.join(DEADLINE)
    assert [message[0] for message in client.received] == list(range(1, 3001))


def test_a_finalizer_may_post_and_flush_in_the_middle_of_a_flush(client: Client) -> None:
    collect = client.channel._collect
    once = [True]

    def collect_and_finalize() -> list[Any]:
        messages = collect()
        if once:
            once.clear()
            client.posted.append((2,))
            client.channel.flush()
        return messages

    client.channel._collect = collect_and_finalize
    client.posted.append((1,))
    client.channel.flush()
    assert client.daemon.hear(2) == [[1], [2]]


def test_who_reads_cannot_wait_for_what_it_reads(client: Client) -> None:
    inside: list[bool] = []
    receive = client.channel._received

    def look(messages: list[Any]) -> None:
        inside.append(client.channel.held_by_this_thread())
        receive(messages)

    client.channel._received = look
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.wait(1)
    assert inside == [True]
    assert not client.channel.held_by_this_thread()


def test_who_is_about_to_read_cannot_wait_either() -> None:
    """A finalizer that waits for what only its own thread could read would wait for ever."""
    client = Client()  # its io thread is not started
    channel = client.channel
    client.daemon.socket.sendall(encode([(1,)]))
    found: list[bool] = []

    def read() -> None:
        channel.read_until(lambda: True, lambda timeout: True, None)

    at_every_point(lambda: found.append(channel.held_by_this_thread() or not channel._baton.locked()), read)
    assert found
    assert all(found)
    assert not channel.held_by_this_thread()
    channel.abandon()
    client.daemon.socket.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_the_stream_to_its_parent(client: Client) -> None:
    pid = os.fork()
    if not pid:
        client.channel.abandon()
        client.post(1)
        client.channel.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    client.post(2)
    assert client.daemon.hear(1) == [[2]]
    client.daemon.socket.sendall(encode([(3,)]))
    assert client.wait(1)
