"""Frames: batches of messages to bytes and back.

A frame is a length (4 bytes, little endian) and a msgpack array of messages. One pack and one unpack for a batch is
what makes a message cost a microsecond. The decoder promises: nothing longer than its limit is ever buffered, and
what it hands out are tuples that start with an integer. It does not know what the messages mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from asyncray.messages import Received

HEADER_SIZE = 4
SOFT_FRAME_SIZE = 4 * 1024 * 1024
"""A batch is cut into frames of about this size: below every limit, and a receiver works while the rest comes."""


UNENCODABLE = (TypeError, ValueError, OverflowError)
"""The errors of ``encode`` for a message that holds something which msgpack cannot carry."""


class ProtocolViolation(Exception):
    """The peer sent bytes that are no frame of ours: its fault. The connection cannot go on."""


def encode(messages: Sequence[object]) -> bytes:
    """One frame for a batch of messages. Raises what ``pack`` raises."""
    body = pack(messages)
    return len(body).to_bytes(HEADER_SIZE, "little") + body


def pack(messages: Sequence[object]) -> bytes:
    """The body of a frame.

    Raises:
        TypeError, ValueError, OverflowError: a message holds something that msgpack cannot carry (our fault).
    """
    # Paths and names may hold lone surrogates, which stand for bytes that are no UTF-8.
    # A shared Packer would not be thread-safe; packb makes one of its own, which costs 0.6 us a batch, not a message.
    body: bytes = msgpack.packb(messages, unicode_errors="surrogatepass")
    return body


def encode_all(messages: Sequence[object]) -> list[bytes]:
    """Frames for a batch of any size, none much larger than the soft size unless a single message is.

    What was packed to learn the size is packed again in parts: batches that large are rare.
    """
    frame = encode(messages)
    parts = len(frame) // SOFT_FRAME_SIZE + 1
    if parts == 1 or len(messages) == 1:
        return [frame]
    step = -(-len(messages) // parts)
    slices = [messages[start : start + step] for start in range(0, len(messages), step)]
    return [frame for part in slices for frame in encode_all(part)]


class Decoder:
    """Bytes in, messages out.

    Args:
        limit: the largest frame accepted, in bytes; may be raised once the peer is known.

    Example::

        decoder = Decoder(limit=1 << 20)
        for message in decoder.feed(data): ...
    """

    __slots__ = ("_buffer", "_need", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._need = HEADER_SIZE

    def __repr__(self) -> str:
        return f"<Decoder {len(self._buffer)} of {self._need} bytes>"

    def feed(self, data: bytes) -> list[Received]:
        """Takes what arrived; returns the messages of all frames that are whole now.

        Raises:
            ProtocolViolation: a frame over the limit, or bytes that are no batch of messages.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            view = bytes(buffer)
        else:
            view = data
        messages: list[Received] = []
        start, end = 0, len(view)
        self._need = HEADER_SIZE
        while end - start >= HEADER_SIZE:
            size = int.from_bytes(view[start : start + HEADER_SIZE], "little")
            if size > self.limit:
                raise ProtocolViolation(f"a frame of {size} bytes; at most {self.limit} are allowed")
            if end - start - HEADER_SIZE < size:
                self._need = HEADER_SIZE + size
                break
            start += HEADER_SIZE
            messages += unpack(memoryview(view)[start : start + size])
            start += size
        self._buffer = bytearray(memoryview(view)[start:])
        return messages


def unpack(body: memoryview) -> tuple[Received, ...]:
    """The messages of a body.

    Raises:
        ProtocolViolation: the bytes are no batch of messages.
    """
    try:
        batch = msgpack.unpackb(body, use_list=False, strict_map_key=False, unicode_errors="surrogatepass")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolViolation(f"bytes that are no message: {error!r}") from None
    if type(batch) is not tuple:
        raise ProtocolViolation(f"a frame that holds no batch but a {type(batch).__name__}")
    for message in batch:
        if type(message) is not tuple or not message or type(message[0]) is not int:
            raise ProtocolViolation("a batch that holds something else than messages")
    return batch
