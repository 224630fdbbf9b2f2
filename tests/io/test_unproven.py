"""Connections without a proof at a server that would take any number of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from asyncray.io import strangers, unproven
from asyncray.io.strangers import Strangers
from asyncray.io.unproven import UnprovenConnections


class Echo(asyncio.Protocol):
    """Sends each message back. The word "proof" proves that the connection may stay."""

    def __init__(self, connections: UnprovenConnections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data == b"proof":
            self._connections.proven(self.transport)
        self.transport.write(data)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[UnprovenConnections, int]]:
    """A server and its port."""
    connections = UnprovenConnections(Strangers(), lambda address: False)
    make = connections.guard(lambda: Echo(connections))
    async with asyncio.timeout(20.0):
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        yield connections, server.sockets[0].getsockname()[1]
        server.close()
        while repr(connections) != "<UnprovenConnections 0>":
            await asyncio.sleep(0)


async def answer(port: int, words: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    try:
        return await reader.read(100), reader, writer
    except ConnectionResetError:
        return b"", reader, writer


async def test_an_address_has_a_limit_until_its_connections_prove_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST_OF_ADDRESS", 2)
    async with served() as (connections, port):
        made = [await answer(port, words) for words in (b"a", b"b", b"c")]
        assert [words for words, _, _ in made] == [b"a", b"b", b""]
        made.append(await answer(port, b"d"))
        assert made[-1][0] == b""
        _, reader, writer = made[0]
        writer.write(b"proof")
        assert await reader.read(100) == b"proof"
        assert repr(connections) == "<UnprovenConnections 1>"
        made.append(await answer(port, b"e"))
        assert made[-1][0] == b"e"
        for _, _, writer in made:
            writer.close()


async def test_a_connection_without_a_proof_ends_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unproven, "PROOF_DEADLINE", 0.01)
    async with served() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            assert await reader.read(100) == b""
        except ConnectionResetError:
            pass
        writer.close()
