"""What tests of a cluster's machines say of nodes, and take from parties."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_words import ClusterRow, MemberFacts
from asyncray.core.outbox import Outbox
from asyncray.core.records import Party


def facts(node: bytes, joined: int = 0) -> MemberFacts:
    return {
        "node": node,
        "host": node.decode(),
        "port": 7000,
        "hostname": "",
        "pid": 1,
        "session": "",
        "name": "",
        "resources": {"CPU": 20_000},
        "labels": {},
        "joined": joined,
    }


def row(cpus: int = 2) -> ClusterRow:
    return {"available": {"CPU": cpus * 10_000}, "queued": [], "store_free": 100, "draining": False}


def taken(outbox: Outbox, party: Party) -> list[Any]:
    """The messages that wait for a party, as the shell takes them."""
    messages, party.out = party.out, []
    if party in outbox.dirty:
        outbox.dirty.remove(party)
    return messages


def done(outbox: Outbox, kind: type) -> list[Any]:
    """The commands of a kind that wait for the shell. All others are dropped."""
    commands, outbox.commands = outbox.commands, []
    return [command for command in commands if isinstance(command, kind)]
