"""The status of a cluster from a machine without a node: asks its head over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from typing import TYPE_CHECKING, cast

from asyncray.io import cluster_tokens, tls
from asyncray.runtime.launch import ClusterAddress, unreachable
from asyncray.wire.handshake import derived

if TYPE_CHECKING:
    from asyncray.words import NodeStatus

_ANSWER_DEADLINE = 5.0
"""Seconds for an answer. A busy daemon needs milliseconds."""


def head_status(cluster: ClusterAddress) -> NodeStatus:
    """Returns the status that the head of a cluster gives of its node and of all members.

    Raises:
        ConnectionError: no head answers there, or the token is missing or wrong.
    """
    files = None
    try:
        token = derived(cluster_tokens.find_token(cluster.text), "http").hex()
        files = tls.find_tls()
        connection = (
            http.client.HTTPConnection(cluster.host, cluster.port, timeout=_ANSWER_DEADLINE)
            if files is None
            else http.client.HTTPSConnection(cluster.host, cluster.port, timeout=_ANSWER_DEADLINE, context=files.client)
        )
        try:
            connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return _read(answer.status, answer.read())
        finally:
            connection.close()
    except ssl.SSLError as error:  # some are a ValueError, too
        raise unreachable(cluster.text, tls.explain(error, files)) from None
    except (cluster_tokens.TokenError, tls.TlsError, ValueError) as error:
        raise unreachable(cluster.text, str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        if files is None and isinstance(error, ConnectionError | http.client.HTTPException) and _speaks_tls(cluster):
            names = ", ".join(tls.VARIABLES.values())
            raise unreachable(cluster.text, f"it speaks TLS: set {names}") from None
        number = getattr(error, "errno", None)
        why = os.strerror(number) if number else str(error) or "it does not answer"
        raise unreachable(cluster.text, f"no head answers: {why}") from None


def _speaks_tls(cluster: ClusterAddress) -> bool:
    try:
        with socket.create_connection((cluster.host, cluster.port), _ANSWER_DEADLINE) as connection:
            tls.probing_context().wrap_socket(connection).close()
    except OSError:
        return False
    return True


def _read(status: int, text: bytes) -> NodeStatus:
    if status == http.HTTPStatus.UNAUTHORIZED:
        raise ValueError("the token is wrong")
    found = None
    if status == http.HTTPStatus.OK:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            pass  # no head
    if type(found) is not dict or "cluster_address" not in found:
        raise ValueError(f"it answers {status}, but not as a head does")
    return cast("NodeStatus", found)
