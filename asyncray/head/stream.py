"""The routes of the registry for nodes: a nonce, and the WebSocket that carries a node's link with the head.

A node has no bearer token. It proves in the headers of its request that it knows the cluster's token; only then a
WebSocket exists, with the limits of a link and without compression. Strangers get one line and no more.
"""

from __future__ import annotations

import asyncio
import logging
import os

from aiohttp import web

from asyncray.head.head_shell import HeadShell
from asyncray.io.websockets import CLOSE_DEADLINE, WebSocketCarrier
from asyncray.wire.handshake import LINK_VERSION, HandshakeError
from asyncray.wire.head_proofs import PROOF_HEADER, WHY_HEADER, StaleNonce
from asyncray.wire.link_frames import HEADER_LENGTH, LARGEST_BODY

log = logging.getLogger("asyncray.node")


class NodeStream:
    """Answers nodes.

    Args:
        shell: the head.
    """

    def __init__(self, shell: HeadShell) -> None:
        self._shell = shell

    def __repr__(self) -> str:
        return f"<NodeStream {self._shell}>"

    def routes(self) -> tuple[web.RouteDef, ...]:
        """The routes."""
        return web.get("/join", self._join, allow_head=False), web.get("/stream", self._stream, allow_head=False)

    async def _join(self, request: web.Request) -> web.Response:
        nonce = self._shell.proofs.new_nonce(_now(), os.urandom(8))
        return web.json_response(
            {
                "version": LINK_VERSION,
                "node": self._shell.machine.node.hex(),
                "cluster": self._shell.cluster.hex(),
                "nonce": nonce.hex(),
            }
        )

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        try:
            node = self._shell.proofs.answer(request.headers, _now())
        except StaleNonce as error:
            raise _refusal(web.HTTPConflict, str(error)) from None
        except HandshakeError as error:
            self._shell.strangers.failed(request.remote or "", str(error), _now())
            raise _refusal(web.HTTPUnauthorized, str(error)) from None
        why = self._shell.machine.members.fenced(node.id)
        if why is not None:
            refusal = _refusal(web.HTTPForbidden, why)
            refusal.headers[PROOF_HEADER] = node.refusal(refusal.headers[WHY_HEADER])
            raise refusal
        self._shell.unproven.proven(request.transport)
        socket = web.WebSocketResponse(
            timeout=CLOSE_DEADLINE, compress=False, max_msg_size=LARGEST_BODY + HEADER_LENGTH
        )
        socket.headers[PROOF_HEADER] = node.proof()
        await socket.prepare(request)
        carrier = WebSocketCarrier(socket, self._shell.connections.arrived, self._shell.connections.ended)
        self._shell.connected(node.id, carrier)
        await carrier.run()
        return socket


def _now() -> float:
    return asyncio.get_running_loop().time()


def _refusal(kind: type[web.HTTPException], why: str) -> web.HTTPException:
    line = " ".join(why.split()).encode("ascii", "backslashreplace").decode()
    return kind(text=f"{line}\n", headers={WHY_HEADER: line})
