"""The handshake of two daemons: it comes before any decoder, and only daemons that know the cluster's token pass it.

Four messages of fixed size, each side proves that it has the token, and neither sends it::

    1  dialer    magic 8, version 2, role 1, node 8, cluster 16, nonce 32
    2  acceptor  version 2, node 8, nonce 32
    3  dialer    HMAC-SHA256(token, "dialer" + 1 + 2)
    4  acceptor  HMAC-SHA256(token, "acceptor" + 1 + 2)

The dialer proves first, so a stranger learns nothing that depends on the token. Both nonces are in each proof, so no
recorded proof is good a second time, and the two labels differ, so no side can send the other's proof back. A side that
does not like what it gets says nothing and ends the connection; only the versions travel in the clear, because people
must learn that two releases do not fit.

The classes take bytes and give bytes. They do no io, and have no deadline: that is their shell's.
"""

from __future__ import annotations

import hashlib
import hmac
from struct import Struct
from typing import Final

MAGIC: Final = b"asyncray"

LINK_VERSION: Final = 1
"""The version of the messages between daemons: it changes whenever one of them changes."""

LINK: Final = 1
"""Role of a connection: it carries messages."""

BULK: Final = 2
"""Role of a connection: it carries the bytes of large objects."""

CLUSTER_SIZE: Final = 16
NONCE_SIZE: Final = 32
TOKEN_SIZE: Final = 32

_FIRST = Struct(">8sHB8s16s32s")
_SECOND = Struct(">H8s32s")
_PROOF_SIZE = hashlib.sha256().digest_size


class HandshakeError(Exception):
    """The other side is no daemon of this cluster, or of another release: its fault. The connection must end."""


def proof(token: bytes, label: str, transcript: bytes) -> bytes:
    """Returns bytes that only a holder of the token can compute."""
    return hmac.digest(token, label.encode() + transcript, "sha256")


def derived(token: bytes, purpose: str) -> bytes:
    """A token for one purpose, from which the cluster's token cannot be computed."""
    return hmac.digest(token, b"for " + purpose.encode(), "sha256")


class Handshake:
    """One side of a handshake.

    ``feed`` takes bytes in pieces of any size, and returns the bytes to send. The attributes ``peer`` and ``role`` have
    their meaning once ``done`` is True, and ``rest`` holds the bytes that came behind the handshake.

    Args:
        token: the cluster's.
        node: the ID of this node.
    """

    def __init__(self, token: bytes, node: bytes) -> None:
        self._token = token
        self._node = node
        # Bytes that are not a whole message yet.
        self._buffer = b""
        # Messages 1 and 2, as far as they exist.
        self._transcript = b""
        # The ID of the node at the other end.
        self.peer = b""
        self.role = 0
        self.done = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer.hex() or 'unknown'} {'done' if self.done else 'under way'}>"

    @property
    def rest(self) -> bytes:
        """The bytes that came after the last message."""
        return self._buffer

    def feed(self, data: bytes) -> bytes:
        """Takes what has arrived, and returns what to send.

        Raises:
            HandshakeError: the other side does not fit. Nothing that it sent may be used.
        """
        self._buffer += data
        answer = b""
        while not self.done and (size := self._wanted()) <= len(self._buffer):
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            answer += self._take(message)
        return answer

    def _wanted(self) -> int:
        raise NotImplementedError

    def _take(self, message: bytes) -> bytes:
        raise NotImplementedError

    def _prove(self, label: str) -> bytes:
        return proof(self._token, label, self._transcript)

    def _check(self, given: bytes, label: str) -> None:
        if not hmac.compare_digest(given, self._prove(label)):
            raise HandshakeError("the other side does not know the token of this cluster")


class DialerHandshake(Handshake):
    """The side that opened the connection.

    Args:
        cluster: the ID of the cluster.
        role: LINK or BULK.
        expected: the node that should answer. Another one at its address is a fault.
        nonce: random bytes, never used before.
    """

    def __init__(self, token: bytes, node: bytes, cluster: bytes, role: int, expected: bytes, nonce: bytes) -> None:
        super().__init__(token, node)
        self.role = role
        self._expected = expected
        self._transcript = _FIRST.pack(MAGIC, LINK_VERSION, role, node, cluster, nonce)

    def start(self) -> bytes:
        """Returns the first bytes to send."""
        return self._transcript[: _FIRST.size]

    def _wanted(self) -> int:
        return _PROOF_SIZE if self.peer else _SECOND.size

    def _take(self, message: bytes) -> bytes:
        if self.peer:
            self._check(message, "acceptor")
            self.done = True
            return b""
        version, node, _ = _SECOND.unpack(message)
        if version != LINK_VERSION:
            raise HandshakeError(f"the other node speaks version {version} of the protocol, this one {LINK_VERSION}")
        if node != self._expected:
            raise HandshakeError(f"node {node.hex()} answers instead of node {self._expected.hex()}")
        self.peer = node
        self._transcript += message
        return self._prove("dialer")


class AcceptorHandshake(Handshake):
    """The side that the connection was opened to.

    Args:
        cluster: the ID of the cluster.
        nonce: random bytes, never used before.
    """

    def __init__(self, token: bytes, node: bytes, cluster: bytes, nonce: bytes) -> None:
        super().__init__(token, node)
        self._cluster = cluster
        self._nonce = nonce

    def _wanted(self) -> int:
        return _PROOF_SIZE if self._transcript else _FIRST.size

    def _take(self, message: bytes) -> bytes:
        if self._transcript:
            if not self.peer:
                raise HandshakeError("the other node goes on, although it speaks another version of the protocol")
            self._check(message, "dialer")
            self.done = True
            return self._prove("acceptor")
        magic, version, role, node, cluster, _ = _FIRST.unpack(message)
        if magic != MAGIC:
            raise HandshakeError("the other side does not speak the protocol of asyncray's daemons")
        answer = _SECOND.pack(LINK_VERSION, self._node, self._nonce)
        if version != LINK_VERSION:
            # The dialer reads the version from the answer, and ends the connection. No proof is taken from it.
            self._transcript = message
            return answer
        if cluster != self._cluster or role not in (LINK, BULK) or node == self._node:
            raise HandshakeError("the other side belongs to another cluster, or is this node itself")
        self.peer, self.role = node, role
        self._transcript = message + answer
        return answer
