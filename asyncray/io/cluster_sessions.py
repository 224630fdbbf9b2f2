"""Says which cluster the node of a session belongs to: a file in the session's directory.

Programs of the same user on the same machine find the nodes of a cluster by it. A node that a driver has started for
itself writes no such file, because it ends with its driver.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from asyncray.io import sessions

_LARGEST = 65536
"""Bytes of the file that are read: more is not ours."""


def note_cluster(directory: str, addresses: Sequence[str], *, is_head: bool) -> None:
    """Notes that the node of a session is a member.

    Args:
        directory: the session's.
        addresses: those by which programs on this machine may name the cluster, as HOST:PORT with IP addresses.
        is_head: the node is the head of the cluster.

    Raises:
        OSError: the file could not be written.
    """
    path = os.path.join(directory, sessions.CLUSTER_FILE)
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"addresses": list(addresses), "is_head": is_head}, file)
    os.replace(temporary, path)


def keep_note(directory: str, addresses: Sequence[str], *, is_head: bool) -> None:
    """The same, unless the session has a note."""
    if not os.path.exists(os.path.join(directory, sessions.CLUSTER_FILE)):
        note_cluster(directory, addresses, is_head=is_head)


def sessions_of(address: str) -> list[str]:
    """The directories of this user's sessions whose nodes belong to a cluster: the head first, then the oldest.

    A program stays longest with a node that has been there for long.

    Args:
        address: of the cluster, with an IP address.

    Raises:
        OSError: the base directory exists and cannot be used.
    """
    heads: list[str] = []
    others: list[str] = []
    for directory in reversed(sessions.running()):
        addresses, is_head = _read(directory)
        if address in addresses:
            (heads if is_head else others).append(directory)
    return heads + others


def _read(directory: str) -> tuple[Sequence[str], bool]:
    """Addresses and ``is_head`` of a session; no address if its node belongs to no cluster."""
    try:
        with open(os.path.join(directory, sessions.CLUSTER_FILE), encoding="utf-8") as file:
            found = json.loads(file.read(_LARGEST))
        return list(found["addresses"]), bool(found["is_head"])
    except (OSError, ValueError, KeyError, TypeError):
        return (), False
