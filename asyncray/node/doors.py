"""The daemon's doors: let processes in, know the connection of each client, and write to it.

A connection must greet first, and within a deadline. While a client does not read, the daemon writes no more to it: its
messages wait in the core's outbox, where a result costs little beside the object itself. Only a client that leaves
millions of messages unread loses its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable

from asyncray.config import FRAME_LIMIT, GREETING_LIMIT, MOST_UNSENT_MESSAGES, START_DEADLINE
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Client, Party
from asyncray.io.credentials import Credentials, credentials_of
from asyncray.io.streams import MessageStream
from asyncray.messages import REFUSED, Received
from asyncray.node.greetings import refusal

_MOST_STRANGERS = 500
"""Connections that have not greeted yet. An honest client greets at once, so the oldest gives way."""

_CHUNK = 1000
"""Messages that are written before the next look at whether the client reads."""

log = logging.getLogger("asyncray.node")


class Doors:
    """The connections of all clients.

    Args:
        machine: decides what messages mean.
        changed: called after each event that the machine got from here.
    """

    def __init__(self, machine: NodeMachine, changed: Callable[[], None]) -> None:
        self._machine = machine
        self._changed = changed
        # The connection of the driver that started this node, if one did: the node ends with it.
        self._starter: MessageStream | None = None
        # The connections of parties that were let in, by number.
        self._streams: dict[int, MessageStream] = {}
        # The same the other way round.
        self._clients: dict[MessageStream, Client] = {}
        # The greeting of the starter while the node may serve no driver yet. None once it may: see ``open``.
        self._early: list[tuple[MessageStream, list[Received]]] | None = None
        # Connections that have not greeted, and the timers that end them.
        self._greeting: dict[MessageStream, asyncio.TimerHandle] = {}
        # Parties that do not read: their messages wait in ``out``.
        self._paused: dict[Party, None] = {}
        # Takes the messages for a party that has no connection here: drops them, unless the node has peers.
        self.write_elsewhere: Callable[[Party], None] = _drop
        # Set while there is no connection, after one has ended.
        self._emptied = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Doors {len(self._streams)} clients, {len(self._greeting)} strangers>"

    # Coming in --------------------------------------------------------------------------------------------------------

    def new_stream(self) -> MessageStream:
        """The daemon's end of a new connection."""
        self._emptied.clear()
        stream = MessageStream(GREETING_LIMIT, self._received, self._closed, self._drained)
        if len(self._greeting) >= _MOST_STRANGERS:
            oldest = next(iter(self._greeting))
            self._greeting.pop(oldest).cancel()
            oldest.abort(f"{_MOST_STRANGERS} others came before it said hello")
        self._greeting[stream] = self._loop.call_later(START_DEADLINE, stream.abort, "it did not say hello in time")
        return stream

    async def let_in(self, driver: socket.socket) -> None:
        """Serves the driver that started this node for itself."""
        driver.setblocking(False)  # noqa: FBT003 - takes no keyword
        starter = self._starter = self.new_stream()
        await self._loop.create_connection(lambda: starter, sock=driver)

    def keep_closed(self) -> None:
        """Greetings wait from now on until ``open`` or ``refuse``. The end of the starter counts at once."""
        self._early = []

    def open(self) -> None:
        """The node serves drivers from now on."""
        early, self._early = self._early or (), None
        for stream, messages in early:
            self._received(stream, messages)

    def refuse(self, why: str) -> None:
        """The node never serves a driver: the starter learns why, if it still waits."""
        early, self._early = self._early or (), None
        for stream, _ in early:
            stream.send([(REFUSED, why)])
            stream.close()

    def _received(self, stream: MessageStream, messages: list[Received]) -> None:
        if self._early is not None:
            # Only the starter can be connected, and it waits for its welcome before it says more.
            self._early.append((stream, messages))
            return
        self._machine.now = self._loop.time()
        client = self._clients.get(stream)
        try:
            if client is None:
                client = self._greet(stream, messages[0])
                messages = messages[1:]
                if client is None:
                    return
            self._machine.receive(client, messages)
        except MemoryError as error:
            # The client has done nothing wrong, and the core may have carried out half of the message.
            self._loop.call_exception_handler({"message": "a message was lost", "exception": error})
        except Exception:  # the messages are invalid: the client ends, not the node
            log.exception("%s sent an invalid message", client or "a stranger")
            stream.disconnect("it sent an invalid message")
        self._changed()

    def _greet(self, stream: MessageStream, message: Received) -> Client | None:
        why = refusal(message, _peer_of(stream))
        if why is None and self._machine.stopping:
            why = "the node is stopping"
        client = None if why is not None else self._admit(message)
        if client is None:
            why = why or "this worker is not expected"
            log.warning("a connection was refused: %s", why)
            stream.send([(REFUSED, why)])
            stream.close()
            return None
        timer = self._greeting.pop(stream, None)
        if timer is not None:
            timer.cancel()
        stream.set_limit(FRAME_LIMIT)
        self._streams[client.number] = stream
        self._clients[stream] = client
        return client

    def _admit(self, message: Received) -> Client | None:
        _, _, role, info = message
        if role == "driver":
            return self._machine.driver_connected(info["pid"], info["namespace"], info["setup"])
        if role == "worker":
            return self._machine.worker_connected(info["number"], info["pid"])
        return self._machine.observer_connected(info["pid"])

    # Being in ---------------------------------------------------------------------------------------------------------

    def stream_of(self, party: Party) -> MessageStream | None:
        """The connection of a party, if it still has one."""
        return self._streams.get(party.number)

    def write(self, parties: Iterable[Party]) -> None:
        """Writes the machine's messages for these parties, in one batch for each."""
        for party in parties:
            stream = self._streams.get(party.number)
            if stream is None:
                self.write_elsewhere(party)
            elif party.out:
                self._write(party, stream)

    def _write(self, party: Party, stream: MessageStream) -> None:
        messages, party.out = party.out, []
        if len(messages) <= _CHUNK and not stream.is_full:  # the hot path
            stream.send(messages)
            return
        for start in range(0, len(messages), _CHUNK):
            if stream.is_full:
                party.out = messages[start:]
                self._paused[party] = None
                return
            stream.send(messages[start : start + _CHUNK] if len(messages) > _CHUNK else messages)

    def _drained(self, stream: MessageStream) -> None:
        """The client reads again."""
        client = self._clients.get(stream)
        if client is not None and client in self._paused:
            del self._paused[client]
            self._write(client, stream)

    def tick(self) -> None:
        """Some time has passed: clients that left too much unread are cut off."""
        for party in list(self._paused):
            if len(party.out) > MOST_UNSENT_MESSAGES:
                self._streams[party.number].abort(f"it has left {len(party.out)} messages unread")

    # Going out --------------------------------------------------------------------------------------------------------

    def _closed(self, stream: MessageStream, why: str | None) -> None:
        timer = self._greeting.pop(stream, None)
        if timer is not None:
            timer.cancel()
        if stream in self._clients:
            stream.drain_input()
        client = self._clients.pop(stream, None)
        if why is not None:
            log.warning("the connection of %s was closed: %s", client or "a stranger", why)
        self._machine.now = self._loop.time()
        if client is not None:
            self._streams.pop(client.number, None)
            self._paused.pop(client, None)
            self._machine.client_disconnected(client)
        if stream is self._starter:
            self._machine.stop("its driver has ended")
        self._changed()
        if not self._streams and not self._greeting:
            self._emptied.set()

    def close(self, why: str, *, defect: bool = False) -> None:
        """Closes all connections once the messages for them, and the reason, are written."""
        for stream in [*self._streams.values(), *self._greeting]:
            stream.disconnect(why, defect=defect)

    async def wait_until_empty(self, deadline: float) -> None:
        """After ``close``: waits until the clients have read everything, or for so many seconds."""
        if self._streams or self._greeting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await self._emptied.wait()


def _drop(party: Party) -> None:
    party.out = []


def _peer_of(stream: MessageStream) -> Credentials | None:
    transport = stream.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    return None if connection is None else credentials_of(connection)
