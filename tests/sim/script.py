"""Scripted races of tasks between nodes: a test says which message arrives when, and compares the story.

The nodes are those of ``tests.core.cluster.pair``: the real machines, without a network. Tasks are named by their
recipes and objects by the test, so a story reads like this::

    A > B: TASK parent
    B > C: TASK child
    A > B: CANCEL parent
"""

from __future__ import annotations

from typing import Any

from asyncray import cluster_messages as m
from asyncray.core.states import ALIVE
from asyncray.ids import TASK_SIZE
from tests.core.cluster.pair import Pair
from tests.core.processes import Driver

_OF_ATTEMPTS = {
    m.RESULT: "RESULT", m.BACK: "BACK", m.DONE_WITH: "DONE_WITH", m.CANCEL_TASK: "CANCEL", m.CLAIMED: "CLAIMED",
}  # fmt: skip
_OF_ACTORS = {
    m.LOCATE: "LOCATE", m.FORGET_ACTOR: "FORGET_ACTOR", m.KILL_ACTOR: "KILL_ACTOR", m.CONSTRUCT_AT: "CONSTRUCT_AT",
    m.SEATED: "SEATED", m.END_SEAT: "END_SEAT", m.CONSTRUCTOR_WAITS: "CONSTRUCTOR_WAITS",
}  # fmt: skip
_OF_REFS = {m.BORROW: "BORROW", m.UNBORROW: "UNBORROW"}
_FROM_THE_HOME = (m.CANCEL_TASK, m.CLAIMED)


class Script(Pair):
    """Some nodes, and messages that arrive when the test says so."""

    def __init__(self, *resources: dict[str, float]) -> None:
        super().__init__(*resources)
        self.names: dict[bytes, str] = {}
        self._attempts: dict[tuple[bytes, int], str] = {}  # home and number -> the name of the task
        self._read = 0

    def put(self, driver: Driver, name: str) -> bytes:
        """A driver puts an object, which gets a name in stories."""
        driver.state.do(("put", 0))
        self.names[driver.state.refs[-1]] = name
        return driver.state.refs[-1]

    def work(self, *nodes: bytes, programs: bool = True) -> None:
        """Processes and daemons of these nodes do all that they can without a message of another node.

        Args:
            programs: False: tasks do not begin or go on.
        """
        for node in nodes:
            host = self.members[node].host
            while host.chores() | (programs and host.run()) | host.has_messages:
                host.talk()
                self.check()

    def deliver_one(self, one: bytes, other: bytes) -> Any:
        message = super().deliver_one(one, other)
        self._line(one, other, message)  # learns the names of attempts
        return message

    def arrive(self, one: bytes, other: bytes, count: int | None = None) -> None:
        """The next messages from one node to another arrive, or all of them."""
        wire = self.wires[one, other]
        for _ in range(len(wire) if count is None else count):
            self.deliver_one(one, other)
            self.check()

    def story(self) -> list[str]:
        """The messages about tasks and refs that have arrived since the last call."""
        found = [self._line(*entry) for entry in self.written[self._read :]]
        self._read = len(self.written)
        return [line for line in found if line]

    def under_way(self, one: bytes, other: bytes) -> list[str]:
        return [line for message in self.wires[one, other] if (line := self._line(one, other, message))]

    def _line(self, one: bytes, other: bytes, message: Any) -> str:
        kind, *fields = message
        way = f"{one.decode()[-1]} > {other.decode()[-1]}:"
        if kind == m.TASK:
            name = self._attempts[one, fields[0]] = self.recipes[fields[1]].name
            return f"{way} TASK {name}"
        if kind == m.CALL_AT:
            name = self._attempts[one, fields[0]] = fields[4].recipe.name
            return f"{way} CALL_AT {name}"
        if kind == m.CONSTRUCT_AT:
            self._attempts[one, fields[0]] = "the constructor"
        if kind == m.SEAT_OF:
            _, state, node, incarnation, *_ = fields
            return f"{way} SEAT_OF {state}" + (f" at {node.decode()[-1]} {incarnation}" if state == ALIVE else "")
        if kind in _OF_ACTORS:
            return f"{way} {_OF_ACTORS[kind]}"
        if kind in _OF_ATTEMPTS:
            home = one if kind in _FROM_THE_HOME else other
            later = " later" if kind in (m.RESULT, m.BACK) and fields[-1] else ""
            return f"{way} {_OF_ATTEMPTS[kind]} {self._attempts[home, fields[0]]}{later}"
        if kind == m.TAKE_BACK:
            attempts, count = fields
            names = [self._attempts[one, attempt] for attempt in attempts]
            return f"{way} TAKE_BACK {count} of {', '.join(names)}"
        if kind in _OF_REFS:
            return f"{way} {_OF_REFS[kind]} {', '.join(map(self._name, fields[-1]))}"
        return ""

    def _name(self, object_id: bytes) -> str:
        task = self.recipes.get(object_id[:TASK_SIZE])
        return self.names.get(object_id) or (f"the result of {task.name}" if task else object_id.hex())
