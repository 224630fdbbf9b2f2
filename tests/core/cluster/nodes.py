"""Facts and rows of nodes for tests of a cluster's machines, and the messages and commands that the tests take."""

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
    return {"available": {"CPU": cpus * 10_000}, "held": {}, "queued": [], "store_free": 100, "draining": False}


def taken(outbox: Outbox, party: Party) -> list[Any]:
    """Takes the messages that wait for a party, as the shell does."""
    messages, party.out = party.out, []
    if party in outbox.dirty:
        outbox.dirty.remove(party)
    return messages


def done(outbox: Outbox, kind: type) -> list[Any]:
    """Takes the commands of a kind that wait for the shell, and drops all others."""
    commands, outbox.commands = outbox.commands, []
    return [command for command in commands if isinstance(command, kind)]
