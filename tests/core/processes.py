"""Simulated drivers and workers that keep to the protocol, whatever their programs do.

A process reads its inbox, writes to its wire, counts its refs and pins, and runs its scopes. A worker keeps a queue of
what it was sent, runs the head of it on its main thread, and what is nested on threads beside.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from asyncray.core.records import Client
from asyncray.messages import (
    ABANDON,
    ADD_REFS,
    ALLOCATE,
    ALLOCATED,
    AWAY,
    BLOCKED,
    CONSTRUCT,
    DEFINE,
    DONE,
    DONE_MANY,
    ERROR,
    ERROR_SEEN,
    FAILED,
    FAULT,
    FORGET,
    FUNCTION,
    INVOKE,
    LEASE,
    LEAVE,
    LEAVING,
    NOT_STARTED,
    NOTICE,
    OUTPUT,
    PLAIN,
    RELEASE_REFS,
    REPLY,
    REPLY_FAULT,
    RETURN_QUEUED,
    RUN,
    RUN_GC,
    RUN_NESTED,
    SETUP,
    SHARED,
    STOP_TASK,
    STORE_FULL,
    SUBSCRIBE,
    SUBSCRIBE_ANYWHERE,
    TEMPLATE,
    UNBLOCKED,
    UNDEFINE,
    UNPIN,
    UNREAD,
    VALUE,
    WELCOME,
    Received,
)
from tests.core.definitions import Definitions
from tests.core.programs import Arguments, Content, Recipe, Scope, name_of_call
from tests.core.promises import Promises

if TYPE_CHECKING:
    from tests.core.host import Host


OFTEN_ENOUGH = "it has run often enough"


class Process:
    """A driver or worker. ``wire``: its messages that the daemon has not received; ``inbox``: the reverse."""

    def __init__(self, host: Host, client: Client, job_id: bytes = b"") -> None:
        self.host = host
        self.world = host.world
        self.client = client
        self.job_id = job_id
        self.alive = True
        self.orphaned = False  # it ran a task that had been ended already
        self.has_foreign_refs = False  # of another node, by a pickle that no message carried
        self.repeated: Received | None = None  # the last release that arrived twice
        self.inbox: deque[Received] = deque()
        self.wire: deque[tuple[Received, tuple[bytes, ...]]] = deque()  # with the objects that it makes
        self.counter = 0
        self.counts: Counter[bytes] = Counter()  # of refs
        self.values: dict[bytes, Any] = {}
        self.asked: set[bytes] = set()  # objects whose values will come
        self.pins: dict[bytes, tuple[int, list[Any], Content]] = {}  # how often told, where, what stands there
        self.exports: dict[bytes, int] = {}  # the number of each function and template, by digest
        self.exported = 0
        self.questions: dict[int, Callable[[Any], None]] = {}
        self.promises = Promises(self)
        self.state = Scope(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client.number} {'alive' if self.alive else 'dead'}>"

    def send(self, message: Received, births: Iterable[bytes] = ()) -> None:
        self.wire.append((message, tuple(births)))
        for ref in births:
            self.born(ref)

    def born(self, ref: bytes) -> None:
        """The message that makes an object makes its first ref."""
        self.counts[ref] += 1
        self.asked.add(ref)

    def next_id(self) -> bytes:
        self.counter += 1
        return self.client.id + self.job_id + self.counter.to_bytes(6, "big")

    def template(self, spec: dict[str, Any], captured: tuple[bytes, ...] = ()) -> int:
        spec["function"] += b"".join(captured)
        code, nested = (Content(0, captured), list(captured)) if captured else (b"code", None)
        self.export(spec["function"], lambda number: (FUNCTION, number, spec["function"], code, nested))
        digest = repr(spec).encode()
        return self.export(digest, lambda number: (TEMPLATE, number, digest, spec))

    def export(self, digest: bytes, message: Callable[[int], Received]) -> int:
        """Sends a function or template, unless the daemon has it."""
        number = self.exports.get(digest)
        if number is None:
            self.exported += 1
            number = self.exports[digest] = self.exported
            self.send(message(number))
        return number

    def unexport(self, index: int) -> None:
        """The program drops a function, or a copy with other options. A late FORGET may come again."""
        if self.exports:
            number = self.exports.pop(list(self.exports)[index % len(self.exports)])
            for _ in range(1 + index % 2):
                self.send((FORGET, [number]))

    def ask(self, kind: int, method: str, arguments: list[Any], answered: Callable[[Any], None]) -> None:
        self.questions[len(self.questions)] = answered
        self.send((kind, len(self.questions) - 1, method, arguments))

    # References -------------------------------------------------------------------------------------------------------

    def hold(self, ref: bytes) -> None:
        self.counts[ref] += 1
        if self.counts[ref] == 1:
            self.send((ADD_REFS, [ref]))

    def drop(self, ref: bytes) -> None:
        self.counts[ref] -= 1
        if not self.counts[ref]:
            del self.counts[ref]
            self.values.pop(ref, None)
            self.asked.discard(ref)
            self.send((RELEASE_REFS, [ref]))

    def subscribe(self, ref: bytes) -> bool:
        """True if the value is here."""
        if ref not in self.asked:
            self.asked.add(ref)
            self.send((SUBSCRIBE if sum(ref) % 3 else SUBSCRIBE_ANYWHERE, [ref]))
        return ref in self.values

    def know(self, ref: bytes, content: Any) -> None:
        self.values[ref] = content
        self.world.agrees(ref, content)

    def read(self, ref: bytes) -> Any:
        if not isinstance(self.values[ref], Content):
            self.send((ERROR_SEEN, [ref]))
        return self.values[ref]

    # Shared memory ----------------------------------------------------------------------------------------------------

    def allocate(self, size: int, answered: Callable[[Any], None]) -> None:
        number = len(self.questions)
        self.questions[number] = lambda place: answered(None if place is None else [*place, size])
        self.send((ALLOCATE, number, size))

    def abandon(self, place: list[Any]) -> None:
        self.send((ABANDON, place[0], place[1]))

    def write(self, place: list[Any], content: Content) -> None:
        self.host.write(place, content)

    def pinned(self, ref: bytes, place: list[Any], content: Content) -> None:
        """The daemon keeps that memory for this process until it says otherwise."""
        times = self.pins[ref][0] if ref in self.pins else 0
        self.pins[ref] = (times + 1, place, content)

    def opened(self, ref: bytes, kind: int, payload: Any) -> Any:
        """A value as it came: the content, looked up in memory where it is shared."""
        if kind != SHARED:
            return payload
        content = self.host.look(payload)
        self.pinned(ref, payload, content)
        return content

    def collect(self) -> None:
        """Garbage collection: unpins the views that no code uses any more."""
        needed = {ref for order in self.orders() for ref, _, _ in order.values or ()}
        for ref in [ref for ref in self.pins if not self.counts[ref] and ref not in needed]:
            self.send((UNPIN, [[ref, self.pins.pop(ref)[0]]]))

    def orders(self) -> Iterable[Order]:
        return ()

    # Messages ---------------------------------------------------------------------------------------------------------

    def read_inbox(self) -> None:
        message = self.inbox.popleft()
        self.world.carried(self, message, to_daemon=False)
        kind = message[0]
        if kind == VALUE:
            _, ref, value_kind, payload = message
            content = self.opened(ref, value_kind, payload)
            self.world.agrees(ref, content)
            if self.counts[ref]:
                self.values[ref] = content
        elif kind == AWAY:
            _, ref, comes = message
            if self.counts[ref] and not comes:
                self.send((SUBSCRIBE, [ref]))
        elif kind == ALLOCATED:
            self.questions[message[1]](message[2:4])
        elif kind == REPLY:
            self.questions[message[1]](message[2])
        elif kind == REPLY_FAULT:
            assert message[2] in ("ObjectStoreFullError", "ActorAlreadyExistsError")
            self.questions[message[1]](None if message[2] == "ObjectStoreFullError" else message[2])
        elif kind == RUN_GC:
            self.collect()
        elif kind == STORE_FULL:
            assert message[1] in self.questions
        else:
            self.told(message)

    def told(self, message: Received) -> None:
        """Handles a message that only some kinds of processes get."""


class Driver(Process):
    """A driver: the test decides what it does."""

    def __init__(self, host: Host, client: Client) -> None:
        assert client.job is not None
        super().__init__(host, client, client.job.id)
        self.news: list[Received] = []

    def told(self, message: Received) -> None:
        if message[0] in (OUTPUT, UNREAD, NOTICE):
            self.news.append(message)

    def submit(self, recipe: Recipe | None = None, **options: Any) -> bytes:
        """Submits a function; returns its first result."""
        self.state.spawn(recipe or Recipe(**options))
        return self.state.refs[-1]

    def create(self, **options: Any) -> bytes:
        """Makes an actor; returns the handle."""
        self.state.make(Recipe(**options))
        return self.state.handles[-1]

    def call(self, handle: bytes, **options: Any) -> bytes:
        """Calls an actor; returns the first result."""
        self.state.call(Recipe(target=self.state.handles.index(handle), **options))
        return self.state.refs[-1]

    def lose(self, handle: bytes) -> None:
        """The last copy of a handle goes out of scope."""
        self.state.release(self.state.handles.index(handle))

    def error(self, ref: bytes) -> str:
        """The name of the system error that is an object's value."""
        value = self.values[ref]
        assert isinstance(value, list), value
        return str(value[0])

    def message(self, ref: bytes) -> str:
        return str(self.values[ref][1]["message"])


class Order:
    """A task as a worker gets it."""

    def __init__(self, message: Received) -> None:
        self.how, self.task, self.template, self.kind, self.payload, self.values, self.name = message[:7]

    @property
    def arguments(self) -> Arguments:
        assert isinstance(self.payload, Arguments)
        return self.payload

    @property
    def recipe(self) -> Recipe:
        return self.arguments.recipe


class Invocation(Scope):
    """One task on one thread."""

    def __init__(self, worker: Worker, order: Order) -> None:
        recipe = order.recipe
        careful = recipe.careful or order.how in (CONSTRUCT, INVOKE)
        super().__init__(worker, order.task, careful, leaf=recipe.extra is not None)
        self.worker = worker
        self.order = order
        self.done_steps = 0
        self.blocked = False
        self.waitable = set(order.arguments.waitable)
        self.learn(order.arguments)
        self.learn(Content(0, worker.known.load(order.template)))
        for ref, kind, _ in order.values or ():
            if kind == SHARED:
                self.learn(worker.pins[ref][2])
        for _, kind, payload in order.values or ():
            if kind == PLAIN:
                self.learn(payload)

    def advance(self) -> bool:
        """One step. False if there is nothing it can do now."""
        if self.awaits is not None and self.awaits not in self.process.values:
            return False
        if self.allocation == "asked":
            return False
        if self.blocked:
            self.blocked = False
            self.worker.send((UNBLOCKED, self.order.task))
            return True
        steps = self.order.recipe.steps
        if self.done_steps == len(steps):
            return self._end()
        if self.do(steps[self.done_steps]):
            self.done_steps += 1
        elif self.awaits is not None:
            self.blocked = True
            self.worker.blocks(self)
        return True

    def _end(self) -> bool:
        recipe, worker, task = self.order.recipe, self.worker, self.order.task
        if recipe.ending == "crash":
            worker.host.die(worker)
            return True
        if recipe.ending == "exit" and self.order.how in (INVOKE, CONSTRUCT):
            worker.exit("exit_actor() was called")
            return True
        if recipe.ending in ("raise", "retry"):
            error, (_, nested) = f"error {self.world.tag()}", self._content(1)
            worker.send((FAILED, task, recipe.takes, ERROR, error, recipe.ending == "retry", nested))
        else:
            if recipe.ending == "shared" and self.order.how != CONSTRUCT and not self.allocate(task[-1] * 7 + 1):
                return True
            self._return(recipe, [] if self.order.how == CONSTRUCT else [self._value(i) for i in range(recipe.returns)])
        worker.over(self)
        if recipe.ending == "exit" and not worker.running:
            worker.give_back()
            worker.exit(OFTEN_ENOUGH)
        return True

    def _value(self, index: int) -> tuple[int, Any, list[bytes] | None]:
        place, self.allocation = self.allocation, None
        wants_refs = self.order.recipe.ending in ("refs", "shared")
        content, nested = self._content(index * 2 + 1) if wants_refs else (Content(self.world.tag()), None)
        if place is None:
            return PLAIN, content, nested
        self.worker.write(place, content)
        return SHARED, place, nested

    def _return(self, recipe: Recipe, values: list[Any]) -> None:
        if self.allocation:
            self.worker.abandon(self.allocation)  # of a function that returns nothing
        if len(values) > 1:
            self.worker.send((DONE_MANY, self.order.task, recipe.takes, values))
        else:
            self.worker.send((DONE, self.order.task, recipe.takes, *(values[0] if values else (PLAIN, None, None))))


class Worker(Process):
    """A worker process."""

    def __init__(self, host: Host, client: Client, number: int) -> None:
        super().__init__(host, client)
        self.number = number
        self.queue: deque[Order] = deque()
        self.main: Invocation | None = None
        self.threads: list[Invocation] = []
        self.known = Definitions(self)
        self.devices: tuple[int, ...] = ()
        self.is_actor = False
        self.ordered = True
        self.leaving = False
        self.last_call: dict[bytes, int] = {}
        self.last_told: dict[int, Received] = {}  # by kind

    def orders(self) -> Iterable[Order]:
        return [*self.queue, *(invocation.order for invocation in self.running)]

    @property
    def running(self) -> list[Invocation]:
        return [*([self.main] if self.main else []), *self.threads]

    def told(self, message: Received) -> None:
        kind = message[0]
        self.last_told[kind] = message
        if kind in (RUN, RUN_NESTED, CONSTRUCT, INVOKE):
            self._ordered(Order(message))
        elif kind == SETUP:
            assert not self.job_id
            self.job_id = message[1]
        elif kind == DEFINE:
            self.known.define(message)
        elif kind == UNDEFINE:
            self.known.undefine(message)
        elif kind == LEASE:
            self.devices = message[1]["devices"]
        elif kind == STOP_TASK:
            self._stop(message[1])
        elif kind == RETURN_QUEUED:
            self.give_back()
        elif kind == LEAVE:
            self.leaving = True
        else:
            assert kind == WELCOME, message

    def _ordered(self, order: Order) -> None:
        assert self.job_id
        assert order.template in self.known.templates
        if order.how != CONSTRUCT and isinstance(order.payload, Arguments):
            assert order.name == name_of_call(order.arguments.sequence)
        order.values = order.values and [
            (ref, kind, None if self._tells(ref, kind, value) else value) for ref, kind, value in order.values
        ]
        if order.how == RUN_NESTED:
            self.threads.append(self._start(order))
            return
        assert not self.leaving, "the daemon sent work to a worker after LEAVE"
        self.queue.append(order)
        if order.how == RUN and self.main is not None and self.main.blocked:
            self.give_back()

    def _tells(self, ref: bytes, kind: int, value: Any) -> bool:
        self.world.agrees(ref, self.opened(ref, kind, value))
        return kind == SHARED

    def give_back(self) -> None:
        """Returns queued tasks to the daemon. An actor keeps its calls: no other process could run them."""
        if self.queue and not self.is_actor:
            self.send((NOT_STARTED, [order.task for order in self.queue]))
            self.queue.clear()

    def _start(self, order: Order) -> Invocation:
        self.world.started(self, order)
        return Invocation(self, order)

    def _stop(self, task: bytes) -> None:
        for order in self.queue:
            if order.task == task:
                self.queue.remove(order)
                self.send((FAILED, task, 0, FAULT, ["TaskCancelledError", {}], False, None))
                return
        for invocation in self.running:
            if invocation.order.task == task and not self.is_actor:
                self.send((FAILED, task, 1, FAULT, ["TaskCancelledError", {}], False, None))
                self.over(invocation)

    def blocks(self, invocation: Invocation) -> None:
        self.send((BLOCKED, invocation.order.task))
        if invocation is self.main:
            self.give_back()

    def over(self, invocation: Invocation) -> None:
        if isinstance(invocation.allocation, tuple) and invocation.allocation[0] is not None:
            self.abandon(invocation.allocation[0])
        invocation.clear()
        if invocation is self.main:
            self.main = None
        else:
            self.threads.remove(invocation)

    def exit(self, why: str) -> None:
        """It ends by its own will."""
        self.send((LEAVING, why))
        self.host.die(self)

    def step(self, thread: int = 0) -> bool:
        """Runs a little. False if there is nothing to do."""
        if not self.main and self.queue:
            order = self.queue.popleft()
            if order.how == CONSTRUCT:
                self.is_actor, self.ordered = True, order.recipe.ordered
            self.main = self._start(order)
            return True
        running = self.running
        if running:
            return running[thread % len(running)].advance()
        if self.leaving:
            self.exit("it was told to")
        return self.leaving
