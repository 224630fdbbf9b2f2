"""A whole cluster in one thread: a head, some nodes, a network, and an oracle that checks them after every event.

The machines are the real ones. Hosts (``cluster_host.py``) do what the daemon's shell does, and run the processes of
their nodes. The oracle is outside of the machines: it knows the living hosts, all messages, and the head's decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asyncray.core.cluster.members import MEMBER
from asyncray.core.head.head import HeadMachine
from asyncray.core.head.membership import LOST
from tests.core.processes import Process
from tests.sim.bulk import BulkLine
from tests.sim.cluster_host import RESOURCES, ClusterHost
from tests.sim.net import Clock, Net
from tests.sim.oracle import ClusterOracle


class Cluster:
    """Some hosts, the first with the head, and the oracle."""

    def __init__(self, seed: int, nodes: int, resources: Sequence[dict[str, float]] = ()) -> None:
        self.clock = Clock(seed)
        self.net = Net(self.clock)
        self.hosts: dict[bytes, ClusterHost] = {}
        self.oracle = ClusterOracle(self)
        # How many moves processes and daemons have made.
        self.moved = 0
        self._bulk_lines: dict[frozenset[str], BulkLine] = {}
        self.dead: list[ClusterHost] = []
        self._count = 0
        given = itertools.cycle(resources or [RESOURCES])
        self.head_host = self.add(is_head=True, resources=next(given))
        for _ in range(nodes - 1):
            self.add(resources=next(given))

    def add(self, *, is_head: bool = False, resources: dict[str, float] | None = None) -> ClusterHost:
        self._count += 1
        host = ClusterHost(self, self._count, is_head=is_head, resources=resources)
        self.hosts[host.id] = host
        self.oracle.hosts.append(host.node)
        return host

    @property
    def head(self) -> HeadMachine:
        assert self.head_host.head is not None
        return self.head_host.head

    @property
    def living(self) -> list[ClusterHost]:
        return [host for host in self.hosts.values() if host.alive]

    def host_of(self, process: Process) -> ClusterHost:
        return self.hosts[process.host.machine.node_id]

    @property
    def some_node_ended(self) -> bool:
        return len(self.living) < len(self.hosts) or bool(self.head.members.ended)

    def bulk_line(self, one: ClusterHost, other: ClusterHost) -> BulkLine:
        """Returns the bulk connection between two hosts."""
        return self._bulk_lines.setdefault(frozenset((one.name, other.name)), BulkLine())

    def kill(self, host: ClusterHost) -> None:
        """SIGKILL ends a daemon."""
        host.die()
        self.oracle.hosts.remove(host.node)
        self.net.died(host)
        self.dead.append(host)

    def ends(self, host: ClusterHost, why: str) -> None:
        """A daemon ends by itself."""
        host.why = why
        host.die()
        self.oracle.hosts.remove(host.node)
        self.clock.after(0.0, lambda: self.net.died(host))

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)
        self.check()

    def heal(self) -> None:
        self.net.cuts.clear()

    # The oracle -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Checks the rules that hold at every moment."""
        blocks = [host.machine.jobs.block for host in self.hosts.values() if host.part.members.state == MEMBER]
        firsts = [block.start for block in blocks]
        assert len(set(firsts)) == len(firsts), "two nodes have the same job numbers"
        for host in self.hosts.values():
            for node, heard in host.heard.items():
                assert heard == list(range(1, len(heard) + 1)), f"{host} heard {heard} of {node.decode()}"
                assert len(heard) <= self.hosts[node].said.get(host.id, 0)

    def settle(self) -> None:
        """The network heals. In the end all hosts agree, and every message between members has arrived."""
        self.heal()
        self.run(30.0)
        members = set(self.head.members.table)
        living = {host.id for host in self.living}
        assert members == living, f"members {sorted(members)}, living {sorted(living)}"
        for host in self.living:
            assert set(host.part.members.table) == members, f"{host} knows other members"
            for node, said in host.said.items():
                if node in members:
                    assert len(self.hosts[node].heard.get(host.id, ())) == said, (
                        f"{node.decode()} lacks words of {host}"
                    )
        for host in self.dead:
            ended = self.head.members.ended.get(host.id)
            assert ended is None or ended.state == LOST or host.why, f"{host} was killed and is {ended}"
        for host in self.hosts.values():
            if not host.alive and host not in self.dead:
                assert host.id in self.head.members.ended or not host.part.members.table, f"{host} ended by itself"
