"""The daemon's shell around a real machine, in this process: real sockets and segments, and a zygote that only listens.

Every wait has a deadline: that of ``run``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Self

import pytest
import uvloop

from asyncray.config import START_DEADLINE
from asyncray.core import store
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import LogLine
from asyncray.core.records import Client
from asyncray.core.states import STARTING
from asyncray.io import sessions
from asyncray.io.segments import Segment
from asyncray.messages import (
    ABANDON,
    ALLOCATE,
    ALLOCATED,
    DISCONNECT,
    DONE,
    ENDED,
    FORK,
    FORKED,
    FUNCTION,
    KILL_WORKER,
    NOTICE,
    PLAIN,
    REPLY,
    REPLY_FAULT,
    REQUEST,
    RETIRED,
    RUN,
    SUBMIT,
    TEMPLATE,
    VALUE,
    WELCOME,
)
from asyncray.node import daemon as daemon_module
from asyncray.node import zygotes
from asyncray.node.daemon import Daemon
from tests.node.peer import HELLO_OF_DRIVER, Peer, hello_of_worker

DEADLINE = 30.0
NEVER = 1000.0
CAPACITY = 64 << 20


class Zygote:
    """The daemon's zygote: the test reads the daemon's requests."""

    def __init__(self) -> None:
        self.stream, theirs = socket.socketpair()
        self.peer = Peer(theirs)
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.has_ended = False

    @property
    def link(self) -> tuple[socket.socket, int]:
        return self.stream, self.process.pid

    def end(self) -> None:
        """It ends as one that was killed."""
        assert self.process.stdin is not None
        self.has_ended = True
        self.process.stdin.close()
        self.peer.close()


class Node:
    """A running daemon, its zygote, and the driver that has started it."""

    def __init__(self, machine: NodeMachine | None = None) -> None:
        self.base = tempfile.mkdtemp(prefix="asyncray-")
        self.directory = os.path.join(self.base, "session_2026-01-01_00-00-00_0123456789ab")
        os.makedirs(os.path.join(self.directory, "logs"))
        self.prefix = f"asyncray-test-{os.urandom(6).hex()}-"
        self.machine = machine or NodeMachine(os.urandom(8), {"CPU": 1}, self.prefix, CAPACITY, {})
        self.zygote = Zygote()
        self.zygotes = [self.zygote]
        self.daemon = Daemon(self.machine, self.directory, -1)
        ours, theirs = socket.socketpair()
        self._driver_end = ours
        self.driver = Peer(theirs)

    async def __aenter__(self) -> Self:
        ready = asyncio.Event()
        self.serving = asyncio.create_task(self.daemon.run(self.zygote.link, self._driver_end, ready.set))
        await ready.wait()
        await self.driver.say(HELLO_OF_DRIVER)
        await self.driver.hear_kind(WELCOME)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            self.driver.close()
            await self.stopped()
        finally:
            for zygote in self.zygotes:
                zygote.process.wait(DEADLINE)
            shutil.rmtree(self.base)

    async def stopped(self) -> None:
        """The daemon kills its zygotes, and ends."""
        for zygote in self.zygotes:
            if not zygote.has_ended and await zygote.peer.ended():
                zygote.end()
        await self.serving

    async def connect(self) -> Peer:
        """A new connection through the daemon's socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, sessions.socket_of(self.directory))
        return Peer(connection)

    async def worker(self) -> tuple[int, Peer]:
        """The next worker that the daemon asks the zygote for."""
        _, number = await self.zygote.peer.hear_kind(FORK)
        await self.zygote.peer.say((FORKED, number, 2))
        peer = await self.connect()
        await peer.say(hello_of_worker(number))
        await peer.hear_kind(WELCOME)
        return number, peer

    async def submit(self) -> tuple[bytes, bytes]:
        """The driver submits a task; returns its ID and that of its result."""
        client = self.client()
        assert client.job is not None
        spec = {"name": "f", "function": b"f", "returns": 1, "retries": 0, "demand": [("CPU", 10_000)]}
        task = client.id + client.job.id + (1).to_bytes(6, "big")
        await self.driver.say(
            (FUNCTION, 2, b"f", b"code", None),
            (TEMPLATE, 1, b"t", spec),
            (SUBMIT, task, 1, PLAIN, b"arguments", None, None, None, None),
        )
        return task, task + (1).to_bytes(4, "big")

    def client(self) -> Client:
        return next(client for client in self.machine.clients.values() if client.role == "driver")

    async def ping(self, peer: Peer) -> None:
        await peer.say((REQUEST, 7, "ping", []))
        assert (await peer.hear_kind(REPLY))[1] == 7

    def count_flushes(self, monkeypatch: pytest.MonkeyPatch) -> list[None]:
        flushes: list[None] = []
        flush = self.machine.flush
        monkeypatch.setattr(self.machine, "flush", lambda: flushes.append(flush()))
        return flushes


@pytest.fixture(autouse=True)
def no_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon ends all children of its process: here these are the test's. Nothing comes by itself."""
    monkeypatch.setattr(daemon_module, "end_children", lambda spare_trackers: True)
    monkeypatch.setattr(daemon_module, "_TICK", NEVER)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(main(), DEADLINE))


# Turns ----------------------------------------------------------------------------------------------------------------


def test_the_events_of_one_turn_are_flushed_once_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            flushes = node.count_flushes(monkeypatch)
            node.daemon.worker_lacks_log(98, "no room")
            node.daemon.worker_ended(98, 0)
            node.daemon.worker_ended(99, 0)
            assert not flushes
            await asyncio.sleep(0)
            assert len(flushes) == 1
            assert "no room" in (await node.driver.hear_kind(NOTICE))[2]
            await asyncio.sleep(0)
            assert len(flushes) == 1

    run(main)


def test_a_turn_is_answered_in_one_frame() -> None:
    async def main() -> None:
        async with Node() as node:
            for number in range(3):
                node.machine.outbox.send(node.client(), (REPLY, number, None))
            await node.driver.say((REQUEST, 3, "ping", []), (REQUEST, 4, "ping", []))
            # One read gives one frame, with all five messages.
            assert [message[1] for message in await node.driver.hear(1)] == [0, 1, 2, 3, 4]

    run(main)


def test_commands_that_a_command_leads_to_are_done_in_the_same_turn() -> None:
    async def main() -> None:
        async with Node() as node:
            # Room leads to a segment, its creation to the grant: one frame, and no turn in between.
            await node.driver.say((ALLOCATE, 1, 1000))
            ((kind, number, segment, offset, warm),) = await node.driver.hear(1)
            assert (kind, number, offset, warm) == (ALLOCATED, 1, 0, False)
            assert os.path.exists(f"/dev/shm/{segment}")
        assert not os.path.exists(f"/dev/shm/{segment}")

    run(main)


def test_a_segment_that_cannot_be_created_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, size: int) -> Segment:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with Node() as node:
            monkeypatch.setattr(Segment, "create", create)
            await node.driver.say((ALLOCATE, 1, 1000))
            (answer,) = await node.driver.hear(1)
            assert answer[:3] == (REPLY_FAULT, 1, "ObjectStoreFullError")
            assert "No space left on device" in answer[3]["message"]

    run(main)


def test_a_segment_that_is_retired_is_unlinked() -> None:
    async def main() -> None:
        async with Node() as node:
            await node.driver.say((ALLOCATE, 1, CAPACITY // 2))
            _, _, segment, offset, _ = await node.driver.hear_kind(ALLOCATED)
            # The one segment is free, but too small: it gives way.
            await node.driver.say((ABANDON, segment, offset), (ALLOCATE, 2, CAPACITY))
            assert (await node.driver.hear_kind(RETIRED))[1] == segment
            await node.driver.hear_kind(ALLOCATED)
            assert not os.path.exists(f"/dev/shm/{segment}")

    run(main)


def test_lines_of_the_core_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Node() as node:
            node.machine.outbox.do(LogLine(30, "said by the core"))
            await node.ping(node.driver)

    run(main)
    assert ("asyncray.node", 30, "said by the core") in caplog.record_tuples


# Time -----------------------------------------------------------------------------------------------------------------


def test_ticks_bring_the_machine_to_its_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            await node.driver.say((ALLOCATE, 1, CAPACITY))
            await node.driver.hear_kind(ALLOCATED)
            await node.driver.say((ALLOCATE, 2, CAPACITY))
            answer = await node.driver.hear_kind(REPLY_FAULT)
            assert answer[1:3] == (2, "ObjectStoreFullError")

    monkeypatch.setattr(daemon_module, "_TICK", 0.01)
    monkeypatch.setattr(daemon_module, "_QUICK_TICK", NEVER)
    monkeypatch.setattr(store, "STORE_FULL_DEADLINE", 0.0)
    run(main)


def test_an_idle_node_leaves_every_second_tick_out_and_looks_around_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            pauses: list[float] = []
            looks: list[int] = []
            loop = node.daemon._loop

            def call_later(pause: float, call: Callable[[], object]) -> asyncio.TimerHandle:
                pauses.append(pause)
                return loop.call_later(NEVER, call)

            def tick(times: int) -> None:
                with monkeypatch.context() as patch:
                    patch.setattr(node.daemon, "_loop", SimpleNamespace(call_later=call_later, time=loop.time))
                    patch.setattr(node.daemon, "_look_around", lambda: looks.append(len(pauses)))
                    for _ in range(times):
                        node.daemon._tick()

            tick(3)
            await node.submit()
            await node.ping(node.driver)
            tick(4)
            assert pauses == [pause * NEVER for pause in (2, 2, 2, 1, 1, 1, 1)]
            assert looks == [2, 3, 4, 6]

    run(main)


class Busy(NodeMachine):
    """A machine that wants fast ticks until it has got three."""

    ticks = 0

    @property
    def needs_fast_tick(self) -> bool:
        return self.ticks < 3

    def tick(self, late: float = 0.0) -> None:
        self.ticks += 1


def test_a_machine_with_something_urgent_is_ticked_fast_as_long_as_it_wants() -> None:
    async def main() -> None:
        machine = Busy(os.urandom(8), {"CPU": 1}, "asyncray-test-busy-", CAPACITY, {})
        async with Node(machine) as node:
            while machine.ticks < 3:
                await asyncio.sleep(0)
            await node.ping(node.driver)
            assert not node.daemon._quick
            assert machine.ticks == 3

    run(main)


# Clients that are cut off ---------------------------------------------------------------------------------------------


def test_a_driver_that_sends_nonsense_is_cut_off_and_the_others_are_served() -> None:
    async def main() -> None:
        async with Node() as node:
            other = await node.connect()
            await other.say(HELLO_OF_DRIVER)
            await other.hear_kind(WELCOME)
            assert len(node.machine.jobs.table) == 2
            await other.say((SUBMIT, b"task", 5, PLAIN, b"", None, None, None, None))  # of no template
            assert await other.ended()
            assert len(node.machine.jobs.table) == 1
            await node.ping(node.driver)
            other.close()

    run(main)


def test_a_stranger_that_sends_no_frames_is_cut_off() -> None:
    async def main() -> None:
        async with Node() as node:
            stranger = await node.connect()
            await stranger.say_bytes(b"GET / HTTP/1.1\r\n\r\n")
            assert await stranger.ended()
            await node.ping(node.driver)
            stranger.close()

    run(main)


def test_a_worker_that_sends_nonsense_is_killed_and_its_task_fails() -> None:
    async def main() -> None:
        async with Node() as node:
            number, worker = await node.worker()
            _, result = await node.submit()
            await worker.hear_kind(RUN)
            await worker.say((DONE, b"a task of this ID"))
            assert await worker.ended()
            assert await node.zygote.peer.hear_kind(KILL_WORKER) == (KILL_WORKER, number)
            await node.zygote.peer.say((ENDED, number, 2, int(signal.SIGKILL)))
            _, object_id, _, (error, fields) = await node.driver.hear_kind(VALUE)
            assert (object_id, error) == (result, "WorkerCrashedError")
            assert "SIGKILL" in str(fields)
            worker.close()

    run(main)


# Workers and zygotes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closes", [True, False])
def test_what_a_worker_said_before_its_end_counts(closes: bool) -> None:
    async def main() -> None:
        async with Node() as node:
            number, worker = await node.worker()
            task, result = await node.submit()
            await worker.hear_kind(RUN)
            # Both in one turn: the daemon learns of the end before its loop has looked at the socket.
            await worker.say((DONE, task, 5, PLAIN, b"value", None))
            if closes:
                worker.close()
            node.daemon.worker_ended(number, int(signal.SIGKILL))
            assert await node.driver.hear_kind(VALUE) == (VALUE, result, PLAIN, b"value")
            worker.close()

    run(main)


def test_a_zygote_that_dies_is_replaced_and_its_workers_count_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            second = Zygote()
            node.zygotes.append(second)
            monkeypatch.setattr(daemon_module, "start_zygote", lambda directory, lock: second.link)
            number, worker = await node.worker()
            _, result = await node.submit()
            await worker.hear_kind(RUN)
            record = node.machine.pool.workers[number]
            node.zygote.end()
            _, object_id, _, (error, fields) = await node.driver.hear_kind(VALUE)
            assert (object_id, error) == (result, "WorkerCrashedError")
            assert "it went with the zygote" in str(fields)
            assert record.died_with_zygote
            _, next_number = await second.peer.hear_kind(FORK)
            assert next_number > number
            worker.close()

    run(main)


def test_a_zygote_that_does_not_fork_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            second = Zygote()
            node.zygotes.append(second)
            monkeypatch.setattr(daemon_module, "start_zygote", lambda directory, lock: second.link)
            await node.zygote.peer.hear_kind(FORK)
            monkeypatch.setattr(node.daemon._zygote, "is_stuck", lambda: True)
            # From now on: the pool pauses after a worker that did not start.
            monkeypatch.setattr(daemon_module, "_TICK", 0.01)
            node.daemon._tick()
            assert await asyncio.to_thread(node.zygote.process.wait, DEADLINE) == -signal.SIGKILL
            node.zygote.end()
            await second.peer.hear_kind(FORK)

    run(main)


def test_a_daemon_that_stood_still_holds_nobody_to_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """1. It asks for a worker. 2. It is stopped for longer than that may take. 3. It goes on, and ticks first."""

    async def main() -> None:
        async with Node() as node:
            _, number = await node.zygote.peer.hear_kind(FORK)
            daemon, later = node.daemon, node.daemon._loop.time() + 10 * START_DEADLINE
            worker = node.machine.pool.workers[number]
            with monkeypatch.context() as patch:
                loop = daemon._loop
                clock = SimpleNamespace(call_later=loop.call_later, call_soon=loop.call_soon, time=lambda: later)
                patch.setattr(daemon, "_loop", clock)
                patch.setattr(daemon._zygote, "_loop", clock)
                assert daemon._zygote.is_stuck()
                daemon._quick_tick()
                daemon._tick()
                assert not daemon._zygote.is_stuck()
                assert worker.state == STARTING

    run(main)


def test_a_node_whose_zygotes_die_again_and_again_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:

            def start_zygote(directory: str, lock: int) -> tuple[socket.socket, int]:
                zygote = Zygote()
                node.zygotes.append(zygote)
                zygote.end()
                return zygote.link

            monkeypatch.setattr(daemon_module, "start_zygote", start_zygote)
            node.zygote.end()
            await node.stopped()
            assert await node.driver.ended()
            assert len(node.zygotes) == zygotes._MOST_DEATHS + 1
            assert node.daemon._why == "its zygote died again and again"

    run(main)


def test_a_zygote_that_cannot_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have room for processes again soon. Until then, drivers get one notice why no worker starts."""

    async def main() -> None:
        async with Node() as node:
            second = Zygote()
            node.zygotes.append(second)
            errors = iter([OSError(11, "no more processes")] * 3)

            def start_zygote(directory: str, lock: int) -> tuple[socket.socket, int]:
                for error in errors:
                    raise error
                return second.link

            monkeypatch.setattr(daemon_module, "start_zygote", start_zygote)
            monkeypatch.setattr(daemon_module, "_TICK", 0.01)
            notices: list[str] = []
            monkeypatch.setattr(node.machine, "notify_drivers", notices.append)
            _, worker = await node.worker()
            await node.submit()
            node.zygote.end()
            await second.peer.hear_kind(FORK)
            assert list(errors) == []
            assert notices == ["no worker can start: no zygote could be started: [Errno 11] no more processes"]
            worker.close()

    run(main)


def test_a_node_goes_on_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async with Node() as node:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                node.daemon._tidy()
            _, worker = await node.worker()
            assert node.daemon._why == ""
            worker.close()

    run(main)
    assert "old session directories stay until another node starts: can't start new thread" in caplog.text


# Ends -----------------------------------------------------------------------------------------------------------------


def test_the_node_ends_with_the_driver_that_started_it_and_leaves_nothing() -> None:
    async def main() -> None:
        async with Node() as node:
            other = await node.connect()
            await other.say(HELLO_OF_DRIVER, (ALLOCATE, 1, 1000))
            _, _, segment, _, _ = await other.hear_kind(ALLOCATED)
            node.driver.close()
            await node.stopped()
            assert await other.ended()
            assert node.daemon._why == "its driver has ended"
            assert not os.path.exists(f"/dev/shm/{segment}")
            assert not os.path.exists(sessions.socket_of(node.directory))
            assert os.listdir(node.directory) == ["logs"]
            other.close()

    run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_node(number: signal.Signals) -> None:
    async def main() -> None:
        async with Node() as node:
            os.kill(os.getpid(), number)
            await node.stopped()
            assert await node.driver.ended()
            assert node.daemon._why == f"it got {number.name}"

    run(main)


def test_a_signal_that_is_ignored_when_the_daemon_starts_stays_ignored() -> None:
    async def main() -> None:
        async with Node() as node:
            os.kill(os.getpid(), signal.SIGHUP)
            await node.ping(node.driver)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_defect_stops_the_node_and_a_broken_connection_does_not() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Node() as node:
            loop.call_soon(_raise, ConnectionResetError("the peer has gone"))
            await node.ping(node.driver)
            loop.call_soon(_raise, KeyError("missing"))
            await node.stopped()
            assert await node.driver.ended()
            assert node.daemon._why == "a defect: KeyError('missing')"

    run(main)


def test_a_node_whose_memory_runs_out_says_so_at_once() -> None:
    async def main() -> None:
        async with Node() as node:
            asyncio.get_running_loop().call_soon(_raise, MemoryError())
            message = await node.driver.hear_kind(DISCONNECT)
            assert tuple(message) == (DISCONNECT, "a defect: its memory has run out: MemoryError()", True)
            assert node.daemon._reserve is None, "the log and this message need some"
            await node.stopped()

    run(main)


def test_clients_hear_why_a_node_stops() -> None:
    async def main() -> None:
        async with Node() as node:
            node.daemon._machine_stop("it was asked to")
            message = await node.driver.hear_kind(DISCONNECT)
            assert tuple(message) == (DISCONNECT, "it was asked to", False)

    run(main)


def test_a_node_ends_when_its_clients_have_heard_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Node() as node:
            close = node.daemon._doors.close
            reading: list[asyncio.Task[Any]] = []

            def close_and_read(why: str, *, defect: bool) -> None:
                close(why, defect=defect)
                reading.append(asyncio.create_task(node.driver.hear_kind(DISCONNECT)))

            monkeypatch.setattr(node.daemon._doors, "close", close_and_read)
            node.machine.outbox.send(node.client(), (REPLY, 9, b"x" * 2_000_000))
            node.daemon._machine_stop("it was asked to")
            await node.serving
            assert not node.daemon._doors._streams
            assert (await reading[0])[1] == "it was asked to"

    run(main)


def _raise(error: Exception) -> None:
    raise error
