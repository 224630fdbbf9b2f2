"""The proofs of a node and the head to each other: in the headers of the request that opens their WebSocket.

A node asks the head for a nonce, and sends its proof with the upgrade of the connection, so that no WebSocket exists
before the node has proved that it knows the cluster's token. The answer carries the head's proof. Both nonces, both
NodeIDs and the version are in each proof, and the labels differ: as in ``asyncray.wire.handshake``.

The head remembers no nonce that it gives, so strangers who ask for many cost it nothing: a nonce holds its time and a
mark that only this head can make. It remembers those that were used with a good proof, until they are too old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from struct import Struct
from typing import Final

from asyncray.wire.handshake import LINK_VERSION, NONCE_SIZE, HandshakeError, proof

NODE_HEADER: Final = "Asyncray-Node"
VERSION_HEADER: Final = "Asyncray-Version"
NONCE_HEADER: Final = "Asyncray-Nonce"
OWN_NONCE_HEADER: Final = "Asyncray-Own-Nonce"
PROOF_HEADER: Final = "Asyncray-Proof"

WHY_HEADER: Final = "Asyncray-Why"
"""In an answer: why the head does not take the node, in one line."""

NONCE_LIFE = 10.0
"""Seconds for which a nonce of the head is good."""

_NODE_SIZE = 8
_PROOF_SIZE = hashlib.sha256().digest_size
_NONCE_BODY = Struct(">d8s")


class StaleNonce(HandshakeError):
    """The nonce is too old or was used: nobody's fault. The node must ask for another one."""


class NodeProof:
    """The node's side of one attempt.

    Args:
        token: the cluster's.
        node: the ID of the node.
        head: the ID of the head's node.
        nonce: the head's.
        own_nonce: random bytes, never used before.
    """

    def __init__(self, token: bytes, node: bytes, head: bytes, nonce: bytes, own_nonce: bytes) -> None:
        self._token = token
        self._node = node
        self._nonces = nonce, own_nonce
        self._transcript = _transcript(node, head, nonce, own_nonce)

    def __repr__(self) -> str:
        return f"<NodeProof of {self._node.hex()}>"

    def headers(self) -> dict[str, str]:
        """The headers of the request."""
        return {
            NODE_HEADER: self._node.hex(),
            VERSION_HEADER: str(LINK_VERSION),
            NONCE_HEADER: self._nonces[0].hex(),
            OWN_NONCE_HEADER: self._nonces[1].hex(),
            PROOF_HEADER: proof(self._token, "node", self._transcript).hex(),
        }

    def check(self, headers: Mapping[str, str]) -> None:
        """Looks at the headers of the answer.

        Raises:
            HandshakeError: the other side does not know the token.
        """
        given = _bytes_of(headers, PROOF_HEADER, _PROOF_SIZE)
        if not hmac.compare_digest(given, proof(self._token, "head", self._transcript)):
            raise HandshakeError("the head does not know the token of this cluster")

    def is_refused(self, headers: Mapping[str, str], why: str) -> bool:
        """True if the head has proved that it refuses this node. Another process at its port may claim so, too."""
        try:
            given = _bytes_of(headers, PROOF_HEADER, _PROOF_SIZE)
        except HandshakeError:
            return False
        return hmac.compare_digest(given, proof(self._token, "refusal", self._transcript + why.encode()))


class ProvenNode:
    """A node that has proved to the head that it knows the token, and the head's proofs to it.

    Args:
        node: its ID.
    """

    def __init__(self, token: bytes, node: bytes, transcript: bytes) -> None:
        self._token = token
        self._transcript = transcript
        self.id = node

    def __repr__(self) -> str:
        return f"<ProvenNode {self.id.hex()}>"

    def proof(self) -> str:
        """The proof of a head that takes the node."""
        return proof(self._token, "head", self._transcript).hex()

    def refusal(self, why: str) -> str:
        """The proof of a head that refuses the node, for a reason."""
        return proof(self._token, "refusal", self._transcript + why.encode()).hex()


class HeadProofs:
    """The head's side of all attempts.

    Args:
        token: the cluster's.
        head: the ID of the head's node.
        secret: random bytes that only the head knows.
    """

    def __init__(self, token: bytes, head: bytes, secret: bytes) -> None:
        self._token = token
        self._head = head
        self._secret = secret
        # Nonces that came with a good proof and are not too old yet -> their time. The oldest first.
        self._used: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<HeadProofs {len(self._used)} nonces used>"

    def new_nonce(self, now: float, random: bytes) -> bytes:
        """Returns a nonce.

        Args:
            now: in seconds on a steady clock.
            random: 8 bytes.
        """
        body = _NONCE_BODY.pack(now, random)
        return body + self._mark(body)

    def answer(self, headers: Mapping[str, str], now: float) -> ProvenNode:
        """Looks at the headers of a request. Returns the node.

        Raises:
            StaleNonce: the node must ask for another nonce.
            HandshakeError: the node does not fit, or does not know the token.
        """
        version = headers.get(VERSION_HEADER, "")
        if version != str(LINK_VERSION):
            raise HandshakeError(
                f"this head speaks version {LINK_VERSION} of the protocol, the node {version!r:.20}: upgrade the older "
                "one"
            )
        node = _bytes_of(headers, NODE_HEADER, _NODE_SIZE)
        nonce = _bytes_of(headers, NONCE_HEADER, NONCE_SIZE)
        own_nonce = _bytes_of(headers, OWN_NONCE_HEADER, NONCE_SIZE)
        given = _bytes_of(headers, PROOF_HEADER, _PROOF_SIZE)
        transcript = _transcript(node, self._head, nonce, own_nonce)
        if not hmac.compare_digest(given, proof(self._token, "node", transcript)):
            raise HandshakeError("the token is wrong, or missing")
        self._use(nonce, now)
        return ProvenNode(self._token, node, transcript)

    def _use(self, nonce: bytes, now: float) -> None:
        body, mark = nonce[: _NONCE_BODY.size], nonce[_NONCE_BODY.size :]
        made = _NONCE_BODY.unpack(body)[0]
        for used, time in list(self._used.items()):
            if now - time <= NONCE_LIFE:
                break
            del self._used[used]
        if not hmac.compare_digest(mark, self._mark(body)) or now - made > NONCE_LIFE or nonce in self._used:
            raise StaleNonce("the nonce is too old or was used: ask for another one")
        self._used[nonce] = now

    def _mark(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[: NONCE_SIZE - _NONCE_BODY.size]


def _transcript(node: bytes, head: bytes, nonce: bytes, own_nonce: bytes) -> bytes:
    return b"".join((str(LINK_VERSION).encode(), b":", node, head, nonce, own_nonce))


def _bytes_of(headers: Mapping[str, str], name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(headers[name])
    except (KeyError, ValueError):
        value = b""
    if len(value) != size:
        raise HandshakeError("the token is wrong, or missing")
    return value
