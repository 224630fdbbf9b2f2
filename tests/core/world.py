"""The world around one node's machine, as a model: processes, wires, the zygote, shared memory, time.

Everything that happens is one call here: a message arrives, a process reads or runs a little, a fork succeeds, a
process dies and the daemon learns of it, sooner or later and in either order. After each event the machine must agree
with itself and with what the world knows:

- what a living process has a ref to exists; every count of uses is what it must be;
- a value is the same for everybody who reads it, and shared memory does not change while somebody may look at it;
- an object that was promised becomes what was promised, or the error that its maker put, or that its maker's end is;
- a message names only objects that exist. A dead ref comes from an orphan (it runs a task that was ended from outside,
  so its arguments are gone) or from another node, or the message is the second of two equal ones;
- a task is not started more often than its retries allow, and the calls of one caller start in order;
- exclusive resources are never in two hands.

``settle`` lets everybody do what they can until nothing moves; then nothing that could run may be waiting.
``end`` takes everything away; then nothing may be left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from asyncray.core.lives import Actor
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import CreateSegment, FlushOutput, KillWorker, LogLine, RetireSegment, StartWorker
from asyncray.core.pauses import LONGEST_PAUSE
from asyncray.core.records import Task
from asyncray.core.states import DEAD, FINISHED, IDLE
from asyncray.messages import (
    ADD_REFS,
    BLOCKED,
    CANCEL,
    DONE,
    DONE_MANY,
    FAILED,
    INVOKE,
    KILL,
    LEAVING,
    PROMISE,
    PUT,
    RELEASE_REFS,
    REQUEST,
    SEAL,
    Received,
)
from tests.core.processes import OFTEN_ENOUGH, Driver, Order, Process, Worker
from tests.core.programs import Content, Recipe
from tests.core.promises import BROKEN
from tests.greeting import SETUP

NODE_ID = b"thisnode"
CELL = 64
CAPACITY = 8192


class World:
    """One node and everything around it."""

    def __init__(self, **resources: float) -> None:
        self.total = resources or {"CPU": 2.0, "R": 1.0, "GPU": 2.0}
        self.machine = NodeMachine(NODE_ID, self.total, "seg", CAPACITY, {})
        self.processes: dict[int, Process] = {}  # by the client's number; gone when the daemon knows it
        self.unborn: list[int] = []  # workers to be forked
        self.doomed: list[int] = []  # workers to be killed
        self.corpses: list[Worker] = []  # workers whose end the daemon does not know
        self.misses: list[int] = []  # workers that could not be forked, or were killed before
        self.segments: list[CreateSegment] = []  # to be made
        self.memory: dict[tuple[str, int], Content] = {}
        self.truth: dict[bytes, Any] = {}
        self.pure: set[bytes] = set()
        self.promised: dict[bytes, tuple[Process, Content]] = {}  # by whom, and what
        self.broken: set[bytes] = set()  # promises
        self.recipes: dict[bytes, Recipe] = {}
        self.starts: Counter[bytes] = Counter()
        self.orphans: set[bytes] = set()
        self._tags = 0
        self.tool = self.machine.observer_connected(0)

    # What processes need of the world ---------------------------------------------------------------------------------

    def tag(self) -> int:
        self._tags += 1
        return self._tags

    def watch(self, task: bytes, recipe: Recipe) -> None:
        self.recipes[task] = recipe

    def agrees(self, ref: bytes, content: Any) -> None:
        """Everybody is told the same of an object, and no object that can be asked for is lost."""
        if isinstance(content, list) and content[0] == "ObjectLostError":
            assert self.orphans, f"{ref.hex()} is lost"
            return
        if ref in self.promised:
            self._is_as_promised(ref, content)
        assert OFTEN_ENOUGH not in repr(content), "an actor was placed in a process that was about to end"
        assert repr(self.truth.setdefault(ref, content)) == repr(content), f"{ref.hex()} has two values"

    def _is_as_promised(self, ref: bytes, content: Any) -> None:
        maker, promised = self.promised[ref]
        if content == BROKEN:
            assert ref in self.broken, f"the promise of {ref.hex()} was not broken"
        elif isinstance(content, list) and content[0] == "OwnerDiedError":
            assert not maker.alive, f"{maker} lives and can put {ref.hex()}"
        else:
            assert content == promised, f"{ref.hex()} is not what was promised"

    def _cells(self, place: list[Any]) -> Iterator[tuple[str, int]]:
        segment, offset, size = place
        return ((segment, cell) for cell in range(offset // CELL, (offset + size - 1) // CELL + 1))

    def write(self, place: list[Any], content: Content) -> None:
        self.memory.update(dict.fromkeys(self._cells(place), content))

    def look(self, place: list[Any]) -> Content:
        (content,) = {self.memory[cell] for cell in self._cells(place)}
        return content

    def started(self, worker: Worker, order: Order) -> None:
        """A worker starts a task, or starts it again."""
        task, recipe = order.task, order.recipe
        self.starts[task] += 1
        again = recipe.restarts if worker.is_actor and order.how != INVOKE else recipe.retries
        unheard = again > 0 and not worker.is_actor  # sent behind another, it may start once and nobody hears of it
        assert again == -1 or self.starts[task] <= 1 + again + unheard, f"{task.hex()} is started too often"
        if order.how == INVOKE and worker.ordered and not recipe.retries:
            caller, sequence = order.arguments.caller, order.arguments.sequence
            assert worker.last_call.get(caller, 0) < sequence, "calls of one caller run out of order"
            worker.last_call[caller] = sequence

    # Events -----------------------------------------------------------------------------------------------------------

    @property
    def drivers(self) -> list[Driver]:
        return [p for p in self.processes.values() if isinstance(p, Driver) and p.alive]

    @property
    def workers(self) -> list[Worker]:
        return [p for p in self.processes.values() if isinstance(p, Worker) and p.alive]

    def after(self) -> None:
        """The daemon has handled an event: its messages and commands go out."""
        self.machine.flush()
        outbox = self.machine.outbox
        for client in outbox.dirty:
            process = self.processes.get(client.number)
            if process is not None and process.alive:
                process.inbox.extend(client.out)
            client.out.clear()
        outbox.dirty.clear()
        for command in outbox.commands:
            if isinstance(command, StartWorker):
                self.unborn.append(command.number)
            elif isinstance(command, KillWorker):
                self.doomed.append(command.number)
            elif isinstance(command, CreateSegment):
                self.segments.append(command)
            elif isinstance(command, RetireSegment):
                self.memory = {cell: content for cell, content in self.memory.items() if cell[0] != command.name}
            else:
                assert isinstance(command, (LogLine, FlushOutput)), command
        outbox.commands.clear()

    def driver(self) -> Driver:
        client = self.machine.driver_connected(1, "ns", SETUP)
        driver = self.processes[client.number] = Driver(self, client)
        self.after()
        return driver

    def fork(self, works: bool = True) -> Worker | None:
        """The zygote forks the next worker, and it says hello."""
        number = self.unborn.pop(0)
        if not works:
            self.misses.append(number)
            return None
        self.machine.worker_started(number, number)
        client = self.machine.worker_connected(number, number)
        worker = None
        if client is not None:
            worker = Worker(self, client, number)
            self.processes[client.number] = worker
        elif number not in self.doomed:
            self.misses.append(number)  # nobody wants it: the shell closes the connection, and it ends
        self.after()
        return worker

    def slay(self) -> None:
        """A kill reaches its process."""
        number = self.doomed.pop(0)
        for worker in self.workers:
            if worker.number == number:
                self.die(worker)
        if number in self.unborn:
            self.unborn.remove(number)
        alive_or_told = {worker.number for worker in self.corpses} | {worker.number for worker in self.workers}
        if number not in alive_or_told and number not in self.misses and number in self.machine.pool.workers:
            self.misses.append(number)

    def die(self, process: Process) -> None:
        """A process ends. Nobody knows yet; what it wrote can still be read."""
        process.alive = False
        process.inbox.clear()
        process.promises.due.clear()
        if isinstance(process, Worker):
            self.corpses.append(process)

    def hear(self, process: Process, count: int = 1) -> None:
        """The next messages of a process reach the daemon, dead or alive."""
        messages: list[Received] = []
        self._note_orphans(process)
        while process.wire and len(messages) < count:
            messages.append(process.wire.popleft()[0])
        self._receive(process, messages)
        self.after()

    def _receive(self, process: Process, messages: list[Received]) -> None:
        dead_refs = self.machine.objects.dead_refs
        before = dead_refs.count
        self.machine.receive(process.client, messages)
        again = process.repeated
        allowed = len(again[1]) if again is not None and any(message is again for message in messages) else 0
        excused = process.orphaned or process.has_foreign_refs
        assert dead_refs.count - before <= allowed or excused, f"{process} names what is gone in {messages}"

    def repeat(self, process: Process) -> None:
        """A message is there twice. Most kinds mean nothing the second time; a client that makes twice is cut off."""
        if not process.wire:
            return
        message = process.wire[0][0]
        if message[0] in (ADD_REFS, RELEASE_REFS, *range(BLOCKED, REQUEST), LEAVING):
            process.repeated = message if message[0] == RELEASE_REFS else None
            self._receive(process, [message])
            self.after()
        elif message[0] in (PROMISE, PUT, SEAL) and process.alive and process.counts[message[1]]:
            self.hear(process)
            with pytest.raises(ValueError, match=r"again|promises|seals"):
                self.machine.receive(process.client, [message])
            self.die(process)
            process.wire.clear()
            self.disconnect(process)

    def disconnect(self, process: Process) -> None:
        """The daemon sees the end of a connection."""
        self.processes.pop(process.client.number, None)
        self.machine.client_disconnected(process.client)
        self.after()

    def exit_seen(self) -> None:
        """The daemon hears of the end of a worker process; of its connection, if still open, it does so later."""
        worker = self.corpses.pop(0)
        self.processes.pop(worker.client.number, None)
        self.machine.worker_exited(worker.number, "killed by a signal")
        while worker.wire:  # a late batch
            self._receive(worker, [worker.wire.popleft()[0]])
        self.machine.client_disconnected(worker.client)
        self.after()

    def miss_seen(self) -> None:
        self.machine.worker_exited(self.misses.pop(0), "it did not start")
        self.after()

    def segment(self, works: bool = True) -> None:
        """A segment is made, or cannot be."""
        command = self.segments.pop(0)
        if works:
            self.machine.store.segment_created(command.name)
        else:
            self.machine.store.segment_failed(command.name, "no space")
        self.after()

    def wait(self, seconds: float) -> None:
        self.machine.now += seconds
        self.machine.tick()
        self.after()

    def order(self, *message: Any) -> None:
        """The command line tool says something."""
        self.machine.receive(self.tool, [message])
        self.after()

    def moves(self) -> list[Callable[[], object]]:
        """All that may happen next by itself."""
        found: list[Callable[[], object]] = []
        for process in self.processes.values():
            if process.wire:
                found += [partial(self.hear, process), partial(self.hear, process, len(process.wire))]
            if process.inbox:
                found.append(process.read_inbox)
            if process.promises.due:
                found.append(process.promises.keep)
            if not process.alive:
                found.append(partial(self.disconnect, process))
        for worker in self.workers:
            found.extend(partial(worker.step, thread) for thread in range(len(worker.running) or 1))
        chores: list[tuple[object, Callable[[], object]]] = [
            (self.unborn, self.fork),
            (self.doomed, self.slay),
            (self.corpses, self.exit_seen),
            (self.misses, self.miss_seen),
            (self.segments, self.segment),
        ]
        return found + [chore for due, chore in chores if due]

    # Everybody does what they can -------------------------------------------------------------------------------------

    def talk(self) -> bool:
        """All that was said is heard, on both sides. No program runs. False if there was nothing."""
        rounds = 0
        while any(process.wire or process.inbox for process in self.processes.values()):
            for process in list(self.processes.values()):
                self.hear(process, len(process.wire))
                while process.inbox:
                    process.read_inbox()
            rounds += 1
        return rounds > 0

    def chores(self) -> bool:
        """Forks, kills, ends, segments, and promises that can be kept. False if there was nothing to do."""
        due = [process.promises for process in self.processes.values() if process.promises.due]
        busy = bool(self.unborn or self.doomed or self.corpses or self.misses or self.segments or due)
        for promises in due:
            promises.keep()
        while self.unborn:
            self.fork()
        while self.doomed:
            self.slay()
        for process in [process for process in self.processes.values() if not process.alive]:
            self.hear(process, len(process.wire))
            self.disconnect(process)
        while self.corpses:
            self.exit_seen()
        while self.misses:
            self.miss_seen()
        while self.segments:
            self.segment()
        return busy

    def deliver(self) -> None:
        """Everything but programs."""
        while self.talk() | self.chores():
            self.check()

    def run(self) -> bool:
        """Each thread of each worker does a step. False if none could."""
        moved = False
        for worker in self.workers:
            for thread in range(max(1, len(worker.running))):
                moved |= worker.alive and worker.step(thread)
        return moved

    def settle(self) -> None:
        """Until nothing moves, whatever time passes."""
        quiet = 0
        for _ in range(10_000):
            moved = self.talk() | self.chores() | self.run()
            quiet = 0 if moved else quiet + 1
            if quiet > 7:
                break
            if quiet:
                self.wait((0.02, 0.02, 0.5, 1.0, 2.5, 2.5, LONGEST_PAUSE)[quiet - 1])
        else:
            raise AssertionError("it never comes to rest")
        self.check()
        self._nothing_waits_that_could_run()

    def _nothing_waits_that_could_run(self) -> None:
        for shape in self.machine.scheduler.shapes.table.values():
            waiting = shape.peek()
            assert waiting is None or not shape.account.fits(shape.demand), f"{waiting} could run"
        assert not self.machine.store.waiting
        assert not any(client.promised for client in self.machine.clients.values())

    def unresolved(self) -> list[str]:
        return [
            f"{process} waits for {ref.hex()}"
            for process in self.processes.values()
            for ref in process.asked
            if process.counts[ref] and ref not in process.values and not self._is_life(ref)
        ]

    def _is_life(self, ref: bytes) -> bool:
        entry = self.machine.objects.table.get(ref)
        return entry is not None and entry.actor is not None

    def resolve_all(self) -> None:
        """To the end of everything: what can never run is cancelled, actors that hold what others need are killed."""
        self.settle()
        while obstacles := self._hopeless() or (self.unresolved() and [actor.task for actor in self._actors()]):
            for task in obstacles:
                self.order(KILL, task.id, True) if task.is_constructor else self.order(CANCEL, task.id, False, False)
            self.settle()  # programs that go on may submit more such
        assert not self.unresolved(), (self.unresolved(), self.machine)

    def _hopeless(self) -> list[Task]:
        feasible = self.machine.resources.feasible
        unfinished = [task for task in self.machine.work.tasks.values() if task.state != FINISHED]
        return [task for task in unfinished if not feasible(task.template.demand)]

    def _actors(self) -> list[Actor]:
        return [actor for actor in self.machine.actors.table.values() if actor.state != DEAD]

    def end(self) -> None:
        """Drivers go, detached actors are killed: nothing is left."""
        self.resolve_all()
        for driver in self.drivers:
            self.die(driver)
        self.settle()
        self.check()
        for actor in self._actors():
            self.order(KILL, actor.id, True)
        self.settle()
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        machine = self.machine
        tables = {
            "objects": machine.objects.table,
            "tasks": machine.work.tasks,
            "actors": machine.actors.table,
            "names": list(machine.actors.directory.list(None)),
            "blocks": machine.store.blocks,
            "copies": machine.store.copies,
            "unread": machine.objects.unread.errors,
            "shapes": machine.scheduler.shapes.table,
            "ready": machine.scheduler.shapes.ready,
            "blocked": machine.scheduler.blocked_workers,
            "jobs": machine.jobs.table,
            "functions": machine.functions.functions,
            "templates": machine.functions.templates,
            "working": [w for w in machine.pool.workers.values() if w.state != IDLE or w.job is not None],
            "clients": [c for c in machine.clients.values() if c.role == "driver"],
            "pinned": [
                c
                for c in machine.clients.values()
                if c.pinned or c.borrowed or c.made or c.promised or c.actors or c.unsealed or c.claims
            ],
        }
        assert {name: table for name, table in tables.items() if table} == {}
        assert machine.store.allocator.used == 0
        assert machine.resources.available == machine.resources.total
        assert len(machine.pool.workers) <= machine.pool.spare

    # What must be true at any time ------------------------------------------------------------------------------------

    def check(self) -> None:
        self.machine.check()
        self._uses_are_exact()
        table = self.machine.objects.table
        for process in self.processes.values():
            if process.alive:
                self._note_orphans(process)
                coming = {ref for _, births in process.wire for ref in births}
                lost = [ref.hex() for ref in process.counts if ref not in table and ref not in coming]
                assert not lost or process.orphaned, f"{process} has refs to {lost}, which were freed"
                said = [message for message, _ in process.wire]
                assert process.client.promised.keys() == process.promises.heard(said)
                for ref, (_, place, content) in process.pins.items():
                    assert self.look(place) == content, f"{process} sees {ref.hex()} change"
        self._exclusive_resources()
        users = Counter(task.template for task in self.tasks_with_arguments())
        for client in self.machine.clients.values():
            users.update(client.templates.values())
        for template in self.machine.functions.templates.values():
            assert template.users == users[template], f"{template} should have {users[template]} users"
        for worker in self.workers:
            record = worker.client.worker
            if record is not None and not worker.inbox:
                assert worker.defined == {template.number for template in record.known}
                assert worker.functions - {0} == {function.number for function in record.known_functions}

    def _note_orphans(self, process: Process) -> None:
        """Tasks that were ended from outside may run on for a while, see their arguments vanish, and pass them on."""
        said = [message[1] for message, _ in process.wire if message[0] in (DONE, DONE_MANY, FAILED)]
        callers = {order.arguments.caller for order in process.orders()}
        running = [order.task for order in process.orders()]
        if not self.orphans.isdisjoint(callers) or any(t not in self.machine.work.tasks for t in (*running, *said)):
            process.orphaned = True
            self.orphans.add(process.client.id)

    def _uses_are_exact(self) -> None:
        uses: Counter[bytes] = Counter()
        for entry in self.machine.objects.table.values():
            uses.update(inner.id for inner in entry.contained)
        for task in self.tasks_with_arguments():
            uses.update(entry.id for entry in (*task.dependencies, *task.nested))
        for function in self.machine.functions.functions.values():
            uses.update(entry.id for entry in function.captured)
        for entry in self.machine.objects.table.values():
            assert entry.uses == uses[entry.id], f"{entry} should be used {uses[entry.id]} times"

    def tasks_with_arguments(self) -> list[Task]:
        """All tasks that use objects."""
        return list(self.machine.work.tasks.values())

    def _exclusive_resources(self) -> None:
        used: Counter[str] = Counter()
        devices: list[int] = []
        for worker in self.workers:
            for invocation in worker.running:
                extra = invocation.order.recipe.extra
                if extra is not None and invocation.order.how != INVOKE:
                    used[extra[0]] += round(extra[1] * 10_000)
                    devices += worker.devices if extra[0] == "GPU" and extra[1] >= 1 else ()
        for name, amount in used.items():
            assert amount <= self.total.get(name, 0) * 10_000, f"{name} is in too many hands"
        assert len(devices) == len(set(devices)), "two tasks have the same device"
