"""Numbered frames: batches of messages between daemons, to bytes and back.

A frame is a header (length of the body 4, number 8, acknowledged number 8, little endian) and a msgpack array of
messages, as in ``asyncray.wire.frames``. Number 0 is a control frame, which is not acknowledged. The number stands
outside of the body, so a frame that is sent again needs no second packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

from asyncray.messages import Received
from asyncray.wire.frames import ProtocolViolation, pack, unpack

LINK_FRAME_LIMIT = 1024 * 1024
"""Frames end at about this size, so that control frames and acknowledgements wait for no large one."""

LARGEST_BODY = 128 * 1024 * 1024
"""Bytes of the largest body that a daemon accepts: a pickled function alone may have 95 MB."""

LinkFrame: TypeAlias = "tuple[int, int, int, tuple[Received, ...]]"
"""Number, acknowledged number, size of the body in bytes, messages."""

_HEADER = Struct("<IQQ")
HEADER_LENGTH = _HEADER.size


def bodies(messages: Sequence[object]) -> list[bytes]:
    """The bodies of frames for a batch of any size, none much larger than the limit unless a single message is."""
    body = pack(messages)
    parts = len(body) // LINK_FRAME_LIMIT + 1
    if parts == 1 or len(messages) == 1:
        return [body]
    step = -(-len(messages) // parts)
    slices = [messages[start : start + step] for start in range(0, len(messages), step)]
    return [body for part in slices for body in bodies(part)]


def header(body: bytes, number: int, acknowledged: int) -> bytes:
    """The bytes in front of a body."""
    return _HEADER.pack(len(body), number, acknowledged)


def frame_of(data: bytes) -> LinkFrame:
    """The frame of a transport that keeps frames apart itself.

    Raises:
        ProtocolViolation: the bytes are not exactly one frame.
    """
    if len(data) < HEADER_LENGTH:
        raise ProtocolViolation(f"a frame of {len(data)} bytes, which has no header")
    size, number, acknowledged = _HEADER.unpack_from(data)
    if size != len(data) - HEADER_LENGTH:
        raise ProtocolViolation(f"a frame with {len(data) - HEADER_LENGTH} bytes that names {size}")
    return number, acknowledged, size, unpack(memoryview(data)[HEADER_LENGTH:])


class LinkDecoder:
    """Bytes in, numbered frames out.

    Args:
        limit: the largest body accepted, in bytes.
    """

    __slots__ = ("_buffer", "_need", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._need = HEADER_LENGTH

    def __repr__(self) -> str:
        return f"<LinkDecoder {len(self._buffer)} of {self._need} bytes>"

    def feed(self, data: bytes) -> list[LinkFrame]:
        """Takes what arrived; returns the frames that are whole now.

        Raises:
            ProtocolViolation: a frame over the limit, or bytes that are no batch of messages.
        """
        buffer = self._buffer
        buffer += data
        frames: list[LinkFrame] = []
        if len(buffer) < self._need:
            return frames
        start, end = 0, len(buffer)
        self._need = HEADER_LENGTH
        with memoryview(buffer) as view:
            while end - start >= HEADER_LENGTH:
                size, number, acknowledged = _HEADER.unpack_from(view, start)
                if size > self.limit:
                    raise ProtocolViolation(f"a frame of {size} bytes; at most {self.limit} are allowed")
                if end - start - HEADER_LENGTH < size:
                    self._need = HEADER_LENGTH + size
                    break
                start += HEADER_LENGTH
                frames.append((number, acknowledged, size, unpack(view[start : start + size])))
                start += size
        del buffer[:start]
        return frames
