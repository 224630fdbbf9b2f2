"""Connections of a daemon, by real sockets and a real machine, in one process."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
import uvloop

from asyncray.core.machine import NodeMachine
from asyncray.core.records import Client
from asyncray.io import streams
from asyncray.messages import DISCONNECT, HELLO, REFUSED, REPLY, VERSION, WELCOME
from asyncray.node import doors
from asyncray.node.doors import Doors
from tests.node.peer import HELLO_OF_DRIVER, Peer

DEADLINE = 30.0


class Node:
    """A machine and its doors."""

    def __init__(self) -> None:
        self.machine = NodeMachine(os.urandom(8), {"CPU": 0}, "seg", 8192, {})
        self.doors = Doors(self.machine, self.changed)

    def changed(self) -> None:
        dirty, self.machine.outbox.dirty = self.machine.outbox.dirty, []
        self.doors.write(dirty)

    async def connect(self) -> Peer:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(self.doors.new_stream, sock=ours)
        return Peer(theirs)

    def driver(self) -> Client:
        return next(client for client in self.machine.clients.values() if client.role == "driver")


def run(main: Any) -> None:
    uvloop.run(asyncio.wait_for(main(), DEADLINE))


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        ((HELLO, VERSION + 1, "driver", {}), "upgrade the older one"),
        ((HELLO, VERSION, "driver", {"pid": 1}), "its greeting is incomplete"),
        ((HELLO, VERSION, "worker", {"pid": 1, "number": 5}), "this worker is not expected"),
        ((REPLY, 1, 2), "it did not say hello"),
    ],
)
def test_a_stranger_hears_why_it_is_refused(greeting: Any, why: str) -> None:
    async def main() -> None:
        node = Node()
        peer = await node.connect()
        await peer.say(greeting)
        ((kind, reason),) = await peer.hear(2)
        assert kind == REFUSED
        assert why in reason
        assert not node.machine.clients
        peer.close()

    run(main)


async def with_waiting_driver() -> tuple[Node, Peer]:
    """A node whose doors are closed, and its driver, which has said hello."""
    node = Node()
    node.doors.keep_closed()
    ours, theirs = socket.socketpair()
    await node.doors.let_in(ours)
    peer = Peer(theirs)
    await peer.say(HELLO_OF_DRIVER)
    while node.doors._early == []:
        await asyncio.sleep(0)
    return node, peer


def test_a_driver_waits_until_its_node_may_serve_it() -> None:
    async def main() -> None:
        node, peer = await with_waiting_driver()
        assert not node.machine.clients
        node.doors.open()
        assert (await peer.hear(1))[0][0] == WELCOME
        peer.close()

    run(main)


def test_a_driver_hears_why_its_node_never_serves_it() -> None:
    async def main() -> None:
        node, peer = await with_waiting_driver()
        node.doors.refuse("the token is wrong")
        assert tuple((await peer.hear(1))[0]) == (REFUSED, "the token is wrong")
        assert not node.machine.clients
        peer.close()

    run(main)


def test_a_node_stops_if_its_driver_ends_before_it_may_serve_it() -> None:
    async def main() -> None:
        node = Node()
        node.doors.keep_closed()
        ours, theirs = socket.socketpair()
        await node.doors.let_in(ours)
        Peer(theirs).close()
        while not node.machine.stopping:
            await asyncio.sleep(0)
        # It ends as one that never greeted.
        node.doors.refuse("its driver has ended")

    run(main)


def test_a_client_that_does_not_read_gets_all_of_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(streams, "_FULL", 1_000_000)
        node = Node()
        peer = await node.connect()
        await peer.say(HELLO_OF_DRIVER)
        assert (await peer.hear(1))[0][0] == WELCOME
        client = node.driver()
        for number in range(3000):
            node.machine.outbox.send(client, (REPLY, number, b"x" * 10_000))
        node.changed()
        stream = node.doors.stream_of(client)
        assert stream is not None
        assert stream.backlog < 20_000_000  # of 30 MB
        assert client.out
        node.machine.outbox.send(client, (REPLY, 3000, b""))
        node.changed()
        node.doors.tick()
        heard = await peer.hear(3001)
        assert [message[1] for message in heard] == list(range(3001))
        assert not client.out
        peer.close()

    run(main)


def test_a_client_that_leaves_too_much_unread_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(streams, "_FULL", 1_000_000)
        monkeypatch.setattr(doors, "MOST_UNSENT_MESSAGES", 100)
        node = Node()
        peer = await node.connect()
        await peer.say(HELLO_OF_DRIVER)
        await peer.hear(1)
        client = node.driver()
        for number in range(3000):
            node.machine.outbox.send(client, (REPLY, number, b"x" * 10_000))
        node.changed()
        node.doors.tick()
        while client.alive:
            await asyncio.sleep(0)
        assert node.doors.stream_of(client) is None
        peer.close()

    run(main)


def test_the_reason_for_the_end_reaches_a_client_that_has_much_to_read() -> None:
    """The process of a daemon ends after that, and with it the rest of what it has to write."""

    async def main() -> None:
        node = Node()
        await node.doors.wait_until_empty(DEADLINE)
        peer = await node.connect()
        await peer.say(HELLO_OF_DRIVER)
        await peer.hear_kind(WELCOME)
        node.machine.outbox.send(node.driver(), (REPLY, 1, b"x" * 2_000_000))
        node.changed()
        node.doors.close("it got SIGTERM")
        await node.doors.wait_until_empty(0)
        waiting = asyncio.create_task(node.doors.wait_until_empty(DEADLINE))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert (await peer.hear_kind(DISCONNECT))[1] == "it got SIGTERM"
        await waiting
        assert not node.machine.clients
        peer.close()

    run(main)


def test_a_lack_of_memory_in_the_middle_of_a_message_is_a_defect_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has done nothing wrong, and the core may have carried out half of the message."""

    async def main() -> None:
        found: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: found.append(context["exception"]))
        node = Node()
        peer = await node.connect()
        await peer.say(HELLO_OF_DRIVER)
        await peer.hear(1)
        error = MemoryError()
        monkeypatch.setattr(node.machine, "receive", raiser(error))
        await peer.say((REPLY, 1, 2), (REPLY, 1, 2))
        while not found:
            await asyncio.sleep(0)
        assert found[0] is error
        node.doors.close("its memory has run out", defect=True)
        assert await peer.hear(1) == [(DISCONNECT, "its memory has run out", True)]
        assert await peer.ended()
        peer.close()

    run(main)


def raiser(error: Exception) -> Any:
    def fail(*arguments: Any) -> None:
        raise error

    return fail
