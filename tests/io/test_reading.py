"""Reading a stream: by the thread that waits, or by the io thread."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import threading
import time
from typing import Any

import pytest

from asyncray.io import reading
from asyncray.io.owned_lock import OwnedRLock
from asyncray.wire.frames import encode
from tests.io.stream_client import DEADLINE, Client
from tests.points import at_every_point


def test_threads_read_for_themselves_or_through_one_another(client: Client) -> None:
    """Each sends and waits for its answer; the thread that reads serves the others."""

    def ask(who: int) -> None:
        for number in range(50):
            client.posted.append((who, number))
            client.channel.flush()
            client.channel.read_until(
                lambda number=number: (who, number) in client.received,  # type: ignore[misc]  # mypy knows no default
                lambda timeout, number=number: wait_until((who, number)),  # type: ignore[misc]
                DEADLINE,
            )

    def wait_until(message: tuple[int, int]) -> bool:
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
    assert sorted(client.received) == [(who, number) for who in range(3) for number in range(50)]


def test_a_fruitless_spin_is_not_repeated_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()  # no io thread reads: the thread that waits does
    reader = client.channel._reader
    monkeypatch.setattr(reader, "_spin_ns", 1_000)
    skips = []
    for _ in range(100):
        assert not client.wait(1, timeout=0, spins=True)
        skips.append(reader._spins_to_skip)
    # One, and none; one, and none three times; ...: one in 33 at last.
    assert skips[:6] == [1, 0, 3, 2, 1, 0]
    assert max(skips) == 32
    monkeypatch.setattr(reader, "_spin_ns", 10**9 * DEADLINE)
    reader._spins_to_skip = 0
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.wait(1, spins=True)
    assert reader._spins_to_skip == reader._spin_backoff == 0
    client.end()


@pytest.mark.parametrize(("cpus", "spins"), [(1, False), (2, True)])
def test_no_thread_spins_on_the_only_cpu(monkeypatch: pytest.MonkeyPatch, cpus: int, spins: bool) -> None:
    """The daemon needs it. A quota of the container counts."""
    monkeypatch.setattr(reading, "usable_cpus", lambda: cpus)
    client = Client()
    assert bool(client.channel._reader._spin_ns) == spins
    client.end()


class StolenEvents:
    """A poll that reports each event once: another thread reads it before the second look."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.looks: list[int | None] = []

    def poll(self, milliseconds: int | None) -> list[tuple[int, int]]:
        assert milliseconds is not None, "for ever"
        assert milliseconds >= 0, "for ever"
        self.looks.append(milliseconds)
        return [(self.descriptor, select.POLLIN)] if len(self.looks) % 2 else []


def test_a_spin_whose_event_another_thread_takes_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    reader = client.channel._reader
    monkeypatch.setattr(reader, "_spin_ns", 100_000)
    stolen = StolenEvents(client.channel._wakeup.fileno())
    monkeypatch.setattr(reader._poll, "poll", stolen)
    assert not client.wait(1, timeout=0, spins=True)
    assert len(stolen.looks) > 1
    reader._turn(time.monotonic() - 1)  # so late may a thread be that was put aside
    client.end()


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
                    client.wait(number, spins=bool(number % 2))
                    waiting = False
                except TimeIsOver:
                    waiting = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    answers.join(DEADLINE)
    assert [message[0] for message in client.received] == list(range(1, 3001))


def test_a_thread_that_hands_on_what_it_reads_cannot_wait(client: Client) -> None:
    inside: list[bool] = []
    receive = client.channel._reader._received

    def look(messages: list[Any]) -> None:
        inside.append(client.channel.held_by_this_thread())
        receive(messages)

    client.channel._reader._received = look
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.wait(1)
    assert inside == [True]
    assert not client.channel.held_by_this_thread()


@pytest.mark.parametrize("reads", ["the io thread", "a thread that waits"])
def test_without_memory_for_a_message_the_stream_ends(client: Client, reads: str) -> None:
    """It must not go on: a part of the batch is lost."""

    def receive(messages: list[Any]) -> None:
        raise MemoryError

    client.channel._reader._received = receive
    client.daemon.socket.sendall(encode([(1,)]))
    if reads != "the io thread":
        client.channel.read_until(client.ended.is_set, client.ended.wait, DEADLINE)
    assert client.ended.wait(DEADLINE)
    assert client.closed == ["the connection broke: [Errno 12] there is no memory for a message"]


def test_a_defect_in_the_io_thread_ends_the_stream(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(messages: list[Any]) -> None:
        raise AssertionError("a defect")

    printed: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: printed.append(kind))
    client.channel._reader._received = receive
    client.daemon.socket.sendall(encode([(1,)]))
    assert client.ended.wait(DEADLINE)
    assert client.closed == ["the io thread failed: AssertionError('a defect')"]
    assert printed == [AssertionError]


@pytest.mark.parametrize("spins", [False, True], ids=["sleeping", "spinning"])
def test_code_in_the_middle_of_reading_reads_for_itself(spins: bool) -> None:
    """A signal handler or finalizer may run at any point of it, and wait for a reply that only its thread can read."""
    waited = 0
    message = encode([(1,)])

    def come() -> None:
        nonlocal waited
        if not client.channel.held_by_this_thread():
            count = len(client.received) + 1
            client.daemon.socket.sendall(message)
            assert client.wait(count)
            waited += 1

    def read() -> None:
        before = len(client.received)
        client.daemon.socket.sendall(message)
        assert client.wait(before + 1, spins=spins)

    client = Client()  # its io thread is not started
    at_every_point(come, read)
    assert waited > 10
    assert not client.channel.held_by_this_thread()
    client.end()


def test_a_signal_handler_reads_while_its_thread_sleeps_in_poll() -> None:
    def handle(number: int, frame: object) -> None:
        client.daemon.socket.sendall(encode([(1,)]))
        assert client.wait(1)
        client.daemon.socket.sendall(encode([(2,)]))

    client = Client()
    old = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        assert client.wait(2)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert client.received == [(1,), (2,)]
    client.end()


def test_a_child_goes_on_where_a_signal_handler_has_forked_before_the_lock_was_taken(client: Client) -> None:
    """The handler comes between two instructions: the child has another lock behind it than before."""
    reader = client.channel._reader

    class Forks(OwnedRLock):  # type: ignore[misc]  # final for type checkers
        __slots__ = ()

        def acquire(self, *arguments: Any) -> Any:
            reader._reader_lock = OwnedRLock()
            return super().acquire(*arguments)

    reader._reader_lock = Forks()
    assert reader.read_until(lambda: True, lambda timeout: False, 0)
