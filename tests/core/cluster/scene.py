"""A scene for golden scenarios of large objects: nodes with stores, and messages and chunks that come when a test says.

It is a game of ``tests.sim.transfers`` in which nothing happens by chance.
"""

from __future__ import annotations

from typing import Any

from asyncray.core.cluster import holders, serving
from tests.sim.transfers import LargeGame, LargeNode

CHUNK = 2000


class Scene:
    """Some nodes. Node A has an object ``o`` of 9,000 bytes, which its process holds.

    Args:
        patch: the fixture ``monkeypatch``: objects are small here, and so are all limits.
    """

    def __init__(self, patch: Any, nodes: int = 3, *, large: int = 4000) -> None:
        patch.setattr(serving, "CHUNK", CHUNK)
        patch.setattr(serving, "WINDOW", 2 * CHUNK)
        patch.setattr(holders, "LARGE", large)
        self.game = LargeGame(0, nodes)
        self.game.random.random = lambda: 0.5  # type: ignore[method-assign]  # nothing fails by chance
        self.nodes = self.game.nodes
        self.o = self.put(self.nodes[0], 9000)

    def put(self, node: LargeNode, size: int) -> bytes:
        """A process puts a value. It drops its view of it."""
        node.put_large(size, [])
        self.game.flush(node)
        self.create_segments()
        object_id = next(reversed(node.views))
        node.unpin(object_id)
        self.flush()
        return object_id

    def flush(self) -> None:
        for node in self.game.living_large:
            self.game.flush(node)
        self.game.check()

    def read(self, node: LargeNode, *object_ids: bytes) -> None:
        """A process asks for values, all at once. Messages are not delivered."""
        node.subscribe(list(object_ids))
        self.flush()

    def arrive(self, sender: LargeNode, receiver: LargeNode) -> None:
        """All messages from one node to another arrive, and what the receiver answers is under way."""
        wire = self.game.wires[sender.name, receiver.name]
        for _ in range(len(wire)):
            self.game.deliver((sender.name, receiver.name))
        self.create_segments()
        self.flush()

    def create_segments(self) -> None:
        for node in self.game.living_large:
            while node.segments:
                self.game.create_segment(node)
                self.game.flush(node)

    def exchange(self, times: int = 1) -> None:
        """Messages arrive between all nodes, and answers so many times. No chunk moves."""
        for _ in range(times):
            for sender in self.game.living_large:
                for receiver in self.game.living_large:
                    if sender is not receiver:
                        self.arrive(sender, receiver)

    def talk(self) -> None:
        """Messages arrive until none is under way. No chunk moves."""
        names = [node.name for node in self.game.living_large]
        while any(self.game.wires[one, other] for one in names for other in names if one != other):
            self.exchange()

    def chunk(self, sender: LargeNode, receiver: LargeNode) -> None:
        """One chunk is written and arrives."""
        self.game.write_chunk(sender, receiver.name)
        self.game.deliver_chunk(sender, receiver)
        self.flush()

    def chunks(self, sender: LargeNode, receiver: LargeNode) -> int:
        """All chunks that were ordered arrive. Returns how many."""
        count = 0
        while sender.ordered.get(receiver.name):
            self.chunk(sender, receiver)
            count += 1
        return count

    def settle(self) -> None:
        """Everything arrives."""
        self.game.settle()
        self.game.check()

    def under_way(self, sender: LargeNode, receiver: LargeNode) -> list[int]:
        """The kinds of the messages from one node to another, in order."""
        return [message[0] for message in self.game.wires[sender.name, receiver.name]]

    def has(self, node: LargeNode, object_id: bytes) -> bool:
        """True if the process has a view of the value, whose bytes are right."""
        self.game.check()
        return bool(node.views.get(object_id))

    def loaded(self, node: LargeNode, object_id: bytes) -> None:
        """The value comes to the node, and its process drops its view again."""
        self.read(node, object_id)
        self.settle()
        assert self.has(node, object_id)
        node.unpin(object_id)
        self.flush()

    def run_at(self, home: LargeNode, there: LargeNode, size: int) -> bytes:
        """A task of one node runs at another and returns a value, and only that node has it. Returns the object."""
        home.hand_over(there, [])
        number = self.game._numbers
        object_id = home.returns[number].id
        self.game.flush(home)
        self.arrive(home, there)
        there.start(number)
        there.prepare(number, size)
        self.game.flush(there)
        self.create_segments()
        there.finish(number, [])
        self.flush()
        self.arrive(there, home)
        return object_id

    def fill(self, node: LargeNode) -> None:
        """The process puts values until the node has dropped all copies that it can do without."""
        while node.large.copies.has_evictable(1, ()):
            node.put_large(4096, [])
            self.game.flush(node)
            self.create_segments()
        self.flush()

    def lose(self, lost: LargeNode) -> None:
        """A daemon dies, and all others learn of it."""
        self.game.kill(lost)
        for node in self.game.living_large:
            self.report_loss(node, lost)

    def report_loss(self, node: LargeNode, lost: LargeNode) -> None:
        """One node learns of a loss."""
        self.game.report_loss(node, lost)
        self.flush()

    def end(self) -> None:
        """Nothing is left in the end."""
        self.game.end()
