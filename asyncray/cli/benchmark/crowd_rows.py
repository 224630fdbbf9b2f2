"""One event at a node that is full: unfinished tasks and living actors, in its machine and without processes.

A machine and not a node, as ten thousand actors would be ten thousand processes, and a million tasks take a minute to
submit. The figure is the time for which an event holds the daemon's loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from asyncray.cli.benchmark.bench import REPETITIONS, Bench, Figures, Row
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import StartWorker
from asyncray.core.records import Client
from asyncray.ids import FIRST_RETURN, PUT_INDEX
from asyncray.messages import (
    CALL,
    CANCEL,
    CONSTRUCT,
    CREATE,
    DONE,
    FUNCTION,
    INVOKE,
    KILL,
    PLAIN,
    RELEASE_REFS,
    RUN,
    RUN_NESTED,
    SUBMIT,
    TEMPLATE,
    Message,
    Received,
)

if TYPE_CHECKING:
    from asyncray.words import JobSetup

_TASKS, _ACTORS = 200_000, 10_000
_DEMANDS = 5000
_BATCH = 1000
_CPU = [["CPU", 10_000]]
_NEEDS: dict[int, dict[str, Any]] = {
    1: {"demand": _CPU},
    2: {"demand": [], "returns": 0},
    3: {"demand": [], "returns": 1},
    4: {"demand": [["gold", 10_000]]},
}
_FUNCTION, _ACTOR, _METHOD, _STUCK = _NEEDS
"""The numbers of the templates that each driver describes. Tasks that need gold wait for ever."""

_SETUP: JobSetup = {
    "code_paths": {"before": [], "between": [], "after": [], "shadowed": []},
    "directory": None,
    "interpreter": {"executable": "", "prefix": "", "python": "", "asyncray": ""},
    "log_to_driver": False,
    "namespace": "crowd",
}


class Crowd:
    """A machine whose first driver has unfinished tasks and actors.

    Args:
        tasks: unfinished ones: half wait for resources, half for their arguments.
        actors: living ones.
    """

    def __init__(self, tasks: int, actors: int) -> None:
        self.machine = NodeMachine(b"crowded.", {"CPU": 2.0}, "crowd", 1 << 30, {})
        self._ids = itertools.count(1)
        self.driver = self.connect()
        first = self.submit(self.driver, _STUCK)
        self.waiting = [self.submit(self.driver, _STUCK) for _ in range(tasks // 2)]
        for _ in range(tasks // 2):
            self.submit(self.driver, _FUNCTION, [first + FIRST_RETURN])
        self.actors = [self.create(self.driver) for _ in range(actors)]
        self.settle()

    def __repr__(self) -> str:
        return f"<Crowd at {self.machine}>"

    def settle(self) -> None:
        """Workers start and run what they are sent, until nothing moves."""
        machine, outbox = self.machine, self.machine.outbox
        machine.flush()
        while outbox.dirty or outbox.commands:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                if isinstance(command, StartWorker):
                    machine.worker_connected(command.number, command.number)
            parties, outbox.dirty = outbox.dirty, []
            for party in parties:
                messages, party.out = party.out, []
                done = [_done(m) for m in messages if m[0] in (RUN, RUN_NESTED, CONSTRUCT, INVOKE)]
                if done:
                    machine.receive(machine.clients[party.number], done)
            machine.flush()

    def connect(self) -> Client:
        """A driver comes, and describes its functions."""
        driver = self.machine.driver_connected(1, "crowd", _SETUP)
        self.machine.receive(driver, [(FUNCTION, len(_NEEDS) + 1, b"f", b"", None)])
        for number, needs in _NEEDS.items():
            spec = {"name": "f", "function": b"f", "returns": 1, "retries": 0, **needs}
            self.machine.receive(driver, [(TEMPLATE, number, bytes([number]), spec)])
        return driver

    def _id(self, driver: Client) -> bytes:
        assert driver.job is not None
        return driver.id + driver.job.id + next(self._ids).to_bytes(6, "big")

    def submit(self, driver: Client, template: int = _FUNCTION, dependencies: list[bytes] | None = None) -> bytes:
        """A task."""
        task = self._id(driver)
        self.machine.receive(driver, [(SUBMIT, task, template, PLAIN, b"", dependencies, None, None, None)])
        return task

    def create(self, driver: Client) -> bytes:
        """An actor."""
        actor = self._id(driver)
        self.machine.receive(driver, [(CREATE, actor, _ACTOR, PLAIN, b"", None, None, None)])
        return actor

    def call(self, driver: Client, actor: bytes) -> bytes:
        """A call of an actor."""
        call = self._id(driver)
        message = (CALL, call, _METHOD, PLAIN, b"", None, None, None, None, actor)
        self.machine.receive(driver, [message])
        return call

    def events(self) -> dict[str, Callable[[], None]]:
        """The events that may happen next, each once, by name."""
        machine, other = self.machine, self.connect()
        self.submit(other)
        self.call(other, self.create(other))
        self.settle()
        ended, killed = self.actors.pop(), self.actors.pop()
        (idle, *_), *_ = machine.pool.idle.values()

        def say(message: Message) -> Callable[[], None]:
            return lambda: machine.receive(self.driver, [message])

        def tick() -> None:
            machine.now += 1.0
            machine.tick()

        return {
            "a driver comes": lambda: discard(self.connect()),
            "a driver ends": lambda: machine.client_disconnected(other),
            "a worker ends": lambda: machine.worker_exited(idle.number, "it was killed"),
            "an actor ends": say((RELEASE_REFS, [ended + PUT_INDEX])),
            "an actor is killed": say((KILL, killed, True)),
            "a task is cancelled": say((CANCEL, self.waiting.pop(), False, True)),
            "time passes": tick,
        }


class Queue:
    """A machine with two CPUs and tasks that wait for them, each with a demand of its own.

    First come tasks that need most of a CPU. Those behind them need less than half of one, and fit beside two others.

    Args:
        demands: how many tasks there are.
    """

    def __init__(self, demands: int) -> None:
        self._crowd = Crowd(0, 0)
        self.machine = self._crowd.machine
        driver = self._crowd.driver
        for number in range(demands):
            least = 7500 if number < demands // 2 else 2500
            demand = [["CPU", least + number % 2499]]
            spec = {"name": "f", "function": b"f", "returns": 1, "retries": 0, "demand": demand}
            self.machine.receive(driver, [(TEMPLATE, 100 + number, number.to_bytes(4, "big"), spec)])
            self._crowd.submit(driver, 100 + number)
        self.machine.flush()

    def __repr__(self) -> str:
        return f"<Queue at {self.machine}>"

    def finish(self) -> None:
        """The task with the smallest demand has finished, and another one gets its place."""
        leases = [worker.lease for worker in self.machine.pool.workers.values() if worker.lease is not None]
        worker = min(leases, key=lambda lease: lease.grant.demand).worker
        assert worker.client is not None
        self.machine.receive(worker.client, [(DONE, next(iter(worker.inflight)), 10, PLAIN, b"", None)])
        self.machine.flush()

    def take_messages(self) -> None:
        """Takes what the machine has sent, and starts the workers that it wants."""
        outbox = self.machine.outbox
        commands, outbox.commands = outbox.commands, []
        for command in commands:
            if isinstance(command, StartWorker):
                self.machine.worker_connected(command.number, command.number)
        for party in outbox.dirty:
            party.out.clear()
        outbox.dirty.clear()


def _done(message: Received) -> Message:
    return (DONE, message[1], 10, PLAIN, b"", None)


def discard(_: object) -> None:
    """Drops a result."""


def _longest_event(bench: Bench) -> Figures:
    """The longest of all events, each at its fastest: what other programs on the machine add is none of ours."""
    crowd = Crowd(bench.sized(_TASKS), bench.sized(_ACTORS))
    best: dict[str, float] = {}
    for _ in range(2 * REPETITIONS):
        for name, event in crowd.events().items():
            began = perf_counter()
            event()
            crowd.machine.flush()
            best[name] = min(best.get(name, 1.0), perf_counter() - began)
            crowd.settle()
    bench.check(len(crowd.machine.work.tasks) > bench.sized(_TASKS) // 2)
    return Figures([max(best.values())])


def _finish_beside_demands(bench: Bench) -> Figures:
    """The median time of a task's end, with what it costs to choose the next task."""
    queue, times = Queue(bench.sized(_DEMANDS)), []
    unfinished = len(queue.machine.work.tasks)
    for _ in range(bench.sized(_DEMANDS // 5)):
        queue.take_messages()
        began = perf_counter()
        queue.finish()
        times.append(perf_counter() - began)
    bench.check(len(queue.machine.work.tasks) == unfinished - len(times), "the number of tasks")
    return Figures(times)


ROWS = [
    Row("event beside 200,000 tasks and 10,000 actors", "s", _longest_event, session=False),
    Row("task's end beside 5,000 different demands", "s", _finish_beside_demands, session=False),
]
