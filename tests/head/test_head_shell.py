"""The head's shell: probes, ticks and its end. See also `tests/node/test_cluster_shell.py`."""

from __future__ import annotations

import asyncio
import os

from asyncray.core.cluster.commands import Probe
from asyncray.core.head.membership import MEMBER_ALIVE, SUSPECT
from asyncray.io.addresses import listen_at
from tests.node.hosts import cluster, until


async def test_a_port_that_takes_a_connection_proves_nothing() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        member = head.head.machine.members.table[node.id]
        member.state = SUSPECT
        with listen_at("127.0.0.1", 0) as listener:
            head.head._probe(Probe(node.id, *listener.getsockname()))
            await until(lambda: not head.head._probes)  # type: ignore[union-attr]  # see above
        assert node.id in head.head.machine.members.table
        await until(lambda: member.state == MEMBER_ALIVE)  # the node's next beat does that


async def test_a_probe_of_a_host_without_a_name_proves_nothing() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        head.head.machine.members.table[node.id].state = SUSPECT
        head.head._probe(Probe(node.id, "no.such.host.invalid", 1))
        await until(lambda: not head.head._probes)  # type: ignore[union-attr]  # see above
        assert node.id in head.head.machine.members.table


async def test_a_refused_probe_proves_that_the_daemon_has_ended() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        with listen_at("127.0.0.1", 0) as listener:
            address = listener.getsockname()
        head.head.machine.members.table[node.id].state = SUSPECT
        head.head._probe(Probe(node.id, *address))
        await until(lambda: node.id not in head.others())


async def test_a_tick_that_comes_late_says_by_how_much() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        member = head.head.machine.members.table[node.id]
        heard_at = member.heard_at
        head.head._ticked_at -= 100.0
        head.head._tick()
        assert member.heard_at > heard_at + 99.0
        member.heard_at -= 100.0 - 0.5


async def test_at_its_end_it_leaves_no_probe_and_no_timer() -> None:
    async with cluster(1) as (head,):
        assert head.head is not None
        head.head._probe(Probe(os.urandom(8), "127.0.0.1", 1))
        await head.head.close("the test ends it")
        assert not head.head._probes
        assert head.head._ticking._handle is None
        head.head.receive_from_own_node([(1,)])  # the closed shell ignores messages
        await asyncio.sleep(0)
