"""The node of the head with a driver, in a world of simulated processes, with the real head beside it."""

from __future__ import annotations

from typing import Any

from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.head.head import HeadMachine
from asyncray.core.questions import Answer, Question
from tests.core.cluster.nodes import facts, taken
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World


class HeadNode:
    """The node of the head."""

    def __init__(self) -> None:
        self.world = World(CPU=4)
        self.machine = self.world.machine
        self.head = HeadMachine(NODE_ID, b"c" * 16, 1, 0.0)
        self.part = ClusterMachine(self.machine, facts(NODE_ID), 0.0, None)
        # Messages for the head that were not carried yet: the world drops those for parties that are no processes.
        self.said: list[Any] = []
        before_flush = self.world.before_flush

        def keep(host: Any) -> None:
            before_flush(host)
            self.take()

        self.world.before_flush = keep  # type: ignore[method-assign]  # of this world alone
        self.part.members.join()
        self.talk()

    def take(self) -> list[Any]:
        """Takes the messages for the head out of the node."""
        self.said += taken(self.machine.outbox, self.part.members.head)
        return self.said

    def talk(self) -> None:
        """Carries messages between the node and the head until neither has any."""
        while True:
            out, self.said = self.take(), []
            back = taken(self.head.outbox, self.head.own)
            if not out and not back:
                self.part.check()
                self.head.check()
                return
            self.head.receive(self.head.own, out, self.world.now)
            self.part.receive_from_head(back, self.world.now)

    def driver(self) -> Driver:
        """A driver that has made an actor without a name, so its template 1 is that of an actor."""
        driver = self.world.driver()
        self.talk()
        driver.state.make(Recipe())
        self.world.settle()
        return driver

    def ask(self, method: str, *arguments: Any, asker: Driver | None = None) -> list[Answer]:
        """Returns the answers so far."""
        answers: list[Answer] = []
        client = self.world.host.tool if asker is None else asker.client
        self.machine.requests.ask(Question(client, answers.append), method, arguments)
        return answers

    def answer(self, method: str, *arguments: Any, asker: Driver | None = None) -> Any:
        answers = self.ask(method, *arguments, asker=asker)
        self.talk()
        ((ok, *rest),) = answers
        return rest[0] if ok else (rest[0], rest[1]["message"])
