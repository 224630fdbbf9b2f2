"""Frames: any batch in any chunks comes out as it went in; anything else is the peer's violation, and never a flood."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncray.wire.frames import HEADER_SIZE, Decoder, ProtocolViolation, encode

LIMIT = 1 << 16
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.builds(lambda kind, rest: (kind, *rest), st.integers(0, 255), st.lists(VALUES, max_size=4))
BATCHES = st.lists(MESSAGES, max_size=4)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(HEADER_SIZE, "little") + body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(st.lists(BATCHES, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_batches_survive_any_cutting(batches: list[list[Any]], places: list[int]) -> None:
    decoder = Decoder(LIMIT)
    chunks = cut(b"".join(encode(batch) for batch in batches), places)
    received = [message for chunk in chunks for message in decoder.feed(chunk)]
    assert received == [message for batch in batches for message in batch]


@given(BATCHES)
def test_byte_by_byte(batch: list[Any]) -> None:
    decoder = Decoder(LIMIT)
    data = encode(batch)
    received: list[Any] = []
    for position in range(len(data)):
        assert not received, "nothing comes before the frame is whole"
        received += decoder.feed(data[position : position + 1])
    assert received == batch


@settings(derandomize=True)  # as long as the next test is expected to fail: chance could find the same bytes
@given(st.binary(max_size=300).map(frame) | st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
@example(frame(b"\x91" * 5000), [])  # deeper than any stack
@example(frame(b"\x91\xa1\xff"), [])  # text that is not UTF-8
@example(frame(b"\xdd\xff\xff\xff\xff"), [])  # an array of four billion elements
@example(frame(b"\x91\xc7\x0c\xff" + b"\xff" * 12), [])  # a timestamp beyond all calendars
@example(frame(b"\x90\x90"), [])  # more than one value
def test_garbage_is_a_violation_and_nothing_else(data: bytes, places: list[int]) -> None:
    decoder = Decoder(LIMIT)
    try:
        for chunk in cut(data, places):
            for message in decoder.feed(chunk):
                assert type(message) is tuple
                assert type(message[0]) is int
    except ProtocolViolation:
        pass


def test_a_map_whose_key_is_a_map_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        Decoder(LIMIT).feed(frame(b"\x91\x81\x80\x01"))


@pytest.mark.parametrize("body", [None, 7, {}, [7], [[]], [["text"]], [[True]], [[1], None], b"bytes"])
def test_a_frame_that_holds_no_batch_is_a_violation(body: Any) -> None:
    with pytest.raises(ProtocolViolation, match="batch"):
        Decoder(LIMIT).feed(frame(msgpack.packb(body)))


def test_a_frame_over_the_limit_is_refused_by_its_header() -> None:
    decoder = Decoder(10)
    assert decoder.feed((11).to_bytes(HEADER_SIZE, "little")[:3]) == []
    with pytest.raises(ProtocolViolation, match="11 bytes; at most 10"):
        decoder.feed(b"\0")


def test_the_limit_may_be_raised_between_frames() -> None:
    decoder = Decoder(3)
    assert decoder.feed(encode([(1,)])) == [(1,)]
    decoder.limit = 100
    assert decoder.feed(encode([(1, "a longer message")])) == [(1, "a longer message")]


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20))
def test_never_more_than_a_frame_is_kept(chunks: list[bytes]) -> None:
    decoder = Decoder(64)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            kept = decoder._buffer
            assert len(kept) < HEADER_SIZE + decoder.limit
    except ProtocolViolation:
        pass


def test_what_messages_are_made_of_comes_back_as_tuples() -> None:
    assert Decoder(LIMIT).feed(encode([(1, (b"x", ["y"]))])) == [(1, (b"x", ("y",)))]


@pytest.mark.parametrize("value", [object(), 2**64])
def test_what_cannot_be_carried_is_our_own_fault(value: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        encode([[1, value]])
