"""The routes for nodes: the head refuses strangers, whatever they send."""

from __future__ import annotations

import os
import pickle
import random
from typing import Any

import aiohttp
import pytest

from asyncray.wire.head_proofs import NONCE_HEADER, PROOF_HEADER, WHY_HEADER, NodeProof
from asyncray.wire.link_frames import header
from tests.node.hosts import TOKEN, Host, cluster, until

NODE = b"node0001"


class Stranger:
    """A client of the head's HTTP server."""

    def __init__(self, session: aiohttp.ClientSession, head: Host) -> None:
        self._session = session
        self._head = head
        self.url = f"http://127.0.0.1:{head.address[1]}"

    async def headers(self, token: bytes = TOKEN, node: bytes = NODE) -> dict[str, str]:
        async with self._session.get(f"{self.url}/join") as response:
            nonce = bytes.fromhex((await response.json())["nonce"])
        return NodeProof(token, node, self._head.id, nonce, os.urandom(32)).headers()

    async def refused(self, headers: dict[str, str]) -> tuple[int, str]:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await self._session.ws_connect(f"{self.url}/stream", headers=headers)
        assert caught.value.headers is not None
        return caught.value.status, caught.value.headers[WHY_HEADER]

    async def connect(self, headers: dict[str, str]) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(f"{self.url}/stream", headers=headers, compress=15)


async def test_nobody_passes_without_the_token() -> None:
    async with cluster(1) as (head,), aiohttp.ClientSession() as session:
        stranger = Stranger(session, head)
        missing = (401, "the token is wrong, or missing")
        good = await stranger.headers()
        assert await stranger.refused(await stranger.headers(b"w" * 32)) == missing
        assert await stranger.refused({**good, PROOF_HEADER: "zz"}) == missing
        assert (await stranger.refused({}))[0] == 401
        stale = {**good, NONCE_HEADER: "00" * 32}
        assert await stranger.refused(stale) == missing  # the proof does not fit another nonce
        socket = await stranger.connect(good)
        assert await stranger.refused(good) == (409, "the nonce is too old or was used: ask for another one")
        assert socket.compress == 0  # although the client offered compression
        await socket.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/join", "/stream"])
async def test_other_verbs_are_refused(method: str, path: str) -> None:
    async with cluster(1) as (head,), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{head.address[1]}{path}"
        async with session.request(method, url) as response:
            assert response.status == 405


async def test_a_plain_request_with_a_good_proof_is_no_websocket() -> None:
    async with cluster(1) as (head,), aiohttp.ClientSession() as session:
        stranger = Stranger(session, head)
        async with session.get(f"{stranger.url}/stream", headers=await stranger.headers()) as response:
            assert response.status == 400


async def test_a_fenced_node_is_turned_away_with_the_reason() -> None:
    async with cluster(2) as (head, node), aiohttp.ClientSession() as session:
        assert head.head is not None
        head.head.machine.members.lose(node.id, "a test\nsays so é", 0.0)
        status, why = await Stranger(session, head).refused(await Stranger(session, head).headers(node=node.id))
        assert status == 403
        assert why == "the cluster has declared this node lost: a test says so \\xe9"


class Bomb:
    """Records it if the head loads the pickle."""

    loaded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "loaded", True)


async def test_bad_frames_of_a_node_end_its_connection_and_nothing_more() -> None:
    chance = random.Random(4)
    bomb = pickle.dumps(Bomb())
    async with cluster(2) as (head, node), aiohttp.ClientSession() as session:
        assert head.head is not None
        stranger = Stranger(session, head)
        for number in range(100):
            socket = await stranger.connect(await stranger.headers(node=os.urandom(8)))
            data = chance.randbytes(chance.randrange(60)) if number % 2 else header(bomb, 1, 0) + bomb
            await socket.send_bytes(data)
            while (await socket.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
            await socket.close()
        assert not Bomb.loaded
        await until(lambda: len(head.head.connections._carriers) == 1)  # type: ignore[union-attr]  # see above
        assert head.others() == {node.id}
        head.say(node.id, "still alive")
        assert await node.heard.get() == (head.id, "still alive")
