"""What simulated processes run: little programs, and the scopes in which they run.

A *recipe* is a remote function, constructor or method, as data: it travels as the opaque payload of its task. A
*scope* holds the refs and handles of running code, as local variables would.

Programs must never deadlock by themselves: otherwise a test could not tell a hanging node from a hanging program. So
code waits only for its arguments and its own children; and in actors (whose calls queue behind one another in any
order) and in *careful* functions only for *pure* objects: those that no actor has a part in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asyncray.ids import PUT_INDEX, TASK_SIZE, return_id
from asyncray.messages import (
    CALL,
    CANCEL,
    CREATE,
    KILL,
    PLAIN,
    PUT,
    REQUEST,
    SEAL,
    SUBMIT,
    Received,
)
from asyncray.units import UNIT

if TYPE_CHECKING:
    from tests.core.processes import Process

Step = tuple[str, Any]
"""A verb (a method of ``Scope``) and its argument: which variable, or a recipe."""


@dataclass(frozen=True)
class Content:
    """What a value says: a tag that no other value has, and the refs and handles inside."""

    tag: int
    refs: tuple[bytes, ...] = ()
    handles: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One remote function, constructor or method.

    Variables are chosen by number, modulo how many there are.
    """

    steps: tuple[Step, ...] = ()
    ending: str = "plain"  # refs, shared, raise, retry, crash, exit
    cpus: float = 1
    takes: int = 5  # microseconds, as it will say
    extra: tuple[str, float] | None = None  # another resource; such code never waits
    returns: int = 1
    retries: int = 0
    careful: bool = False
    arguments: tuple[int, ...] = ()
    nested: tuple[int, ...] = ()
    captures: tuple[int, ...] = ()  # refs of the function itself
    name: str = ""
    where: tuple[Any, ...] = ()  # a placement, as in messages

    # Of actors
    lives_on: float = 0  # CPUs for life
    restarts: int = 0
    detached: bool = False
    ordered: bool = True
    target: int = 0  # of calls: which handle

    @property
    def demand(self) -> dict[str, float]:
        demand = {"CPU": max(self.cpus, self.lives_on)} if self.cpus or self.lives_on else {}
        return demand | dict([self.extra] if self.extra else [])

    def spec(self, what: str) -> dict[str, Any]:
        """The spec in the recipe's TEMPLATE."""
        demand = (
            [] if what == "call" else [(name, round(amount * UNIT)) for name, amount in sorted(self.demand.items())]
        )
        life = [(name, round(self.lives_on * UNIT) if name == "CPU" else amount) for name, amount in demand]
        options = {"restarts": self.restarts, "detached": self.detached, "ordered": self.ordered}
        if what == "spawn":
            options = {"max_calls": int(self.ending == "exit")}
        where = {"where": list(self.where)} if self.where and what != "call" else {}
        return where | {
            "name": what,
            # Copies of a function with other options share it.
            "function": repr(replace(self, where=(), retries=0)).encode(),
            "returns": 0 if what == "make" else self.returns,
            "retries": self.retries,
            "demand": demand,
            "life": [(name, amount) for name, amount in life if amount] if what == "make" else [],
            "options": options,
        }


@dataclass(frozen=True)
class Arguments:
    """The payload of a task: what runs, with what in hand."""

    recipe: Recipe
    sequence: int  # of the submitter's calls
    caller: bytes
    refs: tuple[bytes, ...] = ()
    waitable: frozenset[bytes] = frozenset()
    handles: tuple[bytes, ...] = ()


def name_of_call(sequence: int) -> str | None:
    """Every other call of a process is given a name of its own."""
    return f"call {sequence}" if sequence % 2 else None


class Scope:
    """The variables of running code. Each is one ref more of its process."""

    def __init__(self, process: Process, task: bytes | None = None, careful: bool = False, leaf: bool = False) -> None:
        self.process = process
        self.world = process.world
        self.task = task
        self.careful = careful
        self.leaf = leaf
        self.refs: list[bytes] = []
        self.handles: list[bytes] = []
        self.uncounted: list[bytes] = []  # handles that keep no actor alive
        self.waitable: set[bytes] = set()
        self.awaits: bytes | None = None
        self.over = False
        self.allocation: Any = None  # "asked", then [segment, offset] or a fault

    def do(self, step: Step) -> bool:
        """False if the step must wait, and be done again."""
        verb, argument = step
        return bool(getattr(self, verb)(argument))

    def ref(self, index: int) -> bytes | None:
        return self.refs[index % len(self.refs)] if self.refs else None

    def handle(self, index: int) -> bytes | None:
        return self.handles[index % len(self.handles)] if self.handles else None

    def any_handle(self, index: int) -> bytes | None:
        known = [*self.handles, *self.uncounted]
        return known[index % len(known)] if known else None

    def learn(self, content: Any) -> None:
        """A value was unpickled: its refs are variables now, though not such as may be waited for."""
        if isinstance(content, Content | Arguments):
            for ref in content.refs:
                self.process.hold(ref)
                self.refs.append(ref)
            for handle in content.handles:
                self.process.hold(handle)
                self.handles.append(handle)

    def clear(self) -> None:
        """The code has returned."""
        for ref in (*self.refs, *self.handles):
            self.process.drop(ref)
        self.refs, self.handles = [], []
        self.over = True

    # Steps ------------------------------------------------------------------------------------------------------------

    def get(self, index: int) -> bool:
        ref = self.ref(index)
        if ref is None or ref not in self.waitable or self.leaf or (self.careful and ref not in self.world.pure):
            return True
        if self.process.subscribe(ref):
            self.awaits = None
            self.learn(self.process.read(ref))
            return True
        self.awaits = ref
        return False

    def _invoke(self, kind: int, what: str, recipe: Recipe, *more: object) -> tuple[bytes, Received]:
        process = self.process
        handles = {self.handles[i % len(self.handles)] for i in recipe.nested if self.handles and i % 2}
        refs = {self.refs[i % len(self.refs)] for i in recipe.nested if self.refs}
        arguments = [ref for i in recipe.arguments if (ref := self.ref(i)) is not None and ref in self.waitable]
        task_id = process.next_id()
        order = Arguments(
            recipe,
            process.counter,
            process.client.id,
            tuple(sorted(refs)),
            frozenset(refs & self.waitable),
            tuple(sorted(handles)),
        )
        self.world.parents[task_id] = self.task
        captured = {self.refs[i % len(self.refs)] for i in recipe.captures if self.refs}
        number = process.template(recipe.spec(what), tuple(sorted(captured)))
        message = (kind, task_id, number, PLAIN, order, arguments or None, sorted(refs | handles) or None, self.task)
        if recipe.careful and what == "spawn" and self.world.pure.issuperset(arguments):
            self.world.pure.update(return_id(task_id, index) for index in range(recipe.returns))
        return task_id, (*message, *more)

    def _results(self, task_id: bytes, returns: int, message: Received) -> None:
        results = [return_id(task_id, index) for index in range(returns)]
        self.process.send(message, results)
        self.refs += results
        self.waitable.update(results)

    def spawn(self, recipe: Recipe) -> bool:
        task_id, message = self._invoke(SUBMIT, "spawn", recipe, name_of_call(self.process.counter + 1))
        self.world.watch(task_id, recipe)
        self._results(task_id, recipe.returns, message)
        return True

    def flood(self, recipe: Recipe) -> bool:
        """The same function often: only then is anything sent ahead."""
        return all(self.spawn(recipe) for _ in range(5))

    def make(self, recipe: Recipe) -> bool:
        actor_id, message = self._invoke(CREATE, "make", recipe)
        life = actor_id + PUT_INDEX
        self.world.watch(actor_id, recipe)
        if recipe.name or (recipe.detached and self.process.host.shell is not None):
            arguments = [*(message[5] or ()), *(message[6] or ())]
            for ref in arguments:
                self.process.hold(ref)  # the caller waits for the answer, with the arguments in its hands
            self.process.ask(
                REQUEST, "create_named", ["ns", recipe.name, False, b"", message], self._named(life, arguments)
            )
        else:
            self.process.send(message, [life])
            self.handles.append(life)
        return True

    def _named(self, life: bytes, arguments: list[bytes]) -> Any:
        def answered(reply: Any) -> None:
            for ref in arguments:
                self.process.drop(ref)
            if reply is None:
                self.process.born(life)
                self.handles.append(life)
            elif isinstance(reply, list):  # the head's node has made it, and counts no handles of it
                self.world.uncounted.add(reply[0] + PUT_INDEX)
                self.uncounted.append(reply[0] + PUT_INDEX)

        return answered

    def call(self, recipe: Recipe) -> bool:
        handle = self.any_handle(recipe.target)
        if handle is not None:
            name = name_of_call(self.process.counter + 1)
            task_id, message = self._invoke(CALL, "call", recipe, name, handle[:TASK_SIZE])
            self._results(task_id, recipe.returns, message)
        return True

    def _content(self, index: int) -> tuple[Content, list[bytes] | None]:
        refs = tuple({ref for ref in (self.ref(index),) if ref is not None and index % 3})
        handles = tuple({handle for handle in (self.handle(index),) if handle is not None and index % 2})
        return Content(self.world.tag(), refs, handles), [*refs, *handles] or None

    def put(self, index: int) -> bool:
        content, nested = self._content(index)
        self._was_put(self.process.next_id() + PUT_INDEX, content, (PUT, PLAIN, content, nested))
        return True

    def _was_put(self, ref: bytes, content: Content, message: Received) -> None:
        self.process.send((message[0], ref, *message[1:]), [ref])
        self.process.know(ref, content)
        self.world.pure.add(ref)
        self.refs.append(ref)
        self.waitable.add(ref)

    def share(self, size: int) -> bool:
        """A put into shared memory."""
        if not self.allocate(size):
            return False
        place, self.allocation = self.allocation, None
        if place is not None and size % 5 == 0:
            self.process.abandon(place)
        elif place is not None:
            content, nested = self._content(size)
            ref = self.process.next_id() + PUT_INDEX
            self.process.write(place, content)
            self._was_put(ref, content, (SEAL, *place[:2], nested))
            self.process.pinned(ref, place, content)
        return True

    def promise(self, size: int) -> bool:
        """A put into shared memory that waits for nothing: the value follows."""
        ref = self.process.next_id() + PUT_INDEX
        self.process.promises.make(ref, self._content(size)[0], max(1, size))
        self.world.pure.add(ref)
        self.refs.append(ref)
        self.waitable.add(ref)
        return True

    def allocate(self, size: int) -> bool:
        """True when there is an answer: a place, or None if the store is full."""
        if self.allocation == "asked":
            return False
        if isinstance(self.allocation, tuple):
            (self.allocation,) = self.allocation
            return True
        self.allocation = "asked"
        self.process.allocate(max(1, size), self._allocated)
        return False

    def _allocated(self, place: Any) -> None:
        if self.over and place is not None:
            self.process.abandon(place)
        self.allocation = (place,)

    def forget(self, index: int) -> bool:
        if self.refs:
            ref = self.refs.pop(index % len(self.refs))
            self.process.drop(ref)
        return True

    def release(self, index: int) -> bool:
        if self.handles:
            self.process.drop(self.handles.pop(index % len(self.handles)))
        return True

    def cancel(self, index: int) -> bool:
        ref = self.ref(index)
        if ref is not None:
            self.process.send((CANCEL, ref[:TASK_SIZE], index % 4 == 3, index % 2 == 1))
        return True

    def kill(self, index: int) -> bool:
        handle = self.any_handle(index)
        if handle is not None:
            self.process.send((KILL, handle[:TASK_SIZE], index % 2 == 1))
        return True

    def unexport(self, index: int) -> bool:
        self.process.unexport(index)
        return True

    def keep(self, index: int) -> bool:
        """A variable of the process from now on: an attribute of the actor, or a global."""
        ref, handle = self.ref(index), self.handle(index)
        if ref is not None and index % 2:
            self.process.hold(ref)
            self.process.state.refs.append(ref)
        if handle is not None:
            self.process.hold(handle)
            self.process.state.handles.append(handle)
        return True
