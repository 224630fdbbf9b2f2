"""The oracle of a simulated world: what every object is, how often tasks start, and which processes name dead refs.

It stands outside of all machines. Processes report to it what they submit, start and read; hosts ask it for rules that
no node alone can check. A test world overrides the methods that are rules of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncray.core.records import Client, ObjectEntry, Task
from asyncray.messages import INVOKE, Received
from tests.core.processes import OFTEN_ENOUGH
from tests.core.promises import BROKEN

if TYPE_CHECKING:
    from tests.core.host import Host
    from tests.core.processes import Driver, Order, Process, Worker
    from tests.core.programs import Content, Recipe


class Oracle:
    """The hosts of a world, and the facts that they must agree with."""

    def __init__(self) -> None:
        self.truth: dict[bytes, Any] = {}
        self.pure: set[bytes] = set()
        self.promised: dict[bytes, tuple[Process, Content]] = {}  # by whom, and what
        self.broken: set[bytes] = set()  # promises
        self.recipes: dict[bytes, Recipe] = {}
        self.parents: dict[bytes, bytes | None] = {}  # task -> the task whose code submitted it
        self.starts: Counter[bytes] = Counter()
        self.orphans: set[bytes] = set()
        self.uncounted: set[bytes] = set()  # lives of actors that have handles without a count
        self._tags = 0
        self.hosts: list[Host] = []

    @property
    def drivers(self) -> list[Driver]:
        return [driver for host in self.hosts for driver in host.drivers]

    @property
    def workers(self) -> list[Worker]:
        return [worker for host in self.hosts for worker in host.workers]

    @property
    def processes(self) -> list[Process]:
        """The processes whose end their daemons have not seen."""
        return [process for host in self.hosts for process in host.processes.values()]

    # Extensions for tests of things that the machine does not do by itself --------------------------------------------

    def before_flush(self, host: Host) -> None:
        """The daemon of a host has handled an event, and has not handed out work yet."""

    def carried(self, process: Process, message: Received, *, to_daemon: bool) -> None:
        """A message has reached its receiver."""

    def tasks_with_arguments(self, host: Host) -> list[Task]:
        """All tasks of a host that use objects."""
        return list(host.machine.work.tasks.values())

    def used_for_other_nodes(self, host: Host) -> Iterable[ObjectEntry]:
        """The objects that a host uses because other nodes may need them, once for each use."""
        return ()

    def visitors(self, host: Host) -> Iterable[Client]:
        """The clients that stand for processes of other nodes."""
        return ()

    # Services for processes -------------------------------------------------------------------------------------------

    def tag(self) -> int:
        self._tags += 1
        return self._tags

    def watch(self, task: bytes, recipe: Recipe) -> None:
        self.recipes[task] = recipe

    def agrees(self, ref: bytes, content: Any) -> None:
        """All readers get the same value of an object, and no object that a process can ask for is lost."""
        if isinstance(content, list) and content[0] == "ObjectLostError":
            assert self.orphans or self.excuses(content), f"{ref.hex()} is lost"
            return
        if ref in self.promised:
            self._is_as_promised(ref, content)
        assert OFTEN_ENOUGH not in repr(content), "an actor was placed in a process that was about to end"
        assert repr(self.truth.setdefault(ref, content)) == repr(content), f"{ref.hex()} has two values"

    def excuses(self, fault: Any) -> bool:
        """True if a lost object is no defect."""
        return False

    def _is_as_promised(self, ref: bytes, content: Any) -> None:
        maker, promised = self.promised[ref]
        if content == BROKEN:
            assert ref in self.broken, f"the promise of {ref.hex()} was not broken"
        elif isinstance(content, list) and content[0] == "OwnerDiedError":
            assert not maker.alive, f"{maker} lives and can put {ref.hex()}"
        else:
            assert content == promised, f"{ref.hex()} is not what was promised"

    def started(self, worker: Worker, order: Order) -> None:
        """A worker starts a task, or starts it again."""
        task, recipe = order.task, order.recipe
        self.starts[task] += 1
        again = recipe.restarts if worker.is_actor and order.how != INVOKE else recipe.retries
        unheard = again > 0 and not worker.is_actor  # sent behind another, it may start once unnoticed
        assert again == -1 or self.starts[task] <= 1 + again + unheard, f"{task.hex()} is started too often"
        if order.how == INVOKE and worker.ordered and not recipe.retries:
            caller, sequence = order.arguments.caller, order.arguments.sequence
            assert worker.last_call.get(caller, 0) < sequence, "calls of one caller run out of order"
            worker.last_call[caller] = sequence
