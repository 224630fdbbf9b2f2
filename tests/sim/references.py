"""References between nodes: the real object tables and imports, tasks that hand refs over, and an oracle.

A program here is a game of hand-overs. A node sends a task with refs to another node; the code there may keep refs,
read values, hand refs on, return refs, and ends at any time. Messages between two nodes keep their order, and any delay
is possible. The oracle knows which node needs which object: a needed object exists at its owner, and in the end no
record is left anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from asyncray.cluster_messages import BORROW, BORROWED, RESOLVE, UNBORROW, VALUE_OF
from asyncray.core.allocator import Allocator
from asyncray.core.clock import Clock
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.large_objects import LargeObjects
from asyncray.core.cluster.lending import Lending
from asyncray.core.cluster.links import Link
from asyncray.core.cluster.peers import Peer
from asyncray.core.dead_refs import DeadRefs
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client, ObjectEntry
from asyncray.core.store import Store
from asyncray.core.unread import Unread
from asyncray.ids import NODE_SIZE, PUT_INDEX
from asyncray.messages import PLAIN

TASK, RESULT, DONE_WITH, CLAIMED = 901, 902, 903, 904

REFERENCE_MESSAGES = (BORROW, BORROWED, UNBORROW, RESOLVE, VALUE_OF)


class Guest:
    """A task of another node that runs here."""

    def __init__(self, number: int, home: Node, cover: Cover, entries: tuple[ObjectEntry, ...]) -> None:
        self.number = number
        self.home = home
        self.cover = cover
        self.entries = entries


class Node:
    """One node: its table, its imports, one process, and the tasks that it has sent."""

    def __init__(self, game: Game, name: str) -> None:
        self.game = game
        self.name = name
        self.id = f"node{name}".encode().ljust(NODE_SIZE, b".")
        self.outbox = Outbox()
        dead_refs = DeadRefs(self.outbox, self.id)
        self.clients: dict[int, Client] = {}
        self.store = Store(self.outbox, Allocator(f"{name}-seg", game.capacity, game.slab), self.clients, dead_refs)
        self.objects = Objects(self.outbox, self.store, Unread(self.outbox), dead_refs)
        self.imports = Imports(self.outbox, self.objects, self.id, self.peer)
        self.lending = Lending(self.outbox, self.objects)
        self.objects.other_nodes = self.imports
        self.clock = Clock()
        arguments: Any = self
        self.node_id = self.id
        self.work = self
        self.large = LargeObjects(self, self.imports, arguments, self.peer, bytes.hex)
        self.peers: dict[bytes, Peer] = {}
        self.process = Client(1, self.id + (1).to_bytes(4, "big"), "worker", 1)
        self.count = 0
        self.alive = True
        self.sent: dict[int, tuple[ObjectEntry, ...]] = {}
        # The node that each task went to, and the node that each claim is for.
        self.there: dict[int, Node] = {}
        self.graces: dict[str, Node] = {}
        self.settled: set[str] = set()
        self.guests: dict[int, Guest] = {}
        self.claims: dict[int, tuple[ObjectEntry, ...]] = {}
        self.held: set[bytes] = set()  # refs that the process has
        self.handlers: dict[int, Callable[..., Any]] = {
            BORROW: self.lending.borrow,
            BORROWED: self.imports.borrowed,
            UNBORROW: self.lending.unborrow,
            RESOLVE: self.lending.resolve,
            VALUE_OF: self.large.values.value_of,
            TASK: self._task,
            RESULT: self._result,
            DONE_WITH: self._done_with,
            CLAIMED: self._claimed,
        }

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    def peer(self, node: bytes) -> Peer:
        if node not in self.peers:
            number = self.outbox.new_party_number() + 1
            self.peers[node] = Peer(number, node, Link(self.outbox, self.id, node, 0.0))
        return self.peers[node]

    def dependency_resolved(self, task: Any, entry: ObjectEntry) -> None:
        """A dependency of a task is resolved. Only tests of large objects have tasks with dependencies."""
        raise AssertionError(f"{task} waits for {entry}")

    def send(self, node: Node, *message: Any) -> None:
        self.outbox.send(self.peer(node.id), message)

    # Steps of code ----------------------------------------------------------------------------------------------------

    def put(self, contained: list[bytes]) -> None:
        self.count += 1
        object_id = self.process.id + self.count.to_bytes(10, "big") + PUT_INDEX
        self.objects.resolve_new(object_id, self.process, PLAIN, b"", contained)
        self.held.add(object_id)

    def knows(self) -> list[bytes]:
        """The refs that code on this node has: those of the process, and those of guests."""
        found = dict.fromkeys(sorted(self.held))
        for guest in self.guests.values():
            found.update(dict.fromkeys(entry.id for entry in guest.entries))
        return list(found)

    def hold(self, object_id: bytes) -> None:
        self.objects.hold(self.process, [object_id])
        self.held.add(object_id)

    def drop(self, object_id: bytes) -> None:
        self.held.discard(object_id)
        self.objects.drop(self.process, [object_id])

    def read(self, object_id: bytes) -> None:
        """The process waits for a value, and gets the refs inside it."""
        entry = self.objects.table[object_id]
        if entry.far is not None:
            self.large.values.want(entry)
        for inner in entry.contained:
            self.hold(inner.id)

    def hand_over(self, to: Node, object_ids: list[bytes]) -> None:
        number = self.game.next_number()
        self.sent[number] = self.objects.use_all(object_ids)
        self.there[number] = to
        self.send(to, TASK, number, object_ids)

    def finish(self, number: int, returned: list[bytes]) -> None:
        guest = self.guests.pop(number)
        self.claims[number] = self.objects.use_all(returned)
        self.there[number] = guest.home
        self.objects.unuse_all(guest.entries)
        later = self.imports.end(guest.cover)
        self.send(guest.home, RESULT, number, later, returned)

    # Messages ---------------------------------------------------------------------------------------------------------

    def _task(self, peer: Peer, message: Any) -> None:
        _, number, object_ids = message
        home = self.game.node(peer.id)
        cover = Cover(peer, partial(self.send, home, DONE_WITH, number))
        self.imports.learn(cover, object_ids)
        self.guests[number] = Guest(number, home, cover, self.objects.use_all(object_ids))

    def _result(self, peer: Peer, message: Any) -> None:
        _, number, later, returned = message
        there = self.game.node(peer.id)
        cover = Cover(peer, partial(self.send, there, CLAIMED, number))
        self.imports.learn(cover, returned)
        if self.game.random.random() < 0.7:
            for object_id in returned:  # the caller keeps the refs in the result
                self.hold(object_id)
        if not later:
            self.objects.unuse_all(self.sent.pop(number))
        if not self.imports.end(cover):
            self.send(there, CLAIMED, number)

    def _done_with(self, peer: Peer, message: Any) -> None:
        self.objects.unuse_all(self.sent.pop(message[1]))

    def _claimed(self, peer: Peer, message: Any) -> None:
        self.objects.unuse_all(self.claims.pop(message[1]))

    # Losses -----------------------------------------------------------------------------------------------------------

    def hears_of_loss(self, lost: Node) -> None:
        """The head's verdict reaches this node: it buries the other."""
        peer = self.peer(lost.id)
        for number in [number for number, guest in self.guests.items() if guest.home is lost]:
            # This node cancels the lost node's tasks: their uses end, and the process holds the refs that they kept.
            guest = self.guests.pop(number)
            self.objects.unuse_all(guest.entries)
        self.large.node_lost(peer)
        self.imports.giver_lost(peer, lambda: self.settled.add(lost.name))
        peer.bury("lost")
        self.graces[lost.name] = lost

    def grace_ends(self, lost: Node) -> None:
        """All members have settled: this node ends the uses that it kept for the lost node."""
        del self.graces[lost.name]
        for number in [number for number, there in self.there.items() if there is lost]:
            for table in (self.sent, self.claims):
                self.objects.unuse_all(table.pop(number, ()))
        self.imports.grace_over(self.peer(lost.id))


class Game:
    """Some nodes, and the messages under way."""

    capacity = 1024
    slab = 1024
    """Bytes of each store, and of a segment that objects share."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.random = Random(seed)
        self.nodes = [self.new_node("ABCDE"[place]) for place in range(nodes)]
        self.wires: dict[tuple[str, str], deque[Any]] = {
            (one.name, other.name): deque() for one in self.nodes for other in self.nodes if one is not other
        }
        # Wires with long delays.
        self.slow = self.random.sample(sorted(self.wires), 2)
        # Nodes that are lost, and the nodes that have not learned of it.
        self.unheard: list[tuple[Node, Node]] = []
        self._numbers = 0
        self.story: list[str] = []

    def new_node(self, name: str) -> Node:
        return Node(self, name)

    def node(self, node_id: bytes) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def flush(self, node: Node) -> None:
        for party in node.outbox.dirty:
            if isinstance(party, Peer):
                self.wires[node.name, self.node(party.id).name].extend(party.out)
            party.out.clear()
        node.outbox.dirty.clear()
        node.outbox.commands.clear()

    def deliver(self, wire: tuple[str, str]) -> None:
        message = self.wires[wire].popleft()
        one, other = ("ABCDE".index(name) for name in wire)
        node = self.nodes[other]
        if not node.alive or not node.peer(self.nodes[one].id).alive:
            return  # the receiver is dead, or has buried the sender
        node.handlers[message[0]](node.peer(self.nodes[one].id), message)
        self.flush(node)

    def moves(self) -> list[tuple[str, Callable[[], object]]]:
        random = self.random
        found: list[tuple[str, Callable[[], object]]] = []
        for wire, messages in self.wires.items():
            if messages and (wire not in self.slow or random.random() < 0.1):
                found += 2 * [(f"deliver {wire} {messages[0]}", partial(self.deliver, wire))]
        for node, lost in self.unheard:
            found.append((f"{node} learns of the loss of {lost}", partial(self.report_loss, node, lost)))
        found += [(f"the grace of {lost} ends", partial(self.end_grace, lost)) for lost in self.graces_to_end()]
        for node in self.living:
            known = node.knows()
            found.append(
                (f"{node} puts", partial(node.put, random.sample(known, min(len(known), random.choice((0, 1))))))
            )
            for object_id in random.sample(known, min(len(known), 3)):
                to = random.choice([other for other in self.nodes if other is not node and node.peer(other.id).alive])
                more = random.sample(known, min(len(known), random.choice((0, 0, 1))))
                found.append((f"{node} hands over to {to}", partial(node.hand_over, to, [object_id, *more])))
                found.append((f"{node} holds {object_id!r}", partial(node.hold, object_id)))
                found.append((f"{node} reads {object_id!r}", partial(node.read, object_id)))
            for object_id in sorted(node.held)[:3]:
                found += 3 * [(f"{node} drops {object_id!r}", partial(node.drop, object_id))]
            for number in node.guests:
                returned = random.sample(known, min(len(known), random.choice((0, 0, 1))))
                found.append((f"{node} finishes {number}", partial(node.finish, number, returned)))
        return found

    @property
    def living(self) -> list[Node]:
        return [node for node in self.nodes if node.alive]

    def kill(self, lost: Node) -> None:
        """A daemon dies. Its messages may arrive until the others bury it; messages to it are lost."""
        lost.alive = False
        self.story.append(f"{lost} dies")
        self.unheard += [(node, lost) for node in self.living]

    def report_loss(self, node: Node, lost: Node) -> None:
        self.unheard.remove((node, lost))
        wire = (lost.name, node.name)
        while self.wires[wire]:  # a node reads the socket before it buries
            self.deliver(wire)
        node.hears_of_loss(lost)

    def graces_to_end(self) -> list[Node]:
        dead = [node for node in self.nodes if not node.alive]
        return [
            lost
            for lost in dead
            if any(lost.name in node.graces for node in self.living)
            and all(lost.name in node.settled for node in self.living)
        ]

    def end_grace(self, lost: Node) -> None:
        """The head's view with all members settled reaches the nodes one after the other, in any order."""
        node = self.random.choice([node for node in self.living if lost.name in node.graces])
        node.grace_ends(lost)

    def step(self) -> None:
        name, move = self.random.choice(self.moves())
        self.story.append(name)
        move()
        self.after()

    def after(self) -> None:
        for node in self.living:
            self.flush(node)
        if len(self.story) % 4 == 0:
            self.check()

    # The oracle -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        for node in self.living:
            node.objects.check()
            node.imports.check()
            for object_id in node.knows():
                assert self.exists(object_id), self.tell(f"{node} needs {object_id!r}, which is freed")
        for (one, other), messages in self.wires.items():
            receiver, sender = (self.nodes["ABCDE".index(name)] for name in (other, one))
            for message in messages if receiver.alive and receiver.peer(sender.id).alive else ():
                if message[0] in (TASK, RESULT):
                    for object_id in message[-1]:
                        assert self.exists(object_id), self.tell(f"{object_id!r} is under way to {other} and freed")

    def exists(self, object_id: bytes) -> bool:
        owner = self.node(object_id[:NODE_SIZE])
        return not owner.alive or object_id in owner.objects.table

    def tell(self, what: str) -> str:
        return "\n".join([what, *self.story[-40:]])

    def end(self) -> None:
        """All code ends and drops its refs, and every message arrives."""
        for _ in range(10_000):
            busy = [wire for wire, messages in self.wires.items() if messages]
            guests = [(node, number) for node in self.living for number in node.guests]
            if busy:
                self.deliver(self.random.choice(busy))
            elif self.unheard:
                self.report_loss(*self.unheard[0])
            elif self.graces_to_end():
                self.end_grace(self.graces_to_end()[0])
            elif guests:
                node, number = guests[0]
                node.finish(number, [])
            elif any(node.held for node in self.living):
                node = next(node for node in self.living if node.held)
                node.drop(sorted(node.held)[0])
            else:
                break
            self.after()
        for node in self.living:
            left = {
                "objects": dict(node.objects.table),
                "sent": node.sent,
                "claims": node.claims,
                "asked": node.imports._asked,
                "makers": node.imports._makers,
                "living": node.imports._living,
                "graces": node.graces,
                "borrowed": [peer for peer in node.peers.values() if peer.borrowed],
            }
            found = {name: table for name, table in left.items() if table}
            assert not found, self.tell(f"{node} keeps {found}")
            assert node.objects.dead_refs.count == 0, self.tell(f"{node} met dead refs")
