"""Adoptions: detached actors belong to the head's node, because it lives as long as the cluster.

A detached actor outlives its driver and the node of its creator. So the creator's node does not make it: it sends the
constructor, the class and the setup of the job to the head's node (ADOPT). There a client without a connection stands
for the creator: like a driver, it makes the actor and then ends. So the life, the name, and everything that a restart
needs belong to a job of the head's node. People do not see that job, and its output goes to the driver of the creator
while that lives. The ID of the actor names the head's node, so each node finds the home. The head's node does the same
without messages for a process of its own that works for a job of another node: all nodes forget that job when its
driver ends.

Small arguments that have a value are copied to the head's node. Larger ones stay objects of the creator's node: once
that is lost, the actor cannot start again, and its fault says why. The creator's node keeps all of them until the
head's node has registered those that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.cluster_messages import ADOPT, ADOPTED
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.known_templates import OverJobs, spec_of
from asyncray.core.cluster.peers import Peer
from asyncray.core.machine import NodeMachine
from asyncray.core.questions import LATER, Answer, Question
from asyncray.core.records import Client, Job, ObjectEntry, Party, Template
from asyncray.messages import CREATE, FUNCTION, TEMPLATE, CreateMessage

if TYPE_CHECKING:
    from asyncray.cluster_messages import AdoptMessage

_FUNCTION_NUMBER = 1
_TEMPLATE_NUMBER = 2


class Adoptions:
    """Both sides: detached actors of processes of this node, and those that this one adopts as the head's node.

    Args:
        head: the head's node. None: it is this one.
    """

    def __init__(
        self,
        machine: NodeMachine,
        imports: Imports,
        head: bytes | None,
        peer: Callable[[bytes], Peer],
        over: OverJobs,
    ) -> None:
        self._machine = machine
        self._over = over
        self._outbox = machine.outbox
        self._objects = machine.objects
        self._imports = imports
        self._head = head
        self._peer = peer
        self._count = 0
        # Number of an ADOPT -> the question of the creator, and the objects that this node keeps until the answer.
        self._asked: dict[int, tuple[Question, tuple[ObjectEntry, ...]]] = {}

    def __repr__(self) -> str:
        return f"<Adoptions, {len(self._asked)} under way>"

    # At the creator's node --------------------------------------------------------------------------------------------

    def is_for_head(self, template: Template) -> bool:
        """True for the class of a detached actor, unless the job is one of the head's node, which this is."""
        is_own = self._head is None and self._machine.jobs.began_here(template.job.id)
        return bool(template.options.get("detached")) and not is_own

    def give(
        self, question: Question, name: tuple[str, str] | None, handle: bytes, create: CreateMessage, *, reuse: bool
    ) -> Any:
        """Asks the head's node to make an actor. The answer is the actor that then has the name, and its handle."""
        _, _, number, kind, payload, dependencies, nested, _ = create
        template = question.asker.templates[number]
        job, function = template.job, template.function
        assert function is not None
        captured = [entry.id for entry in function.captured]
        self._count += 1
        self._asked[self._count] = question, self._objects.use_all((*(dependencies or ()), *(nested or ()), *captured))
        adopt: AdoptMessage = (
            ADOPT, self._count, job.namespace, job.setup, job.id, self._driver_of(job), name, reuse, handle,
            (function.digest, function.pickled, captured or None),
            (template.digest, spec_of(template, template.where)), (kind, payload, dependencies, nested),
        )  # fmt: skip
        if self._head is None:
            self._make(adopt, partial(self._answer, self._count))
        else:
            self._outbox.send(self._peer(self._head), adopt)
        return LATER

    def _driver_of(self, job: Job) -> bytes:
        """Returns the node of the driver of a job."""
        reader = job.reports_to
        return reader.id if isinstance(reader, Peer) else self._machine.node_id

    def adopted(self, peer: Peer, message: Any) -> None:
        """ADOPTED: the head's node has made the actor, or refuses."""
        _, number, answer = message
        self._answer(number, answer)

    def _answer(self, number: int, answer: Answer) -> None:
        question, uses = self._asked.pop(number)
        if answer[0]:
            question.answer(answer[1])
        else:
            question.refuse(answer[1], answer[2])
        self._objects.unuse_all(uses)

    @property
    def uses(self) -> list[ObjectEntry]:
        """The objects that this node keeps until the head's node has answered."""
        return [entry for _, uses in self._asked.values() for entry in uses]

    # At the head's node -----------------------------------------------------------------------------------------------

    def adopt(self, peer: Peer, message: Any) -> None:
        """ADOPT: makes a detached actor for a process of another node."""
        number, function = message[1], message[9]
        _, _, dependencies, nested = message[11]
        answers: list[Answer] = []
        cover = Cover(peer, lambda: self._outbox.send(peer, (ADOPTED, number, answers[0])))
        self._imports.learn(cover, [*(dependencies or ()), *(nested or ()), *(function[2] or ())])

        def made(answer: Answer) -> None:
            answers.append(answer)
            if not cover.ended and not self._imports.end(cover):
                cover.give_up()

        self._make(message, made)

    def _make(self, message: AdoptMessage, reply: Callable[[Answer], None]) -> None:
        """Makes the actor. ``reply`` gets the answer for the creator, at once or after a later event."""
        _, _, namespace, setup, job_id, home, name, reuse, handle, function, template, arguments = message
        kind, payload, dependencies, nested = arguments
        creator = self._creator(namespace, setup, self._reader(job_id, home))

        def made(answer: Answer) -> None:
            self._machine.client_disconnected(creator)
            reply((True, [actor, handle]) if answer[0] and answer[1] is None else answer)

        self._machine.functions.export(creator, (FUNCTION, _FUNCTION_NUMBER, *function))
        self._machine.functions.describe(creator, (TEMPLATE, _TEMPLATE_NUMBER, *template))
        assert creator.job is not None
        actor = creator.id + creator.job.id + (1).to_bytes(6, "big")
        create: Any = (CREATE, actor, _TEMPLATE_NUMBER, kind, payload, dependencies, nested, None)
        self._machine.requests.ask(
            Question(creator, made), "create_named", [*(name or (namespace, "")), reuse, handle, create]
        )

    def _reader(self, job_id: bytes, home: bytes) -> tuple[Party, bytes] | None:
        """Returns the way to a driver, and its job. None: it has ended."""
        if job_id in self._over:
            return None
        if home != self._machine.node_id:
            return self._peer(home), job_id
        job = self._machine.jobs.table.get(job_id)
        return None if job is None or job.reports_to is None else (job.reports_to, job_id)

    def _creator(self, namespace: str, setup: Any, reader: tuple[Party, bytes] | None) -> Client:
        """Makes a client that stands for the creator. It has no connection, so nothing is sent to it."""
        creator = self._machine.driver_connected(0, namespace, setup, adopts=True)
        assert creator.job is not None
        creator.job.reports_to = None
        creator.job.output_to = reader
        creator.out.clear()
        self._outbox.dirty.remove(creator)
        return creator
