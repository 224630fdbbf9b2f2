"""Bulk connections between the shells of two nodes, with real sockets and real shared memory."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from asyncray.core.cluster.commands import CloseBulk, StopReceiving
from asyncray.io.bulk_streams import BulkReceiver, BulkSender
from asyncray.node import bulk_shell
from asyncray.wire.chunks import chunk_header
from asyncray.wire.handshake import BULK, DialerHandshake
from tests.node.bulk_hosts import CHUNK, CLUSTER, TOKEN, BulkHost, pair
from tests.node.hosts import until

SIZE = 3 * CHUNK + 5
DEADLINE = 60.0


def receiver_of(host: BulkHost, node: BulkHost) -> BulkReceiver:
    stream = host.shell._sources[node.id].stream
    assert stream is not None
    return stream


def sender_of(host: BulkHost, node: BulkHost) -> BulkSender:
    stream = host.shell._destinations[node.id].stream
    assert stream is not None
    return stream


async def stranger(to: BulkHost, node: bytes = b"stranger") -> socket.socket:
    """A bulk connection of a process that has the token, and does what it likes."""
    loop = asyncio.get_running_loop()
    ours = socket.socket()
    ours.setblocking(False)
    await loop.sock_connect(ours, ("127.0.0.1", to.port))
    handshake = DialerHandshake(TOKEN, node, CLUSTER, BULK, to.id, os.urandom(32))
    await loop.sock_sendall(ours, handshake.start())
    while not handshake.done:
        await loop.sock_sendall(ours, handshake.feed(await loop.sock_recv(ours, 1000)))
    return ours


async def test_objects_go_both_ways_at_once() -> None:
    async with pair() as (one, two):
        for host, other in ((one, two), (two, one)):
            source, target = host.segment(SIZE), other.segment(SIZE)
            source.buf[:SIZE] = random.Random(host.id).randbytes(SIZE)
            other.receive(host, 1, target, SIZE)
            host.send(other, 1, source, SIZE)
        for host, other in ((one, two), (two, one)):
            await other.until("received", host.id, 1, SIZE)
            await host.until("sent", other.id, 1, 5)
            assert other.events.count(("received", host.id, 1, CHUNK)) == 1
            assert host.events.count(("sent", other.id, 1, CHUNK)) == 3
            assert host.flushes
        for mine, other_one in zip(one.segments, two.segments, strict=True):
            assert mine.buf[:SIZE] == other_one.buf[:SIZE] != bytes(SIZE)
        assert not one.shell._sources[two.id].landings
        assert repr(one.shell) == "<BulkShell sends to 1, gets from 1 nodes>"


async def test_a_node_that_does_not_answer_fails_what_waits_and_is_dialled_after_a_pause_next_time() -> None:
    async with pair() as (one, two):
        two.server.close()
        await two.server.wait_closed()
        one.send(two, 1, one.segment(SIZE), SIZE)
        await one.until("sending failed", two.id)
        destination = one.shell._destinations[two.id]
        assert (destination.pause, len(destination.waiting)) == (bulk_shell.FIRST_PAUSE, 0)
        await two.start()
        target = two.segment(SIZE)
        two.receive(one, 2, target, SIZE)
        one.send(two, 2, one.segments[0], SIZE)
        await two.until("received", one.id, 2, SIZE)
        await one.until("sent", two.id, 2, 5)
        assert destination.pause == 0
        assert one.events.count(("sending failed", two.id)) == 1


async def test_pauses_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def refuse(node: bytes, stream: object) -> None:
        raise ConnectionRefusedError("refused")

    async with pair() as (one, two):
        monkeypatch.setattr(one.shell, "_connect", refuse)
        segment = one.segment(10)
        for count in range(1, 7):
            with monkeypatch.context() as patch:
                patch.setattr(asyncio, "sleep", no_sleep)
                one.send(two, 1, segment, 10)
                await asyncio.wait(one.tasks)
            assert one.events == [("sending failed", two.id)] * count
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0]


async def test_a_node_that_is_lost_before_its_dial_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (one, two):
        monkeypatch.delattr(one.shell, "_connect")
        segment = one.segment(10)
        one.send(two, 1, segment, 10)
        one.do(CloseBulk(two.id))
        (dial,) = one.tasks
        await dial
        assert one.events == []


async def test_a_handshake_that_fails_is_a_dial_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (one, two):
        wrong = DialerHandshake(b"w" * 32, one.id, CLUSTER, BULK, two.id, os.urandom(32))
        monkeypatch.setattr(one.shell, "_handshake", lambda node: wrong)
        one.send(two, 1, one.segment(10), 10)
        await one.until("sending failed", two.id)
        assert not two.shell._sources


async def test_r16_a_connection_that_breaks_fails_both_sides_once_and_the_next_order_makes_a_new_one() -> None:
    async with pair() as (one, two):
        source, target = one.segment(SIZE), two.segment(SIZE)
        source.buf[:SIZE] = random.Random(2).randbytes(SIZE)
        two.receive(one, 1, target, SIZE)
        one.send(two, 1, source, CHUNK + 7)
        await two.until("received", one.id, 1, CHUNK + 7)
        receiver_of(two, one).abort("the test breaks it")
        await one.until("sending failed", two.id)
        await two.until("receiving failed", one.id)
        assert not two.shell._sources[one.id].landings
        # The rest, as another transfer.
        two.receive(one, 2, target, SIZE, CHUNK + 7)
        one.send(two, 2, source, SIZE, CHUNK + 7)
        await two.until("received", one.id, 2, SIZE)
        assert bytes(target.buf[:SIZE]) == source.buf[:SIZE]
        assert one.events.count(("sending failed", two.id)) == 1
        assert two.events.count(("receiving failed", one.id)) == 1


async def test_a_new_connection_replaces_one_that_only_the_sender_knows_to_be_broken() -> None:
    async with pair() as (one, two):
        target = two.segment(SIZE)
        old = await stranger(two, one.id)
        await until(lambda: two.shell._sources.get(one.id))
        stream = receiver_of(two, one)
        two.receive(one, 1, target, SIZE)
        new = await stranger(two, one.id)
        await two.until("receiving failed", one.id)
        assert receiver_of(two, one) is not stream
        two.receive(one, 2, target, 4)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(new, chunk_header(1, 0, 3) + b"old" + chunk_header(2, 0, 4) + b"data")
        await two.until("received", one.id, 2, 4)
        try:
            assert await loop.sock_recv(old, 1) == b""
        except ConnectionResetError:
            pass
        assert bytes(target.buf[:5]) == b"data\0"
        assert two.events.count(("receiving failed", one.id)) == 1
        old.close()
        new.close()
        await until(lambda: two.events.count(("receiving failed", one.id)) == 2)


async def test_nothing_is_written_for_a_transfer_that_was_stopped() -> None:
    async with pair() as (one, two):
        source, target = one.segment(SIZE), two.segment(SIZE)
        source.buf[:SIZE] = b"x" * SIZE
        two.receive(one, 1, target, SIZE)
        two.receive(one, 2, target, 3)
        two.do(StopReceiving(one.id, 1))
        two.do(StopReceiving(b"nobody__", 1))
        one.send(two, 1, source, SIZE)
        one.send(two, 2, source, 3)
        await two.until("received", one.id, 2, 3)
        assert two.events == [("received", one.id, 2, 3)]
        assert bytes(target.buf[:5]) == b"xxx\0\0"


async def test_a_node_cannot_write_into_memory_that_waits_for_the_bytes_of_another() -> None:
    async with pair() as (one, two):
        target = two.segment(10)
        two.receive(one, 1, target, 10)
        other = await stranger(two)
        await asyncio.get_running_loop().sock_sendall(other, chunk_header(1, 0, 10) + b"0123456789")
        await until(lambda: b"stranger" in two.shell._sources)
        await until(lambda: (s := two.shell._sources[b"stranger"].stream) is not None and s.total == 34)
        assert two.events == []
        assert bytes(target.buf[:10]) == bytes(10)
        other.close()


async def test_a_lost_node_is_forgotten_with_everything_that_was_under_way() -> None:
    async with pair() as (one, two):
        source, target = one.segment(SIZE), two.segment(SIZE)
        two.receive(one, 1, target, SIZE)
        one.send(two, 1, source, 10)
        await two.until("received", one.id, 1, 10)
        two.do(CloseBulk(one.id))
        two.do(CloseBulk(one.id))
        await one.until("sending failed", two.id)
        assert two.events == [("received", one.id, 1, 10)]
        assert not two.shell._sources
        # While it is dialled.
        one.send(two, 2, source, 10)
        one.do(CloseBulk(two.id))
        await asyncio.wait(one.tasks)
        assert not one.shell._destinations
        # While the handshake is under way, and while a connection is open.
        one.shell._destinations.clear()
        one.send(two, 3, source, 10)
        await asyncio.wait(one.tasks)
        one.do(CloseBulk(two.id))
        one.send(two, 4, source, 10)
        await one.until("sent", two.id, 4, 10)
        one.do(CloseBulk(two.id))
        await two.until("receiving failed", one.id)
        assert [event for event in one.events if event[0] == "sending failed"] == [("sending failed", two.id)]


async def test_memory_that_cannot_be_mapped_fails_a_transfer_or_the_connection() -> None:
    async with pair() as (one, two):
        missing = one.segment(10)
        missing.unlink()
        two.receive(one, 7, missing, 10)
        assert [event[:3] for event in two.events] == [("range failed", one.id, 7)]
        assert "No such file" in two.events[0][3]
        one.send(two, 1, missing, 10)
        await one.until("sending failed", two.id)


async def test_a_segment_stays_mapped_until_it_is_retired() -> None:
    async with pair() as (one, two):
        source, target = one.segment(10), two.segment(10)
        two.receive(one, 1, target, 10)
        one.send(two, 1, source, 10)
        await two.until("received", one.id, 1, 10)
        assert source.name in repr(one.shell._segments)
        one.shell.retired(source.name)
        one.shell.retired("never-mapped")
        assert source.name not in repr(one.shell._segments)


async def test_a_receiver_that_takes_nothing_loses_the_connection_and_a_slow_own_loop_is_no_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair() as (one, two):
        source = one.segment(20 * CHUNK)
        one.send(two, 1, source, 10)
        await one.until("sent", two.id, 1, 10)
        for _ in range(30):
            one.shell.tick(1.0)  # nothing is unsent
        sender = sender_of(one, two)
        one.send(two, 2, source, 20 * CHUNK)
        monkeypatch.setattr(BulkSender, "taken", 50)
        one.shell.tick(0.5)
        for _ in range(9):
            one.shell.tick(1000.0)
        one.shell.tick(0.5)
        assert sender._why is None
        one.shell.tick(0.5)
        await one.until("sending failed", two.id)
        assert sender._why == "it has taken nothing for 10 s"


async def test_a_sender_that_stops_in_the_middle_of_a_chunk_loses_the_connection() -> None:
    async with pair() as (_, two):
        sock = await stranger(two)
        await until(lambda: b"stranger" in two.shell._sources)
        for _ in range(30):
            two.shell.tick(1.0)  # no bytes are to come
        await asyncio.get_running_loop().sock_sendall(sock, chunk_header(1, 0, 10) + b"01234")
        stream = two.shell._sources[b"stranger"].stream
        assert stream is not None
        await until(lambda: stream.total == 29)
        for _ in range(10):
            two.shell.tick(1.0)
        assert two.events == []
        two.shell.tick(1.0)
        await two.until("receiving failed", b"stranger")
        sock.close()


# A file system without room -------------------------------------------------------------------------------------------

FULL = """
import asyncio, sys
from tests.node.bulk_hosts import CHUNK, pair

async def main():
    async with pair() as (one, two):
        source, target, small = one.segment(4 * CHUNK), two.segment(4 * CHUNK, sys.argv[1]), two.segment(CHUNK)
        for segment in (source, small):
            segment.buf[:CHUNK] = b"x" * CHUNK
        two.receive(one, 1, target, 4 * CHUNK)
        two.receive(one, 2, small, CHUNK)
        one.send(two, 1, source, 4 * CHUNK)
        one.send(two, 2, source, CHUNK)
        await two.until("received", one.id, 2, CHUNK)
        print(*two.events, sep="\\n")

asyncio.run(main())
"""


def test_r18_full_shared_memory_fails_the_transfer_and_nothing_else(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1536k,mode=700 tmpfs {tmp_path} && exec {sys.executable} -c '{FULL}' {tmp_path}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount anything")
    assert (done.stdout.splitlines(), done.stderr) == (
        [
            f"('received', b'one     ', 1, {CHUNK})",
            "('range failed', b'one     ', 1, 'No space left on device')",
            f"('received', b'one     ', 2, {CHUNK})",
        ],
        "",
    )
