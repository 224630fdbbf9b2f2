"""Large objects between nodes: real stores, object tables and machines, bytes that travel, and an oracle.

A program is a game as in ``references``, with values in shared memory. Processes put them, read several at once, and
hand them over as arguments of tasks; tasks run once their arguments are here, and may return large values of their
home. Bulk connections carry chunks with contents, and a byte is read from the sender's memory when it arrives: the
system may read a page as late as that. The oracle knows each object's bytes and compares all memory that a process has
a view of.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, cast

from asyncray.core.allocator import Allocation
from asyncray.core.claims import Claim
from asyncray.core.cluster.commands import CloseBulk, ReceiveRange, SendRange, StopReceiving
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.serving import CHUNK
from asyncray.core.outbox import CreateSegment, RetireSegment
from asyncray.core.records import ObjectEntry, Task
from asyncray.core.states import FINISHED, QUEUED, SENT, WAITING
from asyncray.ids import FIRST_RETURN, PUT_INDEX
from asyncray.messages import AWAY, ERRORS, FAULT, SHARED, UNRESOLVED, VALUE
from tests.sim.references import Game, Node

RETURN = 905

View = tuple[str, int, int]


def contents(object_id: bytes, version: int, size: int) -> bytes:
    """The bytes of an object. Those of two objects, or of two places in one, differ."""
    seed = zlib.crc32(object_id + version.to_bytes(4, "big"))
    return Random(seed).randbytes(size)


class Job:
    """A task with arguments, on the node that runs it. It stands for a ``Task``, as far as the machines look at it."""

    actor = None
    lease = None

    def __init__(self, number: int, dependencies: tuple[ObjectEntry, ...]) -> None:
        self.number = number
        self.dependencies = dependencies
        self.state = WAITING
        self.missing = 0
        self.pins: list[bytes] = []
        # Room for its result, with the result.
        self.result: Allocation | None = None

    def __repr__(self) -> str:
        return f"<Job {self.number} {self.state}>"


class BulkLine:
    """One bulk connection: chunks on their way, by the name of the receiver."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.broken = False
        self.chunks: dict[str, deque[tuple[SendRange, bytes]]] = {name: deque() for name in names}


class LargeNode(Node):
    """A node with shared memory."""

    game: LargeGame

    def __init__(self, game: LargeGame, name: str) -> None:
        super().__init__(game, name)
        self.clients[1] = self.process
        self.handlers.update(self.large.handlers)
        self.handlers[RETURN] = self._return
        self.memory: dict[str, bytearray] = {}
        self.jobs: dict[int, Job] = {}
        # Objects that the process waits for, and how often it has views of others.
        self.awaited: dict[bytes, None] = {}
        # Object -> for each AWAY, whether the value comes by itself.
        self.said_away: dict[bytes, list[bool]] = {}
        self.views: dict[bytes, list[View]] = {}
        # Number of a task -> its return value here, until it comes.
        self.returns: dict[int, ObjectEntry] = {}
        self.claiming: dict[Claim, None] = {}
        # The shell: ranges that bytes are written to, chunks that wait to be written, connections.
        self.ranges: dict[tuple[bytes, int], ReceiveRange] = {}
        self.ordered: dict[str, deque[SendRange]] = {}
        self.lines: dict[str, BulkLine] = {}
        self.segments: deque[CreateSegment] = deque()

    # The process ------------------------------------------------------------------------------------------------------

    def write(self, allocation: Allocation, object_id: bytes, version: int) -> None:
        data = self.game.written[object_id] = contents(object_id, version, allocation.size)
        self.memory[allocation.segment][allocation.offset : allocation.offset + allocation.size] = data
        self.store.allocator.written(allocation)

    def claim(self, size: int, answered: Callable[[Allocation | None], None]) -> None:
        def done(answer: Any) -> None:
            self.claiming.pop(claim, None)
            answered(answer if isinstance(answer, Allocation) else None)

        claim = Claim(size, done, done)
        self.claiming[claim] = None
        self.store.request(claim, self.clock.now)

    def put_large(self, size: int, contained: list[bytes]) -> None:
        self.count += 1
        object_id = self.process.id + self.count.to_bytes(10, "big") + PUT_INDEX
        uses = self.objects.use_all(contained)

        def answered(allocation: Allocation | None) -> None:
            if allocation is not None:
                self.write(allocation, object_id, 0)
                block = self.store.seal(object_id, allocation)
                place = allocation.segment, allocation.offset, allocation.size
                self.objects.resolve_new(object_id, self.process, SHARED, [*place], contained, block)
                self.views.setdefault(object_id, []).append(place)
                self.held.add(object_id)
            self.objects.unuse_all(uses)

        self.claim(size, answered)

    def subscribe(self, object_ids: list[bytes]) -> None:
        wanted = [object_id for object_id in object_ids if object_id not in self.awaited]
        for object_id in wanted:
            if object_id not in self.held:
                self.hold(object_id)  # a process has a ref to what it waits for
        self.awaited.update(dict.fromkeys(wanted))
        self.objects.subscribe(self.process, wanted)

    def ask_again(self, object_ids: list[bytes]) -> None:
        """Another thread of the process needs only these, or the first one has given up."""
        self.objects.subscribe(self.process, object_ids)

    def drop(self, object_id: bytes) -> None:
        self.awaited.pop(object_id, None)  # its value may never come now
        super().drop(object_id)

    def take_messages(self) -> None:
        """The process reads what its daemon has sent."""
        messages, self.process.out = self.process.out, []
        for message in messages:
            if message[0] == VALUE:
                _, object_id, kind, payload = message
                self.awaited.pop(object_id, None)
                if kind == SHARED:
                    self.views.setdefault(object_id, []).append((payload[0], payload[1], payload[2]))
                elif kind == FAULT:
                    self.game.fault_came(self, object_id, payload)
            elif message[0] == AWAY:
                _, object_id, comes = message
                self.said_away.setdefault(object_id, []).append(comes)
                if object_id in self.awaited and not comes:
                    self.objects.subscribe(self.process, [object_id])

    def unpin(self, object_id: bytes) -> None:
        times = len(self.views.pop(object_id))
        self.store.unpin(self.process, object_id, times)

    # Tasks ------------------------------------------------------------------------------------------------------------

    def hand_over(self, to: Node, object_ids: list[bytes]) -> None:
        super().hand_over(to, object_ids)
        number = self.game._numbers
        self.count += 1
        object_id = self.process.id + self.count.to_bytes(10, "big") + FIRST_RETURN
        entry = self.objects.expect(object_id, self.process, None)
        self.process.promised[object_id] = entry
        self.held.add(object_id)
        self.returns[number] = entry

    def _task(self, peer: Peer, message: Any) -> None:
        super()._task(peer, message)
        guest = self.guests[message[1]]
        job = self.jobs[guest.number] = Job(guest.number, guest.entries)
        for entry in job.dependencies:
            if entry.kind == UNRESOLVED:
                job.missing += 1
                if entry.far is not None:
                    self.large.values.want(entry)
                entry.dependents = [*(entry.dependents or ()), cast("Task", job)]
        if not job.missing:
            self._ready(job)

    def dependency_resolved(self, task: Any, entry: ObjectEntry) -> None:
        task.missing -= 1
        if task.state == WAITING and not task.missing:
            self._ready(task)

    def _ready(self, job: Job) -> None:
        if any(entry.kind in ERRORS for entry in job.dependencies):
            job.state = FINISHED
        elif not self.large.pulls.bring(cast("Task", job)):
            job.state = QUEUED

    def arguments_here(self, task: Any) -> None:
        self._ready(task)

    def arguments_failed(self, task: Any, kind: int, payload: Any) -> None:
        task.state = FINISHED

    def wait_for_arguments(self, task: Any) -> None:
        assert task.state == QUEUED
        task.state = WAITING

    def start(self, number: int) -> None:
        job = self.jobs[number]
        job.state = SENT
        for entry in job.dependencies:
            payload = self.objects.value_for(entry, self.process)
            if entry.kind == SHARED:
                self.views.setdefault(entry.id, []).append((payload[0], payload[1], payload[2]))
                job.pins.append(entry.id)

    def prepare(self, number: int, size: int) -> None:
        """The task writes its result."""
        job = self.jobs[number]

        def answered(allocation: Allocation | None) -> None:
            if allocation is None:
                return
            if self.jobs.get(number) is job and job.result is None:
                job.result = allocation
            else:
                self.store.free(allocation)

        self.claim(size, answered)

    def finish(self, number: int, returned: list[bytes]) -> None:
        guest, job = self.guests[number], self.jobs[number]
        home = cast("LargeNode", guest.home)
        if job.result is not None and home.alive:
            entry = home.returns[number]
            self.write(job.result, entry.id, number)
            self.store.seal_copy(entry.id, number, job.result)
            size, job.result = job.result.size, None
            self.send(guest.home, RETURN, number, size)
        else:
            self.send(guest.home, RETURN, number, None)
        self._end_job(number)
        super().finish(number, returned)

    def _end_job(self, number: int) -> None:
        job = self.jobs.pop(number)
        job.state = FINISHED
        for entry in job.dependencies:
            waiting: Any = entry.dependents
            if waiting and job in waiting:
                waiting.remove(job)
        self.large.pulls.ended(cast("Task", job))
        if job.result is not None:
            self.store.free(job.result)

    def _return(self, peer: Peer, message: Any) -> None:
        _, number, size = message
        self._resolve_return(number, peer, size)

    def _resolve_return(self, number: int, peer: Peer, size: int | None) -> None:
        entry = self.returns.pop(number)
        del self.process.promised[entry.id]
        kind: int = FAULT
        payload: list[Any] = ["NodeDiedError", {}]
        if size is not None:
            self.large.holders.result(entry, peer.id, number, size)
            kind, payload = SHARED, [number, size]
        for task in self.objects.resolve(entry, kind, payload, None):
            self.dependency_resolved(task, entry)

    # Losses -----------------------------------------------------------------------------------------------------------

    def hears_of_loss(self, lost: Node) -> None:
        for number in [number for number, guest in self.guests.items() if guest.home is lost]:
            self._end_job(number)
        super().hears_of_loss(lost)
        for number in [number for number in self.returns if self.there[number] is lost]:
            self._resolve_return(number, self.peer(lost.id), None)


class LargeGame(Game):
    """The nodes, their messages, and the bulk connections."""

    nodes: list[LargeNode]  # type: ignore[assignment]  # all of them are
    capacity = 16 * 4096
    slab = 4096

    def __init__(self, seed: int, nodes: int) -> None:
        super().__init__(seed, nodes)
        self.deaths = 0
        # The bytes of each object. Each is made once here.
        self.written: dict[bytes, bytes] = {}
        # Turns of each kind, to see that a game is about something.
        self.seen: dict[str, int] = {}

    def new_node(self, name: str) -> Node:
        return LargeNode(self, name)

    @property
    def living_large(self) -> list[LargeNode]:
        return cast("list[LargeNode]", self.living)

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # The shells -------------------------------------------------------------------------------------------------------

    def flush(self, node: Node) -> None:
        assert isinstance(node, LargeNode)
        node.large.flush()
        commands, node.outbox.commands = node.outbox.commands, []
        for party in node.outbox.dirty:
            if isinstance(party, Peer):
                self.wires[node.name, self.node(party.id).name].extend(party.out)
                party.out.clear()
        node.outbox.dirty.clear()
        for command in commands:
            self._do(node, command)
        node.take_messages()

    def _do(self, node: LargeNode, command: object) -> None:
        if isinstance(command, CreateSegment):
            node.segments.append(command)
        elif isinstance(command, RetireSegment):
            del node.memory[command.name]
        elif isinstance(command, SendRange):
            assert 0 < command.length <= CHUNK
            node.ordered.setdefault(self.node(command.node).name, deque()).append(command)
        elif isinstance(command, ReceiveRange):
            node.ranges[command.node, command.transfer] = command
        elif isinstance(command, StopReceiving):
            node.ranges.pop((command.node, command.transfer), None)
        elif isinstance(command, CloseBulk):
            self._close_bulk(node, self.node(command.node).name)
            for key in [key for key in node.ranges if key[0] == command.node]:
                del node.ranges[key]

    def _close_bulk(self, node: LargeNode, other: str) -> None:
        line = node.lines.pop(other, None)
        if line is not None:
            line.broken = True
            line.chunks[node.name].clear()
        node.ordered.pop(other, None)

    def create_segment(self, node: LargeNode) -> None:
        command = node.segments.popleft()
        if self.random.random() < 0.02:
            node.store.segment_failed(command.name, "no memory")
        else:
            node.memory[command.name] = bytearray(command.size)
            node.store.segment_created(command.name)

    def write_chunk(self, node: LargeNode, other: str) -> None:
        """The socket takes a chunk. Without a connection the shell makes one, which replaces one at the other end."""
        command = node.ordered[other].popleft()
        receiver = self.named(other)
        line = node.lines.get(other)
        if line is None:
            self.notice(receiver, node.name)
            line = node.lines[other] = receiver.lines[node.name] = BulkLine((node.name, other))
        if not line.broken:
            line.chunks[other].append((command, b""))
        node.large.range_sent(receiver.id, command.transfer, command.length, node.clock.now)

    def deliver_chunk(self, sender: LargeNode, receiver: LargeNode) -> None:
        command, _ = receiver.lines[sender.name].chunks[receiver.name].popleft()
        self.count("chunk")
        target = receiver.ranges.get((sender.id, command.transfer))
        if target is None:
            self.count("dropped chunk")
            return
        assert target.position <= command.position <= command.position + command.length <= target.size
        if not target.warm and self.random.random() < 0.01:
            del receiver.ranges[sender.id, command.transfer]
            receiver.large.range_failed(sender.id, command.transfer, "no memory", receiver.clock.now)
            return
        data = sender.memory[command.segment][command.offset : command.offset + command.length]
        place = target.offset + command.position
        receiver.memory[target.segment][place : place + command.length] = data
        end = command.position + command.length
        if end == target.size:
            del receiver.ranges[sender.id, command.transfer]
        receiver.large.range_received(sender.id, command.transfer, end, receiver.clock.now)

    def break_line(self, line: BulkLine) -> None:
        line.broken = True
        for chunks in line.chunks.values():
            chunks.clear()

    def notice(self, node: LargeNode, other: str) -> None:
        """A node's shell sees that a bulk connection is broken or replaced."""
        if other in node.lines:
            self._close_bulk(node, other)
            self.count("broken line")
            node.large.sending_failed(self.named(other).id, node.clock.now)
            node.large.receiving_failed(self.named(other).id, node.clock.now)

    def named(self, name: str) -> LargeNode:
        return next(node for node in self.nodes if node.name == name)

    def tick(self, node: LargeNode) -> None:
        node.clock.now += 0.5
        node.store.tick(node.clock.now, 0, 5.0, lambda: any(job.state == SENT for job in node.jobs.values()))

    # Moves ------------------------------------------------------------------------------------------------------------

    def moves(self) -> list[tuple[str, Callable[[], object]]]:
        random = self.random
        found = [(name, move) for name, move in super().moves() if random.random() < self.share(name)]
        found += 3 * [(name, move) for name, move in found if name.startswith("deliver")]
        for node in self.living_large:
            found += 4 * self.shell_moves(node)
            known = node.knows()
            theirs = [object_id for object_id in known if not object_id.startswith(node.id)]
            if not known or random.random() < 0.3:
                size = random.choice((100, 3000, 4096, 9000, 9000, 20_000, 30_000))
                some = random.sample(known, min(len(known), random.choice((0, 0, 1))))
                found.append((f"{node} puts {size} bytes", partial(node.put_large, size, some)))
            if known:
                wanted = random.sample(theirs or known, min(len(theirs or known), random.choice((1, 1, 2, 3))))
                found.append((f"{node} reads {wanted}", partial(node.subscribe, wanted)))
                to = random.choice([other for other in self.nodes if other is not node and node.peer(other.id).alive])
                some = random.sample(known, min(len(known), random.choice((1, 1, 2, 3))))
                found.append((f"{node} hands {some} to {to}", partial(node.hand_over, to, some)))
            if node.awaited and random.random() < 0.3:
                again = random.sample(list(node.awaited), min(len(node.awaited), random.choice((1, 1, 2))))
                found.append((f"{node} asks again for {again}", partial(node.ask_again, again)))
            for object_id in random.sample(list(node.views), min(1, len(node.views))):
                found.append((f"{node} unpins {object_id!r}", partial(node.unpin, object_id)))
            for number, job in node.jobs.items():
                if job.state == QUEUED:
                    found += 2 * [(f"{node} starts {job}", partial(node.start, number))]
                elif job.state == SENT and job.result is None:
                    size = random.choice((100, 3000, 4096, 9000, 20_000))
                    found += 3 * [(f"{node} prepares {job}", partial(node.prepare, number, size))]
                elif job.state != WAITING:
                    found += 3 * [(f"{node} ends {job}", partial(node.finish, number, []))]
            if random.random() < 0.1:
                found.append((f"{node} ticks", partial(self.tick, node)))
        return found

    def share(self, name: str) -> float:
        """The part of the moves of games without large objects that are kept."""
        if "deliver" in name or "hears" in name or "grace" in name:
            return 1.0
        return 0.1

    def shell_moves(self, node: LargeNode) -> list[tuple[str, Callable[[], object]]]:
        found: list[tuple[str, Callable[[], object]]] = []
        if node.segments:
            found.append((f"{node} creates a segment", partial(self.create_segment, node)))
        for other, chunks in node.ordered.items():
            if chunks:
                found.append((f"{node} writes a chunk for {other}", partial(self.write_chunk, node, other)))
        for other, line in node.lines.items():
            sender = self.named(other)
            if line.chunks[node.name]:
                found += 2 * [(f"{node} gets a chunk of {other}", partial(self.deliver_chunk, sender, node))]
            if line.broken:
                found.append((f"{node} sees that {other}'s line broke", partial(self.notice, node, other)))
            elif self.random.random() < 0.005:
                found.append((f"the line of {node} and {other} breaks", partial(self.break_line, line)))
        return found

    def kill(self, lost: Node) -> None:
        super().kill(lost)
        self.deaths += 1

    # The oracle -------------------------------------------------------------------------------------------------------

    def fault_came(self, node: LargeNode, object_id: bytes, fault: Any) -> None:
        name = fault[0]
        self.count(name)
        owner = self.node(object_id[: len(node.id)])
        if name == "OwnerDiedError":
            assert not owner.alive, self.tell(f"{node} gets {fault}")
        elif name == "ObjectLostError":
            assert self.deaths, self.tell(f"{node} gets {fault}")
            copies = [other for other in self.living_large if object_id in other.store.copies]
            assert not copies, self.tell(f"{node} gets {fault}, and {copies} have it")
        else:
            assert name in ("NodeDiedError", "ObjectStoreFullError"), self.tell(f"{node} gets {fault}")

    def check(self) -> None:
        super().check()
        for node in self.living_large:
            node.store.check()
            node.large.check()
            for object_id, views in node.views.items():
                for segment, offset, size in views:
                    found = bytes(node.memory[segment][offset : offset + size])
                    wanted = self.written[object_id]
                    assert found == wanted, self.tell(f"{node} has wrong bytes of {object_id!r}")
            self._check_room(node)

    def _check_room(self, node: LargeNode) -> None:
        """Bytes that were promised to pulls and bytes in use are never more than the store has (S6)."""
        promised = sum(
            pull.size for pull in node.large.receiving.pulls.values() if pull.allocation is None and not pull.patient
        )
        droppable = sum(block.allocation.size for block in node.large.copies._cached if not block.pins)
        allocator = node.store.allocator
        assert promised + allocator.used <= allocator.capacity + droppable + 64 * 20, self.tell(
            f"{node} has promised {promised} bytes, {allocator} uses {allocator.used}"
        )

    def busy(self) -> Callable[[], object] | None:
        """The next move that must happen, in the end."""
        for node in self.living_large:
            moves = self.shell_moves(node)
            if moves:
                return self.random.choice(moves)[1]
            for number, job in node.jobs.items():
                if job.state == QUEUED:
                    return partial(node.start, number)
        return None

    def settle(self) -> None:
        """Everything that is under way arrives, and time passes until the store has refused what it cannot give."""
        calm = 0
        for _ in range(20_000):
            wires = [wire for wire, messages in self.wires.items() if messages]
            move = self.busy()
            if wires:
                self.deliver(self.random.choice(wires))
            elif self.unheard:
                self.report_loss(*self.unheard[0])
            elif self.graces_to_end():
                self.end_grace(self.graces_to_end()[0])
            elif move is not None:
                move()
            elif calm < 30:
                calm += 1
                for node in self.living_large:
                    self.tick(node)
            else:
                return
            calm = 0 if wires or move is not None else calm
            for living in self.living:
                self.flush(living)
        raise AssertionError(self.tell("nothing settles"))

    def end(self) -> None:
        """All tasks end, all values that are wanted come or are errors, and then nothing is left."""
        self.slow = []
        self.settle()
        while any(node.jobs for node in self.living_large):
            ready = [
                (node, number)
                for node in self.living_large
                for number, job in node.jobs.items()
                if job.state != WAITING
            ]
            waiting = [(node, node.jobs, node.large) for node in self.living_large if node.jobs]
            assert ready, self.tell(f"{waiting} for ever")
            for node, number in ready:
                node.finish(number, [])
            self.settle()
            self.check()
        for node in self.living_large:
            assert not node.awaited, self.tell(f"{node} waits for {list(node.awaited)}, {node.large}")
            assert not node.claiming, self.tell(f"{node} waits for room")
            for object_id in list(node.views):
                node.unpin(object_id)
        self.settle()
        super().end()
        for node in self.living_large:
            large = node.large
            left = {
                "memory": node.store.allocator.used,
                "copies": node.store.copies,
                "cached": large.copies._cached,
                "orphans": large.copies._orphans,
                "wanted": large.copies.wanted,
                "holders": large.holders._table,
                "pulls": large.receiving.pulls,
                "transfers": large.receiving._transfers,
                "reads": large.pulls._of_client,
                "tasks": large.pulls._of_task,
                "needing": large.pulls._needing,
                "served": large.serving._receivers,
                "ranges": node.ranges,
                "pins": [peer for peer in node.peers.values() if peer.pinned],
            }
            found = {name: table for name, table in left.items() if table}
            assert not found, self.tell(f"{node} keeps {found}")
