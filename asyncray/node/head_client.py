"""The node's way to the head: it asks for a nonce over HTTP, and opens a WebSocket with its proof in the headers.

Importing this module takes 200 ms, because it imports aiohttp. So only a node that joins a cluster does, in a thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp

from asyncray.io.addresses import join_address, parse_address
from asyncray.io.link_streams import FrameTaker
from asyncray.io.tls import NEEDS_FILES, Tls, explain, probing_context
from asyncray.io.websockets import WebSocketCarrier
from asyncray.wire.handshake import CLUSTER_SIZE, LINK_VERSION, NONCE_SIZE, HandshakeError
from asyncray.wire.head_proofs import WHY_HEADER, NodeProof
from asyncray.wire.link_frames import HEADER_LENGTH, LARGEST_BODY

_DEADLINE = aiohttp.ClientTimeout(total=3.0)
"""For one request, in seconds."""

_PAUSE = 0.1
"""Seconds between two tries to find the head."""

_LONGEST_ANSWER = 4096
"""Bytes of an answer that are read: a longer one is not the head's."""


class HeadRefusal(Exception):
    """The process at the head's address does not take this node, or the two do not fit. The text is for people.

    Args:
        is_proven: the process has proved that it is the head. Otherwise it may be another one that got its port.
    """

    def __init__(self, why: str, *, is_proven: bool = False) -> None:
        super().__init__(why)
        self.is_proven = is_proven


class HeadSilence(Exception):
    """Nobody answers at the address of the head, or not as a head does. The text is for people."""


ACCIDENTS = (HeadSilence, OSError, aiohttp.ClientError, TimeoutError)
"""Reasons that a connection could not be made, after which another try may succeed."""


class HeadClient:
    """Connects a node with the head of its cluster.

    Args:
        host, port: the address of the head's registry.
        token: the cluster's.
        node: the ID of this node.
        tls: None if the head does not speak TLS.
    """

    def __init__(self, host: str, port: int, token: bytes, node: bytes, tls: Tls | None = None) -> None:
        self.address = join_address(host, port)
        self._scheme = "http" if tls is None else "https"
        self._tls = tls
        # For each request: True is the default of aiohttp, which has no meaning without TLS.
        self._ssl: ssl.SSLContext | bool = True if tls is None else tls.client
        self._token = token
        self._node = node
        # The ID of the head's node and that of the cluster, once ``find`` has returned.
        self.head = b""
        self.cluster = b""

    def __repr__(self) -> str:
        return f"<HeadClient {self.address} {self.head.hex() or 'not found yet'}>"

    async def find(self, deadline: float) -> None:
        """Waits until the head answers.

        Args:
            deadline: in seconds.

        Raises:
            HeadSilence: nobody answers until then.
            HeadRefusal: the head speaks another version.
        """
        tries = 0
        problem: Exception | None = None
        try:
            async with asyncio.timeout(deadline), aiohttp.ClientSession(timeout=_DEADLINE) as session:
                while True:
                    tries += 1
                    try:
                        await self._ask(session)
                        return
                    except ACCIDENTS as error:
                        problem = error
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            why = _explained_silence(problem)
            count = "1 try" if tries == 1 else f"{tries} tries"
            raise HeadSilence(
                f"no head answers at {self.address}: {count} in {deadline:g} s, the last one: {why}"
            ) from None

    async def _ask(self, session: aiohttp.ClientSession) -> bytes:
        """Returns a nonce of the head."""
        try:
            return await self._ask_for_nonce(session)
        except (aiohttp.ClientError, ssl.SSLError) as error:
            why = await self._fault_of_tls(error)
            if why is not None:
                raise HeadRefusal(f"no connection to the head at {self.address}: {why}") from None
            if self._tls is not None and not isinstance(error, aiohttp.ClientConnectorError):
                certificate = self._tls.certificate
                raise HeadSilence(f"it ends connections, perhaps because of the certificate {certificate}") from None
            raise

    async def _fault_of_tls(self, error: Exception) -> str | None:
        """The reason that TLS does not work with the head, for people. None if TLS is not at fault."""
        for cause in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error):
            # aiohttp's own exceptions are of this type as well, without its attributes.
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
                return explain(cause, self._tls)
        if self._tls is None and not isinstance(error, aiohttp.ClientConnectorError) and await self._speaks_tls():
            return NEEDS_FILES
        return None

    async def _speaks_tls(self) -> bool:
        host, port = parse_address(self.address)
        try:
            _, writer = await asyncio.open_connection(host, port, ssl=probing_context())
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _ask_for_nonce(self, session: aiohttp.ClientSession) -> bytes:
        async with session.get(
            f"{self._scheme}://{self.address}/join", allow_redirects=False, ssl=self._ssl
        ) as response:
            if response.status != 200 or (response.content_length or _LONGEST_ANSWER + 1) > _LONGEST_ANSWER:
                raise HeadSilence(f"it answers {response.status}, as no head does")
            text = await response.read()
        try:
            answer = json.loads(text)
            version = answer["version"]
            head, cluster, nonce = (bytes.fromhex(answer[name]) for name in ("node", "cluster", "nonce"))
            if (len(cluster), len(nonce)) != (CLUSTER_SIZE, NONCE_SIZE):
                raise ValueError
        except (KeyError, TypeError, ValueError, RecursionError):
            raise HeadSilence("it answers, but not as a head does") from None
        if version != LINK_VERSION:
            raise HeadRefusal(
                f"the head at {self.address} speaks version {version!r:.20} of the protocol, this node {LINK_VERSION}: "
                "upgrade the older one"
            )
        if self.head not in (b"", head):
            raise HeadRefusal(f"another cluster answers at {self.address} now")
        self.head, self.cluster = head, cluster
        return nonce

    async def serve_connection(
        self,
        connected: Callable[[WebSocketCarrier], None],
        received: FrameTaker,
        closed: Callable[[WebSocketCarrier, str | None], None],
    ) -> None:
        """Connects, and returns when the connection has ended.

        Args:
            connected: called when both sides have proved that they know the token.
            received: takes each frame.
            closed: called when the connection has ended.

        Raises:
            HeadRefusal: the head turns this node away.
            HeadSilence, OSError, aiohttp.ClientError, TimeoutError: no connection could be made.
        """
        # The headers of the last answer: the WebSocket itself does not offer them.
        answer: dict[str, str] = {}

        async def keep(session: aiohttp.ClientSession, context: SimpleNamespace, ended: Any) -> None:
            answer.update(ended.response.headers)

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(keep)
        # A session for each connection: its end closes the socket, also of a head that does not read.
        async with aiohttp.ClientSession(timeout=_DEADLINE, trace_configs=[trace]) as session:
            async with asyncio.timeout(_DEADLINE.total):
                nonce = await self._ask(session)
                proof = NodeProof(self._token, self._node, self.head, nonce, os.urandom(NONCE_SIZE))
                try:
                    socket = await session.ws_connect(
                        f"{self._scheme}://{self.address}/stream",
                        ssl=self._ssl,
                        headers=proof.headers(),
                        compress=0,
                        max_msg_size=LARGEST_BODY + HEADER_LENGTH,
                    )
                except aiohttp.WSServerHandshakeError as error:
                    raise _explained(error, proof) from None
            try:
                proof.check(answer)
            except HandshakeError as error:
                raise HeadRefusal(f"{error}: is {self.address} its address?") from None
            carrier = WebSocketCarrier(socket, received, closed)
            connected(carrier)
            await carrier.run()


def _explained_silence(problem: Exception | None) -> str:
    """The failure of the last try, for people. None: it has not ended."""
    if problem is None:
        return "the connection is made, or on its way, and nothing comes"
    cause = getattr(problem, "os_error", problem)  # that of a connection that could not be made
    number = getattr(cause, "errno", None)
    return os.strerror(number) if number else str(cause) or f"no answer within {_DEADLINE.total:g} s"


def _explained(error: aiohttp.WSServerHandshakeError, proof: NodeProof) -> Exception:
    """The head's answer as an exception. By 401 and 403 the head refuses this node; other answers are accidents."""
    headers: Mapping[str, str] = error.headers or {}
    why = headers.get(WHY_HEADER, f"it answers {error.status}")
    if error.status not in (401, 403):
        return HeadSilence(why)
    return HeadRefusal(why, is_proven=proof.is_refused(headers, why))
