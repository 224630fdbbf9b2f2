"""The stream of chunks: it stays in step or is refused, and needs no memory of its own."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncray.core.cluster import serving
from asyncray.wire.chunks import CHUNK_HEADER_LENGTH, LARGEST_CHUNK, ChunkReader, chunk_header
from asyncray.wire.frames import ProtocolViolation


class Target:
    """A transfer's memory."""

    def __init__(self, size: int, position: int = 0) -> None:
        self.size = size
        self.position = position
        self.memory = bytearray(size)


def feed(reader: ChunkReader, targets: dict[int, Target], data: bytes) -> list[tuple[int, int]]:
    """Does what the receiver does. Returns the chunks that were whole: transfer and position behind it."""
    whole = []
    while data:
        if not reader.left:
            room = reader.header_room()
            count = min(len(room), len(data))
            room[:count], data = data[:count], data[count:]
            reader.header_filled(count)
            continue
        count = min(reader.left, len(data))
        target = targets.get(reader.transfer)
        if target is not None:
            target.memory[target.position : target.position + count] = data[:count]
        data = data[count:]
        if reader.filled(count):
            whole.append((reader.transfer, targets[reader.transfer].position))
    return whole


def chunk(transfer: int, position: int, data: bytes) -> bytes:
    return chunk_header(transfer, position, len(data)) + data


def test_the_chunks_of_two_transfers_take_turns() -> None:
    targets = {1: Target(5), 2: Target(4)}
    reader = ChunkReader(targets)
    stream = chunk(1, 0, b"abc") + chunk(2, 0, b"wx") + chunk(1, 3, b"de") + chunk(2, 2, b"yz")
    assert feed(reader, targets, stream) == [(1, 3), (2, 2), (1, 5), (2, 4)]
    assert [bytes(target.memory) for target in targets.values()] == [b"abcde", b"wxyz"]
    assert reader.between_chunks
    assert reader.progress() is targets[2]


def test_bytes_may_come_one_by_one() -> None:
    targets = {7: Target(3)}
    reader = ChunkReader(targets)
    for byte in chunk(7, 0, b"abc")[:-1]:
        assert feed(reader, targets, bytes([byte])) == []
        assert not reader.between_chunks
    assert feed(reader, targets, b"c") == [(7, 3)]
    assert targets[7].memory == b"abc"
    assert repr(reader) == "<ChunkReader 0 bytes of transfer 7 to come>"


def test_the_rest_of_an_object_begins_where_the_last_transfer_ended() -> None:
    targets = {3: Target(4, position=2)}
    assert feed(ChunkReader(targets), targets, chunk(3, 2, b"yz")) == [(3, 4)]
    assert targets[3].memory == b"\0\0yz"


def test_r18_chunks_of_a_closed_transfer_are_dropped_and_the_stream_stays_in_step() -> None:
    targets = {1: Target(6), 2: Target(2)}
    reader = ChunkReader(targets)
    assert feed(reader, targets, chunk(1, 0, b"abc") + chunk(1, 3, b"def")[: CHUNK_HEADER_LENGTH + 1]) == [(1, 3)]
    closed = targets.pop(1)  # in the middle of a chunk
    assert reader.progress() is None
    assert feed(reader, targets, b"ef" + chunk(1, 77, b"?" * 100) + chunk(2, 0, b"ok")) == [(2, 2)]
    assert closed.memory == b"abcd\0\0"
    assert targets[2].memory == b"ok"


@pytest.mark.parametrize(
    ("header", "story"),
    [
        (pack("<QQII", 1, 0, 0, 0), "a chunk of 0 bytes with flags 0x0"),
        (pack("<QQII", 1, 0, LARGEST_CHUNK + 1, 0), "a chunk of 1048577 bytes with flags 0x0"),
        (pack("<QQII", 1, 0, 1 << 31, 0), "a chunk of 2147483648 bytes"),
        (pack("<QQII", 99, 0, LARGEST_CHUNK + 1, 0), "a chunk of 1048577 bytes"),
        (pack("<QQII", 1, 0, 1, 2), "a chunk of 1 bytes with flags 0x2"),
        (pack("<QQII", 1, 1, 1, 0), "1 bytes from 1 on, where 10 are expected from 0 on"),
        (pack("<QQII", 1, 0, 11, 0), "11 bytes from 0 on, where 10 are expected from 0 on"),
        (pack("<QQII", 1, (1 << 64) - 1, 2, 0), "2 bytes from 18446744073709551615 on"),
    ],
)
def test_a_header_that_says_what_must_not_be_is_refused(header: bytes, story: str) -> None:
    targets = {1: Target(10)}
    with pytest.raises(ProtocolViolation, match=story):
        feed(ChunkReader(targets), targets, header)
    assert targets[1].position == 0


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=20))
def test_random_bytes_change_nothing_outside_of_the_transfer(pieces: list[bytes]) -> None:
    targets = {int.from_bytes(b"abcdefgh", "little"): Target(50)}
    reader = ChunkReader(targets)
    try:
        for piece in pieces:
            feed(reader, targets, piece)
    except ProtocolViolation:
        pass
    for target in targets.values():
        assert len(target.memory) == target.size
        assert 0 <= target.position <= target.size


def test_a_chunk_that_the_core_orders_is_not_too_large() -> None:
    assert serving.CHUNK <= LARGEST_CHUNK
