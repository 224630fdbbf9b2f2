"""The oracle of a simulated cluster: the value of every object on all nodes, and the excuses for its loss.

It stands outside of the machines and knows which daemons live. Beside the rules of a lone node (``tests.core.oracle``):

- an object may be lost only if the node that owns it has ended, or one that could have had its only copy. Others
  may have read its value before;
- a task starts no more often than its retries allow, on all nodes together;
- at rest, no living process waits for the answer to a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncray.core.records import Client, ObjectEntry
from asyncray.ids import NODE_SIZE
from asyncray.messages import REPLY, REPLY_FAULT, REQUEST, Received
from tests.core.cluster.pair import used_for_other_nodes, visitors
from tests.core.oracle import Oracle
from tests.sim.actor_rules import ActorRules
from tests.sim.recording import Recorder

if TYPE_CHECKING:
    from tests.core.host import Host
    from tests.core.processes import Process
    from tests.sim.cluster import Cluster


class ClusterOracle(Oracle):
    """The facts that all nodes of a cluster must agree with."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.recorder = Recorder()
        self.actors = ActorRules(cluster)
        # Process and number of a request that has no answer -> the request.
        self._unanswered: dict[tuple[Process, int], Received] = {}

    def carried(self, process: Process, message: Received, *, to_daemon: bool) -> None:
        host = self.cluster.hosts[process.host.machine.node_id]
        daemon, other = host.name, f"{host.name}:{process.client.number}"
        ends = (other, daemon) if to_daemon else (daemon, other)
        if to_daemon:
            self.actors.carried(message)
        if message[0] == REQUEST:
            self._unanswered[process, message[1]] = message
        elif message[0] in (REPLY, REPLY_FAULT):
            del self._unanswered[process, message[1]]
        self.recorder.record(self.cluster.clock.now, *ends, message)

    def check_answers(self) -> None:
        """Checks that each request of a living process has an answer."""
        for (process, _), request in self._unanswered.items():
            assert not process.alive, f"{process} waits for the answer to {request}"

    def used_for_other_nodes(self, host: Host) -> Iterable[ObjectEntry]:
        return used_for_other_nodes(self.cluster.hosts[host.machine.node_id].part)

    def visitors(self, host: Host) -> Iterable[Client]:
        return visitors(self.cluster.hosts[host.machine.node_id].part)

    def agrees(self, ref: bytes, content: Any) -> None:
        fault: Any = content if isinstance(content, list) else ["", {}]
        if fault[0] == "OwnerDiedError" and fault[1].get("object_id") == ref.hex():
            if self.orphans:
                return  # the owner has freed an argument of a task that it has ended, and the task reads it
            if ref not in self.promised or "lost with its owner" in fault[1]["message"]:
                assert self.has_ended(ref[:NODE_SIZE]), f"{ref.hex()} is lost, and its owner lives"
                return
        if fault[0] == "NodeDiedError" and ref not in self.promised:
            assert self.cluster.some_node_ended, f"{ref.hex()} failed with its node, and no node has ended"
        super().agrees(ref, content)

    def excuses(self, fault: Any) -> bool:
        """A node has ended, and with it the only copy of a large object."""
        return self.cluster.some_node_ended and "All copies" in fault[1]["message"]

    def has_ended(self, node: bytes) -> bool:
        """True if the head has declared a node lost, or its daemon has ended."""
        return not self.cluster.hosts[node].alive or node in self.cluster.head.members.ended
