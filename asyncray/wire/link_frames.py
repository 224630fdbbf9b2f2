"""Numbered frames: batches of messages between daemons, to bytes and back.

A frame is a header (length of the body 4, number 8, acknowledged number 8, little endian) and a msgpack array of
messages, as in ``asyncray.wire.frames``. Number 0 is a control frame, which is not acknowledged. The number stands
outside of the body, so a frame that is sent again needs no second packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from asyncray.messages import Received
from asyncray.wire.frames import ProtocolViolation, pack, unpack

LINK_FRAME_LIMIT = 1024 * 1024
"""Frames end at about this size, so that control frames and acknowledgements wait for no large one."""

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


class LinkDecoder:
    """Bytes in, numbered frames out: (number, acknowledged number, size in bytes, messages).

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

    def feed(self, data: bytes) -> list[tuple[int, int, int, tuple[Received, ...]]]:
        """Takes what arrived; returns the frames that are whole now.

        Raises:
            ProtocolViolation: a frame over the limit, or bytes that are no batch of messages.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, int, int, tuple[Received, ...]]] = []
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
