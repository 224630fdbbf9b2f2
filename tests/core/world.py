"""A simulated world of nodes, in one thread: the clock that all nodes share, and their checks.

A world has hosts (``host.py``: a node with its processes, forks and memory) and a clock, and is itself the oracle that
knows what each object is (``oracle.py``). Everything that happens is one call: a message arrives, a process reads or
runs a little, a fork succeeds, a process dies and the daemon learns of it, sooner or later and in either order. The
world draws nothing itself: a test chooses from its seed what happens next. After each event every machine must agree
with itself and with what the world knows:

- an object exists while a living process has a ref to it, and every count of uses is right;
- all readers of an object get the same value, and shared memory does not change while a process may read it;
- a promised object gets the value that was promised, the error that its maker put, or an error at its maker's end;
- a message names only objects that exist. A dead ref comes from an orphan (a process that runs a task after the daemon
  has ended it and freed its arguments) or from another node, or the message is the second of two equal ones;
- a task is not started more often than its retries allow, and the calls of one caller start in order;
- two tasks never hold the same exclusive resource;
- a recursive cancellation reaches all descendants of the task, but no actors.

``settle`` runs all daemons and processes until none can do anything; then no task that could run may be waiting.
``end`` ends all drivers and actors; then nothing may be left.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncray.core.machine import NodeMachine
from asyncray.core.pauses import LONGEST_PAUSE
from asyncray.core.records import Task
from asyncray.messages import CANCEL, KILL
from tests.core.host import Host
from tests.core.oracle import Oracle
from tests.core.processes import Driver, Process

NODE_ID = b"thisnode"


class World(Oracle):
    """Some hosts and a clock. A world begins with one host, which has the given resources."""

    def __init__(self, **resources: float) -> None:
        super().__init__()
        self.now = 0.0
        self.host = self.add_host(NODE_ID, **resources)

    def add_host(self, node_id: bytes, **resources: float) -> Host:
        host = Host(self, node_id, resources or {"CPU": 2.0, "R": 1.0, "GPU": 2.0})
        host.machine.now = self.now
        self.hosts.append(host)
        return host

    @property
    def machine(self) -> NodeMachine:
        """The machine of the first host: most tests have no other."""
        return self.host.machine

    def driver(self) -> Driver:
        """Connects a driver to the first host. A test that needs another host calls ``host.driver``."""
        return self.host.driver()

    # Events -----------------------------------------------------------------------------------------------------------

    def die(self, process: Process) -> None:
        """A process ends."""
        process.host.die(process)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts:
            host.tick(self.now)

    def moves(self) -> list[Callable[[], object]]:
        """The events that may happen next, without those that a test brings about."""
        return [move for host in self.hosts for move in host.moves()]

    # Steps that a test need not choose --------------------------------------------------------------------------------

    def talk(self) -> bool:
        """Delivers all messages in both directions. No program runs. False if there were none."""
        rounds = 0
        while any(host.has_messages for host in self.hosts):
            for host in self.hosts:
                host.talk()
            rounds += 1
        return rounds > 0

    def chores(self) -> bool:
        """Forks, kills, ends, segments, and promises that can be kept. False if there was nothing to do."""
        moved = [host.chores() for host in self.hosts]
        return any(moved)

    def deliver(self) -> None:
        """Everything but programs."""
        while self.talk() | self.chores():
            self.check()

    def run(self) -> bool:
        """Each thread of each worker does a step. False if none could."""
        moved = [host.run() for host in self.hosts]
        return any(moved)

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
        for host in self.hosts:
            host.nothing_waits_that_could_run()

    def unresolved(self) -> list[str]:
        return [waiting for host in self.hosts for waiting in host.unresolved()]

    def _obstacles(self) -> list[tuple[Host, Task]]:
        """The tasks that can never run; if there are none, the constructors of the actors."""
        hopeless = [(host, task) for host in self.hosts for task in host.hopeless()]
        if hopeless or not self.unresolved():
            return hopeless
        return [(host, actor.task) for host in self.hosts for actor in host.actors()]

    def resolve_all(self) -> None:
        """Ends all tasks: cancels those that can never run, and kills actors that hold resources which others need."""
        self.settle()
        while obstacles := self._obstacles():
            for host, task in obstacles:
                host.order(KILL, task.id, True) if task.is_constructor else host.order(CANCEL, task.id, False, False)
            self.settle()  # programs that go on may submit more such
        assert not self.unresolved(), (self.unresolved(), self.hosts)

    def end(self) -> None:
        """Ends all drivers and kills detached actors: nothing may be left."""
        self.resolve_all()
        for driver in self.drivers:
            self.die(driver)
        self.settle()
        self.check()
        for host in self.hosts:
            for actor in host.actors():
                host.order(KILL, actor.id, True)
        self.settle()
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        for host in self.hosts:
            host.nothing_is_left()

    def check(self) -> None:
        """Checks the rules that hold at any time."""
        for host in self.hosts:
            host.check()
