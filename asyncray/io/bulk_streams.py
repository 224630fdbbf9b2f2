"""Bulk connections: large objects from one daemon's segments into another's, without a copy between socket and memory.

The sender writes views of its mapped segment. The receiver gives the loop the place in its own mapped segment, so the
system copies the bytes there from the socket. Both work on any transport of asyncio, also on one with TLS: nothing here
uses the descriptor of the socket. A connection is made by a ``LinkStream``, which does the handshake and is then
exchanged for one of these protocols.

Measured with small programs of each kind, one run each, on two cores: 512 MB from process to process over the loopback
device:

=====================================================  =====================  ============  =======
receiver and sender                                    mapped already, warm   first mapped  fresh
=====================================================  =====================  ============  =======
``get_buffer`` from a loop's ``writelines`` (chosen)   4.3 GB/s               2.1           1.0
``sock_recv_into`` from the same                       4.5                    1.4           1.0
a thread's ``recv_into`` from the same                 3.3                    1.2           1.2
a thread's ``recv_into`` from a thread's ``sendfile``  3.6                    2.4           1.0
``get_buffer`` from a thread's ``sendfile``            1.6                    1.9           0.8
=====================================================  =====================  ============  =======

So threads win a fifth where pages are touched for the first time, and lose as much where they are not; and beside a
busy loop they would wait for the GIL after each piece. *Mapped already* counts most: the first write to a page costs
each process a fault, so the caller keeps segments mapped. libuv reads up to 32 times before it lets the loop go on.
While fresh pages were filled, the loop stood still for 37 ms at a time without ``_LARGEST_READ``, and for 7 to 9 with
it, in runs side by side. ``python -m tests.node.bulk_hosts`` measures these protocols themselves.

Fresh pages get their memory by ``Segment.populate`` before the socket is read into them, so a system without memory
ends one transfer and not the connection; with TLS it would even kill the process (SIGBUS), because the copy happens in
the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from asyncray.io.segments import Segment
from asyncray.wire.chunks import ChunkReader, chunk_header
from asyncray.wire.frames import ProtocolViolation

_LARGEST_READ = 128 << 10
"""Bytes that one call reads at most. Larger reads are no faster, and hold up the loop."""

_POPULATE = 256 << 10
"""Bytes of fresh pages that get memory at once, when the first of them is needed."""

_SCRATCH = memoryview(bytearray(_LARGEST_READ))
"""Takes the bytes of transfers that have no landing. Nothing reads it."""


class Landing:
    """The memory that a transfer is written to.

    Args:
        segment: mapped.
        offset: the place of the object's first byte in it.
        size: bytes of the object.
        position: the place in the object at which the transfer begins.
        warm: all pages of the range were written before.
    """

    __slots__ = ("_offset", "_populated", "_segment", "position", "size")

    def __init__(self, segment: Segment, offset: int, size: int, position: int, *, warm: bool) -> None:
        self._segment = segment
        self._offset = offset
        self.size = size
        # The place of the next byte. ``ChunkReader`` moves it on.
        self.position = position
        # The place in the object before which pages have memory.
        self._populated = size if warm else position

    def __repr__(self) -> str:
        return f"<Landing {self.position} of {self.size} bytes in {self._segment.name}>"

    def room(self, count: int) -> memoryview:
        """Returns the place for the next bytes, at most so many.

        Raises:
            OSError: the system has no memory for it.
        """
        if self.position + count > self._populated:
            end = min(self.size, self.position + max(count, _POPULATE))
            self._segment.populate(self._offset + self._populated, end - self._populated)
            self._populated = end
        start = self._offset + self.position
        return self._segment.buf[start : start + count]


class BulkReceiver(asyncio.BufferedProtocol):
    """The end that reads.

    Args:
        landings: the memory of the transfers, by number. The caller adds and removes some at any time.
        received: takes a transfer, and the place in its object before which all bytes are here: after each chunk.
        failed: takes a transfer for which the system has no memory, with the reason. The caller removes its landing.
        closed: called once when the connection has ended, with a reason, or None for a plain end.
    """

    def __init__(
        self,
        landings: Mapping[int, Landing],
        received: Callable[[int, int], None],
        failed: Callable[[int, str], None],
        closed: Callable[[BulkReceiver, str | None], None],
    ) -> None:
        self._landings = landings
        self._reader = ChunkReader(landings)
        self._received = received
        self._failed = failed
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._why: str | None = None
        # Bytes that were received.
        self.total = 0

    def __repr__(self) -> str:
        return f"<BulkReceiver {'open' if self._transport else 'closed'} {self._reader}>"

    @property
    def expects_bytes(self) -> bool:
        """True in the middle of a chunk: more bytes must come."""
        return not self._reader.between_chunks

    def begin(self, transport: asyncio.Transport, rest: bytes) -> None:
        """Takes over a connection, with the bytes that came behind the handshake."""
        self._transport = transport
        transport.set_protocol(self)
        while rest and not transport.is_closing():
            room = self.get_buffer(len(rest))
            count = min(len(room), len(rest))
            room[:count], rest = rest[:count], rest[count:]
            self.buffer_updated(count)

    def abort(self, why: str) -> None:
        """Ends the connection at once. Nothing that comes by it is written into memory any more."""
        self._why = self._why or why
        self._landings = {}
        self._reader = ChunkReader({})
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        reader = self._reader
        count = min(reader.left, _LARGEST_READ)
        if not count:
            return reader.header_room()
        landing = self._landings.get(reader.transfer)
        if landing is not None:
            try:
                return landing.room(count)
            except OSError as error:
                self._failed(reader.transfer, error.strerror or str(error))
                assert reader.progress() is None, f"{landing} has failed and is still to be filled"
        return _SCRATCH[:count]

    def buffer_updated(self, nbytes: int) -> None:
        self.total += nbytes
        reader = self._reader
        if reader.left:
            if reader.filled(nbytes):
                self._received(reader.transfer, self._landings[reader.transfer].position)
            return
        try:
            reader.header_filled(nbytes)
        except ProtocolViolation as error:
            self.abort(str(error))

    def eof_received(self) -> None:
        """The transport closes itself."""
        if not self._reader.between_chunks:
            self._why = self._why or "it ended in the middle of a chunk"

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed(self, self._why or (None if exc is None else str(exc)))


class BulkSender(asyncio.Protocol):
    """The end that writes.

    Args:
        sent: takes a transfer and a length: the socket has taken a chunk of so many bytes. They come in order.
        closed: called once when the connection has ended, with a reason, or None for a plain end.
    """

    def __init__(self, sent: Callable[[int, int], None], closed: Callable[[BulkSender, str | None], None]) -> None:
        self._sent = sent
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._why: str | None = None
        # The transport wants no more bytes.
        self._full = False
        # Chunks that the transport has not got: transfer, position, bytes.
        self._waiting: deque[tuple[int, int, memoryview]] = deque()
        # Chunks that the transport has: transfer, length, and ``_written`` behind the chunk.
        self._unsent: deque[tuple[int, int, int]] = deque()
        # Bytes that the transport has got, with headers.
        self._written = 0
        # ``report`` is about to run.
        self._reporting = False

    def __repr__(self) -> str:
        return (
            f"<BulkSender {'open' if self._transport else 'closed'} {len(self._waiting)} chunks wait, "
            f"{len(self._unsent)} are unsent>"
        )

    @property
    def has_unsent(self) -> bool:
        """True while the socket has not taken everything."""
        return bool(self._unsent or self._waiting)

    @property
    def taken(self) -> int:
        """Bytes that the socket has taken."""
        return self._written - (0 if self._transport is None else self._transport.get_write_buffer_size())

    def begin(self, transport: asyncio.Transport) -> None:
        """Takes over a connection."""
        self._transport = transport
        transport.set_protocol(self)
        # It gets a chunk when the socket has taken the last one, and calls ``resume_writing`` for each that waited.
        transport.set_write_buffer_limits(high=1, low=0)

    def write(self, transfer: int, position: int, view: memoryview) -> None:
        """Sends a chunk. The memory must not change before ``sent`` or ``closed``. Drops it if the connection ended."""
        if self._transport is None:
            return
        self._waiting.append((transfer, position, view))
        self._write_waiting()
        # Not at once: the caller orders more for each chunk that was sent. While a fast receiver empties the socket,
        # that would go on until the whole object is sent, and the loop would stand still.
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_soon(self.report)

    def _write_waiting(self) -> None:
        while self._waiting and not self._full and self._transport is not None:
            transfer, position, view = self._waiting.popleft()
            header = chunk_header(transfer, position, len(view))
            self._written += len(header) + len(view)
            self._unsent.append((transfer, len(view), self._written))
            # May call ``pause_writing``.
            self._transport.writelines((header, view))

    def report(self) -> None:
        """Calls ``sent`` for each chunk that the socket has taken. The owner calls it now and then."""
        self._reporting = False
        taken = self.taken
        while self._unsent and self._unsent[0][2] <= taken:
            transfer, length, _ = self._unsent.popleft()
            self._sent(transfer, length)

    def abort(self, why: str) -> None:
        """Ends the connection at once."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._write_waiting()
        self.report()

    def data_received(self, data: bytes) -> None:
        self.abort("it sends on a connection that it has to read")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._unsent.clear()
        self._closed(self, self._why or (None if exc is None else str(exc)))
