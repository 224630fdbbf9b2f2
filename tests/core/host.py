"""One node of the simulated world: its machine, processes, forks, shared memory, and commands that are under way.

A host does what one daemon and its operating system do: it carries messages and commands, forks and kills, and lets
the daemon learn of ends sooner or later. The world knows everything that concerns all nodes together: the content of
objects, and which processes may still name a dead ref. A host asks the world. ``check`` and ``nothing_is_left`` look at
this node alone. The machines of a cluster, and what they say to other nodes, are the affair of a ``Shell`` around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from asyncray.core.lives import Actor
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import (
    Command,
    CreateSegment,
    FlushOutput,
    KillWorker,
    LogLine,
    RetireSegment,
    StartWorker,
)
from asyncray.core.records import Client, Guest, Party, Task
from asyncray.core.states import DEAD, FINISHED, IDLE
from asyncray.messages import (
    ADD_REFS,
    BLOCKED,
    CANCEL,
    DONE,
    DONE_MANY,
    FAILED,
    INVOKE,
    LEAVING,
    PROMISE,
    PUT,
    RELEASE_REFS,
    REQUEST,
    SEAL,
    Received,
)
from tests.core.processes import Driver, Process, Worker
from tests.core.programs import Content
from tests.greeting import SETUP

if TYPE_CHECKING:
    from tests.core.oracle import Oracle

CELL = 64
CAPACITY = 8192


class Shell(Protocol):
    """The code around a node that belongs to a cluster."""

    def flush(self) -> None:
        """All events of a batch have been handled: the machines of the cluster decide."""

    def write(self, party: Party) -> None:
        """Takes the messages for another node, or for the head."""

    def do(self, command: Command) -> None:
        """Carries out a command of the machines of the cluster."""

    def end_turn(self) -> None:
        """All messages and commands have been taken."""


class Host:
    """One node of a world.

    Args:
        world: what it is a part of.
        node_id: no other host of the world has it. The names of its segments begin with it.
        resources: name -> amount.
    """

    def __init__(self, world: Oracle, node_id: bytes, resources: Mapping[str, float]) -> None:
        self.world = world
        self.total = resources
        self.machine = NodeMachine(node_id, resources, node_id.decode(), CAPACITY, {})
        self.processes: dict[int, Process] = {}  # by the client's number, until the daemon learns of the end
        self.unborn: list[int] = []  # workers that the zygote has yet to fork
        self.doomed: list[int] = []  # workers that the shell has yet to kill
        self.corpses: list[Worker] = []  # workers whose end the daemon does not know
        self.misses: list[int] = []  # workers that could not be forked, or were killed before
        self.segments: list[CreateSegment] = []  # segments that the shell has yet to make
        self.memory: dict[tuple[str, int], Content] = {}
        self.shell: Shell | None = None
        self.tool = self.machine.observer_connected(0)

    def __repr__(self) -> str:
        return f"<Host {self.machine}>"

    # Memory -----------------------------------------------------------------------------------------------------------

    def _cells(self, place: list[Any]) -> Iterator[tuple[str, int]]:
        segment, offset, size = place[:3]
        return ((segment, cell) for cell in range(offset // CELL, (offset + size - 1) // CELL + 1))

    def write(self, place: list[Any], content: Content) -> None:
        self.memory.update(dict.fromkeys(self._cells(place), content))

    def look(self, place: list[Any]) -> Content:
        (content,) = {self.memory[cell] for cell in self._cells(place)}
        return content

    # Events -----------------------------------------------------------------------------------------------------------

    @property
    def drivers(self) -> list[Driver]:
        return [p for p in self.processes.values() if isinstance(p, Driver) and p.alive]

    @property
    def workers(self) -> list[Worker]:
        return [p for p in self.processes.values() if isinstance(p, Worker) and p.alive]

    def after(self) -> None:
        """Takes the messages and commands that the daemon has after an event."""
        self.world.before_flush(self)
        self.machine.flush()
        if self.shell is not None:
            self.shell.flush()
        self.machine.scheduler.check_round()
        outbox = self.machine.outbox
        while outbox.commands or outbox.dirty:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                self._do(command)
            dirty, outbox.dirty = outbox.dirty, []
            for party in dirty:
                self._write(party)
        if self.shell is not None:
            self.shell.end_turn()

    def _write(self, party: Party) -> None:
        process = self.processes.get(party.number)
        if isinstance(party, Client):
            if process is not None and process.alive:
                process.inbox.extend(party.out)
            party.out.clear()
        else:
            assert self.shell is not None
            self.shell.write(party)

    def _do(self, command: Command) -> None:
        if isinstance(command, StartWorker):
            self.unborn.append(command.number)
        elif isinstance(command, KillWorker):
            self.doomed.append(command.number)
        elif isinstance(command, CreateSegment):
            self.segments.append(command)
        elif isinstance(command, RetireSegment):
            self.memory = {cell: content for cell, content in self.memory.items() if cell[0] != command.name}
        elif not isinstance(command, (LogLine, FlushOutput)):
            assert self.shell is not None, command
            self.shell.do(command)

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
            self.misses.append(number)  # not wanted: the shell closes the connection, and the worker ends
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
        """A process ends. The daemon does not know yet, and can still read the messages that the process wrote."""
        process.alive = False
        process.inbox.clear()
        process.promises.due.clear()
        if isinstance(process, Worker):
            self.corpses.append(process)

    def hear(self, process: Process, count: int = 1) -> None:
        """The next messages of a process reach the daemon, even if the process has ended."""
        messages: list[Received] = []
        self._note_orphans(process)
        while process.wire and len(messages) < count:
            messages.append(process.wire.popleft()[0])
            self.world.carried(process, messages[-1], to_daemon=True)
        self._receive(process, messages)
        self.after()

    def _receive(self, process: Process, messages: list[Received]) -> None:
        dead_refs = self.machine.objects.dead_refs
        before = dead_refs.count
        for message in messages:
            family = self._family(message[1]) if message[0] == CANCEL and process.alive else []
            self.machine.receive(process.client, [message])
            missed = [task for task in family if task.state != FINISHED and not task.cancelled]
            assert not missed or not message[3], f"{missed} were not cancelled with their parent"
        again = process.repeated
        allowed = len(again[1]) if again is not None and any(message is again for message in messages) else 0
        excused = process.orphaned or process.has_foreign_refs
        assert dead_refs.count - before <= allowed or excused, f"{process} names dead refs in {messages}"

    def _family(self, task_id: bytes) -> list[Task]:
        """The tasks that a recursive cancellation must reach at once: this one and its descendants, no constructors.

        Without the children of an earlier attempt of a guest, which was another task here, and without guests whose
        parents ran elsewhere: their homes cancel them.
        """
        tasks = self.machine.work.tasks
        found = [task for task in (tasks.get(task_id),) if task is not None and not task.is_constructor]
        for parent in found:
            children = [t for t in tasks.values() if self.world.parents.get(t.id) == parent.id]
            at_home = [t for t in children if t.parent is parent or not (t.is_guest or parent.is_guest)]
            found += [task for task in at_home if not task.is_constructor]
        return found

    def repeat(self, process: Process) -> None:
        """A message arrives twice. The copy changes nothing, or the daemon refuses it and cuts the client off."""
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

    def exit_seen(self, *, with_zygote: bool = False) -> None:
        """The daemon learns that a worker process has ended, and perhaps only later that its connection has."""
        worker = self.corpses.pop(0)
        self.processes.pop(worker.client.number, None)
        self.machine.worker_exited(worker.number, "killed by a signal", with_zygote=with_zygote)
        while worker.wire:  # a late batch
            self._receive(worker, [worker.wire.popleft()[0]])
        self.machine.client_disconnected(worker.client)
        self.after()

    def miss_seen(self) -> None:
        self.machine.worker_exited(self.misses.pop(0), "it did not start")
        self.after()

    def segment(self, works: bool = True) -> None:
        """The shell makes a segment, or fails to make it."""
        command = self.segments.pop(0)
        if works:
            self.machine.store.segment_created(command.name)
        else:
            self.machine.store.segment_failed(command.name, "no space")
        self.after()

    def tick(self, now: float) -> None:
        self.machine.now = now
        self.machine.tick()
        self.after()

    def order(self, *message: Any) -> None:
        """The command line tool sends a message."""
        self.machine.receive(self.tool, [message])
        self.after()

    def moves(self) -> list[Callable[[], object]]:
        """The events that may happen next, without those that a test brings about."""
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

    # Steps that a test need not choose --------------------------------------------------------------------------------

    @property
    def has_messages(self) -> bool:
        return any(process.wire or process.inbox for process in self.processes.values())

    def talk(self) -> None:
        """The daemon reads from each process once, and each process reads the messages that it has got."""
        for process in list(self.processes.values()):
            self.hear(process, len(process.wire))
            while process.inbox:
                process.read_inbox()

    def chores(self) -> bool:
        """Does the forks, kills, ends, segments and promises that are due. False if there were none."""
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

    def run(self) -> bool:
        """Each thread of each worker does a step. False if none could."""
        moved = False
        for worker in self.workers:
            for thread in range(max(1, len(worker.running))):
                moved |= worker.alive and worker.step(thread)
        return moved

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

    def hopeless(self) -> list[Task]:
        """Tasks that can never run here."""
        feasible = self.machine.resources.feasible
        unfinished = [task for task in self.machine.work.tasks.values() if task.state != FINISHED]
        return [task for task in unfinished if not feasible(task.template.demand)]

    def actors(self) -> list[Actor]:
        return [actor for actor in self.machine.actors.table.values() if actor.state != DEAD]

    # Invariants -------------------------------------------------------------------------------------------------------

    def nothing_waits_that_could_run(self) -> None:
        for shape in self.machine.scheduler.shapes.table.values():
            waiting = shape.peek()
            assert waiting is None or not shape.account.fits(shape.demand), f"{waiting} could run"
        assert not self.machine.store.waiting
        with_groups = self._promised_with_groups()
        assert not any(client.promised.keys() - with_groups for client in self.machine.clients.values())

    def _promised_with_groups(self) -> set[bytes]:
        """The objects that wait for placement groups."""
        promised = self.machine.group_requests.promised.values()
        return {object_id for objects in promised for _, object_id, _ in objects}

    def nothing_is_left(self) -> None:
        machine = self.machine
        tables = {
            "objects": machine.objects.table,
            "tasks": machine.work.tasks,
            "actors": machine.actors.table,
            "names": list(machine.directory.list(None)),
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
        left = {name: table for name, table in tables.items() if table}
        assert not left, f"{self} keeps {left}"
        assert machine.store.allocator.used == 0
        assert machine.resources.available == machine.resources.total
        assert len(machine.pool.workers) <= machine.pool.spare

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
                promised = process.client.promised.keys() - self._promised_with_groups()
                assert promised == process.promises.heard(said)
                for ref, (_, place, content) in process.pins.items():
                    assert self.look(place) == content, f"{process} sees {ref.hex()} change"
        self._exclusive_resources()
        users = Counter(task.template for task in self.world.tasks_with_arguments(self))
        for client in (*self.machine.clients.values(), *self.world.visitors(self)):
            users.update(client.templates.values())
        for template in self.machine.functions.templates.values():
            assert template.users == users[template], f"{template} should have {users[template]} users"
        for worker in self.workers:
            record = worker.client.worker
            if record is not None and not worker.inbox:
                assert worker.known.templates.keys() == {template.number for template in record.known}
                functions = {function.number for function in record.known_functions}
                assert worker.known.functions.keys() - {0} == functions

    def _note_orphans(self, process: Process) -> None:
        """A task that the daemon has ended may run on for a while, read freed arguments, and pass their refs on."""
        said = [message[1] for message, _ in process.wire if message[0] in (DONE, DONE_MANY, FAILED)]
        callers = {order.arguments.caller for order in process.orders()}
        running = [order.task for order in process.orders()]
        if not self.world.orphans.isdisjoint(callers) or any(map(self._has_ended, (*running, *said))):
            process.orphaned = True
            self.world.orphans.add(process.client.id)

    def _has_ended(self, task_id: bytes) -> bool:
        """True if the daemon has ended a task, or lets go what the task of a lost home uses."""
        task = self.machine.work.tasks.get(task_id)
        return task is None or (isinstance(task, Guest) and not task.home.alive)

    def _uses_are_exact(self) -> None:
        uses: Counter[bytes] = Counter()
        for entry in self.machine.objects.table.values():
            uses.update(inner.id for inner in entry.contained)
        for task in self.world.tasks_with_arguments(self):
            uses.update(entry.id for entry in (*task.dependencies, *task.nested))
        for function in self.machine.functions.functions.values():
            uses.update(entry.id for entry in function.captured)
        uses.update(entry.id for entry in self.world.used_for_other_nodes(self))
        for entry in self.machine.objects.table.values():
            assert entry.uses == uses[entry.id], f"{entry} should be used {uses[entry.id]} times"

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
