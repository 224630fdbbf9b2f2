"""The bulk connections of a daemon: they carry the bytes of large objects between its store and other nodes'.

Performs the bulk commands of ``asyncray.core.cluster.commands``, and reports what happened. Nothing is decided here,
but for one thing: a connection that makes no progress although bytes are to come is broken.

1. To each node to which this one sends, it dials one connection, with the handshake of every connection between
   daemons and the role BULK. If the last one moved no byte, a pause comes before the next, because the core orders at
   once again what was under way.
2. From each node there is at most one connection. A new one replaces the old one: the sender knows that the old one is
   broken, and this side does not yet. Everything that was expected by the old one has failed then; some of it may come
   by the new one, and is dropped, because the core orders it again.
3. Transfers are known by their numbers within a node, so no node can write into memory that waits for another's bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from asyncray.core.cluster.commands import CloseBulk, ReceiveRange, SendRange, StopReceiving
from asyncray.io.bulk_streams import BulkReceiver, BulkSender, Landing
from asyncray.io.link_streams import LinkStream
from asyncray.io.segments import SegmentMap
from asyncray.wire.handshake import DialerHandshake

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
"""Seconds between two dials after which no byte moved: they double from the first to the longest."""

DIAL_DEADLINE = 3.0
"""Seconds until the other node must have taken a connection."""

STALLED_AFTER = 10.0
"""Seconds without a byte, although some are to come, after which a connection is broken."""

_LONGEST_STEP = 1.0
"""Seconds between two ticks count as no more: if the own loop stood still, the other side is not to blame."""

log = logging.getLogger("asyncray.node")


class BulkEvents(Protocol):
    """Learns what happened: ``ClusterMachine``. See ``asyncray.core.cluster.commands``."""

    def range_sent(self, node: bytes, transfer: int, length: int, now: float) -> None: ...
    def sending_failed(self, node: bytes, now: float) -> None: ...
    def range_received(self, node: bytes, transfer: int, position: int, now: float) -> None: ...
    def range_failed(self, node: bytes, transfer: int, why: str, now: float) -> None: ...
    def receiving_failed(self, node: bytes, now: float) -> None: ...


class _Progress:
    """Measures how long a connection has made no progress."""

    __slots__ = ("_bytes", "_quiet")

    def __init__(self) -> None:
        self._bytes = 0
        # Seconds of the own loop's time.
        self._quiet = 0.0

    def is_stalled(self, count: int, seconds: float, *, waits: bool) -> bool:
        """Some time has passed. Returns True if nothing has moved for too long.

        Args:
            count: bytes that have moved since the connection began.
            seconds: since the last call.
            waits: bytes are to come.
        """
        self._quiet = self._quiet + seconds if waits and count == self._bytes else 0.0
        self._bytes = count
        return self._quiet >= STALLED_AFTER


class _Destination:
    """A node that this one sends to."""

    __slots__ = ("attempt", "id", "pause", "progress", "stream", "waiting")

    def __init__(self, node: bytes) -> None:
        self.id = node
        self.stream: BulkSender | None = None
        # The connection that is being made.
        self.attempt: LinkStream | None = None
        # Seconds before the next dial.
        self.pause = 0.0
        # Commands that wait for the connection. The core bounds them: it orders more only when bytes were sent.
        self.waiting: deque[SendRange] = deque()
        self.progress = _Progress()


class _BulkSource:
    """A node that this one gets bytes from."""

    __slots__ = ("id", "landings", "progress", "stream")

    def __init__(self, node: bytes) -> None:
        self.id = node
        self.stream: BulkReceiver | None = None
        # The memory of the transfers that are expected, by their numbers.
        self.landings: dict[int, Landing] = {}
        self.progress = _Progress()


class BulkShell:
    """The bulk connections of one daemon.

    Args:
        clock: returns seconds on a steady clock.
        handshake: makes the handshake for a dial to a node.
        connect: connects a stream to a node. Raises OSError.
        spawn: runs a dial as a task that ends with the daemon.
        request_flush: makes the daemon perform commands and write messages in this turn of the loop.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        handshake: Callable[[bytes], DialerHandshake],
        connect: Callable[[bytes, LinkStream], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        request_flush: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._handshake = handshake
        self._connect = connect
        self._spawn = spawn
        self._request_flush = request_flush
        # Set before the first command.
        self.events: BulkEvents
        self._destinations: dict[bytes, _Destination] = {}
        self._sources: dict[bytes, _BulkSource] = {}
        # Stays mapped until the segment is retired: the first write to a page by this process costs a fault.
        self._segments = SegmentMap()
        self.perform: dict[type, Callable[[Any], None]] = {
            SendRange: self._send,
            ReceiveRange: self._receive,
            StopReceiving: self._stop,
            CloseBulk: self._close_node,
        }

    def __repr__(self) -> str:
        return f"<BulkShell sends to {len(self._destinations)}, gets from {len(self._sources)} nodes>"

    # Sending ----------------------------------------------------------------------------------------------------------

    def _send(self, command: SendRange) -> None:
        destination = self._destinations.get(command.node)
        if destination is None:
            destination = self._destinations[command.node] = _Destination(command.node)
        if destination.stream is not None:
            self._write(destination.stream, command)
            return
        destination.waiting.append(command)
        if destination.attempt is None:
            closed = partial(self._dial_failed, destination)
            shaken = partial(self._answered, destination)
            destination.attempt = LinkStream(self._handshake(command.node), shaken, _no_frames, closed)
            self._spawn(self._dial(destination, destination.attempt))

    def _write(self, stream: BulkSender, command: SendRange) -> None:
        try:
            buffer = self._segments.writable(command.segment).buf
        except OSError as error:
            stream.abort(f"segment {command.segment} cannot be mapped: {error}")
            return
        stream.write(command.transfer, command.position, buffer[command.offset : command.offset + command.length])

    async def _dial(self, destination: _Destination, attempt: LinkStream) -> None:
        if destination.pause:
            await asyncio.sleep(destination.pause)
        destination.pause = min(max(2 * destination.pause, FIRST_PAUSE), LONGEST_PAUSE)
        if destination.attempt is not attempt:
            return  # the node was lost
        try:
            async with asyncio.timeout(DIAL_DEADLINE):
                await self._connect(destination.id, attempt)
        except (OSError, TimeoutError) as error:
            self._dial_failed(destination, attempt, str(error) or "nobody answers")

    def _answered(self, destination: _Destination, attempt: LinkStream) -> None:
        """The node has proved who it is."""
        if destination.attempt is not attempt:
            attempt.abort()  # it was lost
            return
        destination.attempt = None
        stream = BulkSender(partial(self._sent, destination), partial(self._sender_closed, destination))
        destination.stream, destination.progress = stream, _Progress()
        stream.begin(attempt.hand_over()[0])
        waiting, destination.waiting = destination.waiting, deque()
        for command in waiting:
            self._write(stream, command)

    def _dial_failed(self, destination: _Destination, attempt: LinkStream, why: str | None) -> None:
        if destination.attempt is attempt:
            destination.attempt = None
            self._sending_failed(destination, why or "it has hung up")

    def _sender_closed(self, destination: _Destination, stream: BulkSender, why: str | None) -> None:
        if destination.stream is stream:
            destination.stream = None
            self._sending_failed(destination, why or "it has hung up")

    def _sending_failed(self, destination: _Destination, why: str) -> None:
        log.info("no bulk connection to node %s: %s", destination.id.hex(), why)
        destination.waiting.clear()
        self.events.sending_failed(destination.id, self._clock())
        self._request_flush()

    def _sent(self, destination: _Destination, transfer: int, length: int) -> None:
        destination.pause = 0.0
        self.events.range_sent(destination.id, transfer, length, self._clock())
        self._request_flush()

    # Receiving --------------------------------------------------------------------------------------------------------

    def accept(self, stream: LinkStream) -> None:
        """Another node of the cluster has made a bulk connection, and has proved who it is."""
        source = self._source(stream.handshake.peer)
        old, source.stream = source.stream, None
        if old is not None:
            old.abort("another one replaces it")
            self._receiving_failed(source, "another one replaces it")
        receiver = BulkReceiver(
            source.landings,
            partial(self._received, source),
            partial(self._failed, source),
            partial(self._receiver_closed, source),
        )
        source.stream, source.progress = receiver, _Progress()
        receiver.begin(*stream.hand_over())

    def _source(self, node: bytes) -> _BulkSource:
        source = self._sources.get(node)
        if source is None:
            source = self._sources[node] = _BulkSource(node)
        return source

    def _receive(self, command: ReceiveRange) -> None:
        source = self._source(command.node)
        try:
            segment = self._segments.writable(command.segment)
        except OSError as error:
            self.events.range_failed(command.node, command.transfer, str(error), self._clock())
            return
        place = segment, command.offset, command.size, command.position
        source.landings[command.transfer] = Landing(*place, warm=command.warm)

    def _stop(self, command: StopReceiving) -> None:
        source = self._sources.get(command.node)
        if source is not None:
            source.landings.pop(command.transfer, None)

    def _received(self, source: _BulkSource, transfer: int, position: int) -> None:
        if position == source.landings[transfer].size:
            del source.landings[transfer]
        self.events.range_received(source.id, transfer, position, self._clock())
        self._request_flush()

    def _failed(self, source: _BulkSource, transfer: int, why: str) -> None:
        del source.landings[transfer]
        self.events.range_failed(source.id, transfer, why, self._clock())
        self._request_flush()

    def _receiver_closed(self, source: _BulkSource, stream: BulkReceiver, why: str | None) -> None:
        if source.stream is stream:
            source.stream = None
            self._receiving_failed(source, why or "it has hung up")

    def _receiving_failed(self, source: _BulkSource, why: str) -> None:
        log.info("a bulk connection from node %s has ended: %s", source.id.hex(), why)
        source.landings.clear()
        self.events.receiving_failed(source.id, self._clock())
        self._request_flush()

    # Memory, time, the end --------------------------------------------------------------------------------------------

    def retired(self, segment: str) -> None:
        """A segment does not exist any more."""
        self._segments.forget(segment)

    def tick(self, seconds: float) -> None:
        """Some time has passed: breaks connections that stand still."""
        seconds = min(seconds, _LONGEST_STEP)
        for destination in list(self._destinations.values()):
            sender = destination.stream
            if sender is not None:
                sender.report()
                if destination.progress.is_stalled(sender.taken, seconds, waits=sender.has_unsent):
                    sender.abort(f"it has taken nothing for {STALLED_AFTER:g} s")
        for source in list(self._sources.values()):
            stream = source.stream
            if stream is not None and source.progress.is_stalled(stream.total, seconds, waits=stream.expects_bytes):
                stream.abort(f"nothing has come for {STALLED_AFTER:g} s, in the middle of a chunk")

    def _close_node(self, command: CloseBulk) -> None:
        destination = self._destinations.pop(command.node, None)
        if destination is not None:
            attempt, destination.attempt = destination.attempt, None
            sender, destination.stream = destination.stream, None
            if attempt is not None:
                attempt.abort()
            if sender is not None:
                sender.abort("the node has ended")
        source = self._sources.pop(command.node, None)
        if source is not None and source.stream is not None:
            stream, source.stream = source.stream, None
            stream.abort("the node has ended")

    def close(self) -> None:
        """The daemon ends: closes all connections, and reports nothing from then on."""
        for node in [*self._destinations, *self._sources]:
            self._close_node(CloseBulk(node))
        self._segments.close()


def _no_frames(*frame: object) -> None:
    """A bulk connection has none: the stream is exchanged before it decodes anything."""
