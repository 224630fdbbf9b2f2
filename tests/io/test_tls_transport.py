"""TLS under a protocol: bytes both ways, other protocols, failures in words, and input that is read to the end."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from asyncray.io.addresses import listen_at
from asyncray.io.socket_protocol import SocketProtocol
from asyncray.io.tls import Tls
from asyncray.io.tls_transport import TlsProtocol, secured
from tests.certificates import tls_of

DEADLINE = 20.0


class End(SocketProtocol):
    """One end of a connection: keeps the bytes that come, and why it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""
        self.why: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def ended(self, why: str | None) -> None:
        self.why.set_result(why)

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Buffered(asyncio.BufferedProtocol):
    """Takes bytes into a buffer of its own, which is small."""

    def __init__(self) -> None:
        self._room = bytearray(100)
        self.heard = b""

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += self._room[:nbytes]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def connected(server_tls: Tls | None, client_tls: Tls | None) -> AsyncIterator[tuple[End, End]]:
    """A server's end and a client's."""
    loop = asyncio.get_running_loop()
    ends: list[End] = []

    def accept() -> asyncio.BaseProtocol:
        ends.append(End())
        return secured(ends[0], server_tls, is_server=True)

    listener = listen_at("127.0.0.1", 0)
    server = await loop.create_server(accept, sock=listener)
    client = End()
    async with asyncio.timeout(DEADLINE):
        await loop.create_connection(lambda: secured(client, client_tls, is_server=False), *listener.getsockname())
        await until(lambda: ends)
        yield ends[0], client
        for end in (ends[0], client):
            end.abort()
            await end.why
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("tls", [None, tls_of("good")], ids=["plain", "tls"])
async def test_bytes_go_both_ways_in_order(tls: Tls | None) -> None:
    data = bytes(range(256)) * 10_000
    async with connected(tls, tls) as (server, client):
        client.say(b"first ")
        client.say(b"second ")
        assert client.transport is not None
        client.transport.writelines([memoryview(data), b"", b"end"])
        server.say(b"answer")
        await until(lambda: server.heard.endswith(b"end"))
        assert server.heard == b"first second " + data + b"end"
        await until(lambda: client.heard == b"answer")
        server.close()
        assert await client.why is None


async def test_the_bytes_on_the_wire_are_encrypted() -> None:
    heard: list[bytes] = []

    class Relay(TlsProtocol):
        def data_received(self, data: bytes) -> None:
            heard.append(data)
            super().data_received(data)

    loop = asyncio.get_running_loop()
    listener = listen_at("127.0.0.1", 0)
    end, client, tls = End(), End(), tls_of("good")
    server = await loop.create_server(lambda: Relay(end, tls, is_server=True), sock=listener)
    async with asyncio.timeout(DEADLINE):
        await loop.create_connection(lambda: secured(client, tls, is_server=False), *listener.getsockname())
        client.say(b"a secret" * 10)
        await until(lambda: end.heard == b"a secret" * 10)
        assert b"secret" not in b"".join(heard)
        for one in (end, client):
            one.abort()
            await one.why
    server.close()
    await server.wait_closed()


async def test_a_client_can_tell_the_end_from_a_broken_connection() -> None:
    tls = tls_of("good")
    end = End()
    listener = listen_at("127.0.0.1", 0)
    server = await asyncio.get_running_loop().create_server(lambda: secured(end, tls, is_server=True), sock=listener)

    def read_all() -> bytes:
        with (
            socket.create_connection(listener.getsockname(), DEADLINE) as connection,
            tls.client.wrap_socket(connection, suppress_ragged_eofs=False) as secure,
        ):
            secure.send(b"hello")
            return b"".join(iter(lambda: secure.recv(100), b""))

    async with asyncio.timeout(DEADLINE):
        reading = asyncio.create_task(asyncio.to_thread(read_all))
        await until(lambda: end.heard == b"hello")
        end.say(b"answer")
        assert end.transport is not None
        end.transport.close()
        end.say(b"late")
        assert await reading == b"answer"
        await end.why
    server.close()
    await server.wait_closed()


async def test_another_protocol_may_take_the_transport_over() -> None:
    tls = tls_of("good")
    async with connected(tls, tls) as (server, client):
        client.say(b"first")
        await until(lambda: server.heard == b"first")
        assert server.transport is not None
        buffered = Buffered()
        server.transport.set_protocol(buffered)
        assert server.transport.get_protocol() is buffered
        client.say(bytes(1000) + b"end")
        await until(lambda: buffered.heard == bytes(1000) + b"end")
        assert server.heard == b"first"
        server.transport.set_protocol(server)


@pytest.mark.parametrize(
    ("server_tls", "client_tls", "words"),
    [
        (tls_of("good"), tls_of("other"), "its certificate is not good for .*other-ca.pem"),
        (None, tls_of("good"), "it does not speak TLS"),
    ],
)
async def test_a_failure_is_said_in_words(server_tls: Tls | None, client_tls: Tls | None, words: str) -> None:
    async with connected(server_tls, client_tls) as (server, client):
        if server_tls is None:
            server.say(b"hello, this is no TLS")
        why = await asyncio.shield(client.why)
        assert why is not None
        assert re.search(words, why)


async def test_a_server_says_why_it_does_not_take_a_certificate() -> None:
    async with connected(tls_of("good"), tls_of("other", authority="good")) as (server, client):
        client.say(b"secret")
        ends = [await asyncio.shield(end.why) for end in (server, client)]
        assert "its certificate is not good for" in str(ends[0])
        assert "it does not accept the certificate" in str(ends[1])
        assert server.heard == b""


async def test_a_stranger_that_speaks_no_tls_gets_nothing() -> None:
    async with connected(tls_of("good"), None) as (server, client):
        client.say(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.shield(server.why) == "it does not speak TLS"
        assert server.heard == b""


@pytest.mark.parametrize("tls", [None, tls_of("good")], ids=["plain", "tls"])
async def test_r5_input_that_is_left_in_the_socket_is_read_to_the_end(tls: Tls | None) -> None:
    async with connected(tls, tls) as (server, client):
        server.say(b"hello")
        await until(lambda: client.heard == b"hello")
        transport = client.transport
        assert transport is not None
        transport.pause_reading()
        data = bytes(range(256)) * 200
        server.say(data)
        server.close()
        await server.why
        assert client._descriptor is not None
        readable = select.poll()
        readable.register(client._descriptor, select.POLLIN | select.POLLRDHUP)
        await until(lambda: any(events & select.POLLRDHUP for _, events in readable.poll(0)))
        assert client.heard == b"hello"
        client.drain_input()
        assert client.heard == b"hello" + data


async def test_input_after_the_end_that_is_no_record_is_dropped() -> None:
    tls = tls_of("good")
    async with connected(tls, tls) as (server, client):
        server.say(b"hello")
        await until(lambda: client.heard == b"hello")
        assert client._decrypt is not None
        assert client._decrypt(bytes(100)) == b""


async def test_the_transport_is_that_of_the_socket_otherwise() -> None:
    tls = tls_of("good")
    async with connected(tls, tls) as (server, client):
        transport = cast(asyncio.Transport, client.transport)
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        assert transport.get_extra_info("nothing", 7) == 7
        transport.set_write_buffer_limits(high=10)
        assert transport.get_write_buffer_size() == 0
        transport.pause_reading()
        server.say(b"hello")
        transport.resume_reading()
        await until(lambda: client.heard == b"hello")
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
