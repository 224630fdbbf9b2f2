"""Chunks: the bytes of large objects between daemons.

A chunk is a header (transfer 8, position 8, length 4, flags 4, little endian) and ``length`` raw bytes. A *transfer* is
a number that the receiver has chosen, and *position* is the place of the chunk's first byte in the object. There are no
flags yet.

The reader keeps the stream in step. It holds 24 bytes, and nothing that the other side sends makes it
hold more: the bytes of a chunk go into memory that was made ready for this transfer before, at the place where the next
byte of the transfer belongs, or into none. Everything else is a violation, and ends the connection:

1. flags, a chunk without bytes, or with more than ``LARGEST_CHUNK``;
2. a chunk of a known transfer that does not begin behind the last one, or ends behind the object.

A chunk of a transfer that the reader does not know is no violation. 1. The receiver ends a transfer. 2. Chunks of it
are under way, and come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, Protocol

from asyncray.wire.frames import ProtocolViolation

LARGEST_CHUNK: Final = 1 << 20
"""Bytes of the largest chunk that a daemon accepts."""

_HEADER = Struct("<QQII")
CHUNK_HEADER_LENGTH: Final = _HEADER.size


def chunk_header(transfer: int, position: int, length: int) -> bytes:
    """The bytes in front of a chunk."""
    return _HEADER.pack(transfer, position, length, 0)


class TransferProgress(Protocol):
    """How far a transfer has come."""

    position: int
    """The place of the next byte in the object."""
    size: int
    """Bytes of the object."""


class ChunkReader:
    """Takes a stream of chunks apart, without touching the bytes of objects.

    While ``left`` is 0 a header comes: the caller fills ``header_room()`` and calls ``header_filled``. Otherwise so
    many bytes of the chunk are to come, which belong to ``progress()``; the caller puts them there and calls
    ``filled``.

    Args:
        transfers: those that have memory here, by number. The owner adds and removes some at any time, also while a
            chunk of one is read; the reader moves ``position`` on.
    """

    __slots__ = ("_buffer", "_filled", "_transfers", "_view", "left", "transfer")

    def __init__(self, transfers: Mapping[int, TransferProgress]) -> None:
        self._transfers = transfers
        self._buffer = bytearray(CHUNK_HEADER_LENGTH)
        self._view = memoryview(self._buffer)
        # Bytes of the header that have come.
        self._filled = 0
        # The transfer of the last chunk.
        self.transfer = 0
        # Bytes of the chunk that are to come.
        self.left = 0

    def __repr__(self) -> str:
        return f"<ChunkReader {self.left} bytes of transfer {self.transfer} to come>"

    @property
    def between_chunks(self) -> bool:
        """True if the other side may end the connection here."""
        return not self.left and not self._filled

    def progress(self) -> TransferProgress | None:
        """Returns the transfer that the present chunk belongs to, or None if it is to be dropped."""
        return self._transfers.get(self.transfer)

    def header_room(self) -> memoryview:
        """Returns the place for the missing bytes of a header."""
        return self._view[self._filled :]

    def header_filled(self, count: int) -> None:
        """Bytes of a header have come.

        Raises:
            ProtocolViolation: the header is whole now, and says what must not be.
        """
        self._filled += count
        if self._filled < CHUNK_HEADER_LENGTH:
            return
        self._filled = 0
        transfer, position, length, flags = _HEADER.unpack(self._buffer)
        if flags or not 0 < length <= LARGEST_CHUNK:
            raise ProtocolViolation(f"a chunk of {length} bytes with flags {flags:#x}")
        known = self._transfers.get(transfer)
        if known is not None and (position != known.position or position + length > known.size):
            raise ProtocolViolation(
                f"{length} bytes from {position} on, where {known.size - known.position} are expected from "
                f"{known.position} on"
            )
        self.transfer, self.left = transfer, length

    def filled(self, count: int) -> bool:
        """Bytes of the chunk have come. Returns True if the chunk is whole, and its transfer is known."""
        self.left -= count
        known = self._transfers.get(self.transfer)
        if known is None:
            return False
        known.position += count
        return not self.left
