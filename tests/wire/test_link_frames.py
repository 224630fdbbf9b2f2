"""Numbered frames: whole, in pieces, too large, broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncray.wire.frames import ProtocolViolation, pack
from asyncray.wire.link_frames import LINK_FRAME_LIMIT, LinkDecoder, bodies, frame_of, header


def frame(number: int, acknowledged: int, messages: list[object]) -> bytes:
    (body,) = bodies(messages)
    return header(body, number, acknowledged) + body


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.binary(max_size=40)), max_size=8), st.data())
def test_frames_arrive_whatever_the_pieces(frames: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(number, acknowledged, [(7, payload)]) for number, acknowledged, payload in frames)
    decoder = LinkDecoder(limit=1000)
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert [(number, ack, messages) for number, ack, _, messages in found] == [
        (number, ack, ((7, payload),)) for number, ack, payload in frames
    ]


def test_a_large_batch_becomes_several_frames_and_a_large_message_stays_whole() -> None:
    parts = bodies([(1, bytes(LINK_FRAME_LIMIT // 3)) for _ in range(10)])
    assert len(parts) > 3
    assert all(len(part) <= LINK_FRAME_LIMIT * 1.1 for part in parts)
    assert len(bodies([(1, bytes(3 * LINK_FRAME_LIMIT))])) == 1


def test_a_frame_over_the_limit_is_refused_before_it_has_arrived() -> None:
    with pytest.raises(ProtocolViolation, match="at most 10 are allowed"):
        LinkDecoder(limit=10).feed(header(bytes(11), 1, 0))


def test_bytes_that_are_no_batch_are_refused() -> None:
    for body in (b"\xc1", b"\x01", b"\x91\x01", b"\x91\x90"):
        with pytest.raises(ProtocolViolation):
            LinkDecoder(limit=100).feed(header(body, 1, 0) + body)


def test_a_frame_of_a_transport_that_keeps_frames_apart() -> None:
    body = pack([(7, "x")])
    assert frame_of(header(body, 3, 2) + body) == (3, 2, len(body), ((7, "x"),))
    for bad in (b"", header(body, 3, 2)[:-1], header(body, 3, 2) + body + b"x", header(body, 3, 2) + body[:-1]):
        with pytest.raises(ProtocolViolation):
            frame_of(bad)
