"""How ``asyncray node`` makes a cluster or joins one: addresses, tokens, and the text for people.

Everything that a user can get wrong is looked at before a process starts. Whether the head takes the node is seen when
the daemon runs; see ``asyncray.node.cluster_shell``.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from asyncray.io import addresses, cluster_tokens
from asyncray.node.cluster_shell import ClusterPlan
from asyncray.wire.handshake import CLUSTER_SIZE, derived
from asyncray.wire.head_proofs import HeadProofs

if TYPE_CHECKING:
    from asyncray.head.head_shell import HeadShell
    from asyncray.io.tls import Tls
    from asyncray.words import NodeFacts

_ASK_DEADLINE = 1.0
"""Seconds for an answer of the process that occupies a port."""


class ClusterStart(Protocol):
    """How the node of this command takes part in a cluster."""

    address: str

    def plan(self, session: str) -> ClusterPlan: ...
    async def run_registry(self, ask: Callable[..., Any], facts: NodeFacts) -> None: ...
    def announcement(self) -> str: ...
    def warning(self) -> str: ...
    def ended(self, session: str) -> None: ...


class NewCluster:
    """This node is the head of a cluster that begins with it.

    Args:
        host: the address to listen at.
        port: of the registry; 0 for any free one.

    Raises:
        OSError: the address cannot be used. The text is for people.
    """

    def __init__(self, host: str, port: int, name: str, labels: Mapping[str, str], tls: Tls | None = None) -> None:
        self._tls = tls
        self._name = name
        self._labels = labels
        self._bound = addresses.resolve(host)
        try:
            self._listener = addresses.listen_at(self._bound, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_head(addresses.local_host(self._bound), port, tls):
                at = addresses.join_address(host, port)
                raise OSError(
                    error.errno, f"a head runs at {at} already: join it with `asyncray node --address {at}`"
                ) from None
            raise
        port = self._listener.getsockname()[1]
        self._host = addresses.shown_host(self._bound)
        self.address = addresses.join_address(self._host, port)
        self._token = b""
        self._token_file = ""
        # Addresses by which nodes on this machine may name the cluster.
        local = addresses.join_address(addresses.local_host(self._bound), port)
        self._known_as = list(dict.fromkeys((self.address, local)))
        # None until the daemon has made it.
        self._head: HeadShell | None = None

    def __repr__(self) -> str:
        return f"<NewCluster {self.address}>"

    def plan(self, session: str) -> ClusterPlan:
        """Makes the token of the cluster, and returns how the daemon takes part in it."""
        self._token, self._token_file = cluster_tokens.new_token(session, self._known_as)
        return ClusterPlan(
            self._token,
            self.address,
            self._host,
            self._bound,
            None,
            self._make_head,
            self._name,
            self._labels,
            self._known_as,
            self._tls,
        )

    def _make_head(self, node: bytes, to_own_node: Callable[[Sequence[Any]], None]) -> HeadShell:
        from asyncray.head.head_shell import HeadShell  # start-up cost: the zygote gets ready meanwhile

        proofs = HeadProofs(self._token, node, os.urandom(32))
        self._head = HeadShell(node, os.urandom(CLUSTER_SIZE), proofs, to_own_node)
        return self._head

    async def run_registry(self, ask: Callable[..., Any], facts: NodeFacts) -> None:
        """Runs the registry with the routes for nodes until it is cancelled."""
        import asyncio  # start-up cost: only a daemon needs it

        registry = await asyncio.to_thread(importlib.import_module, "asyncray.head.registry")
        stream = await asyncio.to_thread(importlib.import_module, "asyncray.head.stream")
        hosts = frozenset({self._host, self._bound, facts["hostname"], addresses.local_host(self._bound)})
        named = frozenset(registry.url_host(host) for host in hosts)
        assert self._head is not None
        door = registry.RegistryDoor(
            self._listener,
            named,
            derived(self._token, "http").hex(),
            self._head.unproven,
            stream.NodeStream(self._head).routes(),
            self._tls,
        )
        await registry.run_registry(ask, facts, door)

    def announcement(self) -> str:
        """The line for other machines."""
        if addresses.is_loopback(self._host):
            return (
                f"The head of a cluster is at {self.address}. Only this machine reaches it; another node here joins "
                f"with\n\n    asyncray node --address {self.address}\n"
            )
        token = f"$(ssh {self._host} cat {self._token_file})"
        return (
            f"The head of a cluster is at {self.address}. Another machine joins with\n\n"
            f"    ASYNCRAY_TOKEN={token} asyncray node --address {self.address}\n"
        )

    def warning(self) -> str:
        """A warning about what is not safe; empty if nothing is to be said."""
        return _warn_of_network(self._bound, self._tls)

    def ended(self, session: str) -> None:
        """The node has ended: nothing of the token is left."""
        cluster_tokens.forget_token(session, self._known_as)


class JoinedCluster:
    """This node joins a cluster.

    Args:
        address: HOST:PORT of the head.
        host: the address to listen at; None for the one that reaches the head.

    Raises:
        OSError: an address cannot be used. The text is for people.
        TokenError: there is no token, or no good one.
        ValueError: not an address.
    """

    def __init__(
        self, address: str, host: str | None, name: str, labels: Mapping[str, str], tls: Tls | None = None
    ) -> None:
        self._tls = tls
        self._name = name
        self._labels = labels
        head_host, port = addresses.parse_address(address)
        self._head = addresses.resolve(head_host, port), port
        self.address = addresses.join_address(*self._head)
        if host is None:
            self._bound = addresses.address_towards(self._head[0])
        else:
            self._bound = addresses.resolve(host)
            addresses.listen_at(self._bound, 0).close()  # fails here rather than in the daemon
        self._token = cluster_tokens.take_token(self.address)

    def __repr__(self) -> str:
        return f"<JoinedCluster {self.address}>"

    def plan(self, session: str) -> ClusterPlan:
        """Returns how the daemon takes part in the cluster."""
        host = addresses.shown_host(self._bound)
        return ClusterPlan(
            self._token,
            self.address,
            host,
            self._bound,
            self._head,
            None,
            self._name,
            self._labels,
            [self.address],
            self._tls,
        )

    async def run_registry(self, ask: Callable[..., Any], facts: NodeFacts) -> None:
        """Runs the registry of this node until it is cancelled."""
        import asyncio  # start-up cost: only a daemon needs it

        registry = await asyncio.to_thread(importlib.import_module, "asyncray.head.registry")
        await registry.run_registry(ask, facts, registry.loopback_door(self._tls))

    def announcement(self) -> str:
        """A line for people."""
        return f"It has joined the cluster at {self.address}.\n"

    def warning(self) -> str:
        """A warning about what is not safe; empty if nothing is to be said."""
        return _warn_of_network(self._bound, self._tls)

    def ended(self, session: str) -> None:
        """The node has ended."""


def _warn_of_network(bound: str, tls: Tls | None) -> str:
    if addresses.is_loopback(bound) or tls is not None:
        return ""
    return (
        f"other machines can connect to this node at {bound}. Only those that know the token become nodes, but what "
        "nodes send each other is not encrypted: use a network that you trust, or --tls-cert, --tls-key and --tls-ca"
    )


def _is_head(host: str, port: int, tls: Tls | None = None) -> bool:
    """True if the process that occupies a port answers as a head does."""
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=_ASK_DEADLINE)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=_ASK_DEADLINE, context=tls.client)
    try:
        connection.request("GET", "/join")
        return "cluster" in json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError, TypeError, RecursionError):
        return False
    finally:
        connection.close()
