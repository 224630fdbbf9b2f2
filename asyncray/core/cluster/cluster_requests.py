"""Requests that concern the whole cluster: this module passes them to the head, and its answers to the clients.

These functions take the place of those of ``asyncray.core.requests`` on a node of a cluster, by method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.cluster.adoptions import Adoptions
from asyncray.core.cluster.members import Members
from asyncray.core.directory import RegisteredName, Registration
from asyncray.core.questions import LATER, Answer, Question, Refusal
from asyncray.core.requests import found_instead
from asyncray.core.work import Work
from asyncray.ids import NODE_SIZE, OBJECT_SIZE

if TYPE_CHECKING:
    from asyncray.messages import CreateMessage


class NamesAtHead:
    """The names of actors as a node of a cluster sees them: the head has them.

    The messages of this node about a name reach the head in their order.
    """

    def __init__(self, members: Members) -> None:
        self._members = members

    def __repr__(self) -> str:
        return f"<NamesAtHead of {self._members}>"

    def claim(
        self,
        name: RegisteredName,
        actor: bytes,
        handle: bytes,
        killed: Sequence[bytes],
        reply: Callable[[Answer], None],
    ) -> None:
        """Claims a name for an actor. The answer is None, or actor, handle and True if it lives of the one that has it.

        Args:
            killed: actors that this node wanted killed and whose end it has not seen. They have lost their names.
        """
        self._members.ask("claim_name", [*name, actor, handle, killed], reply)

    def died(self, name: RegisteredName, actor: bytes) -> None:
        """The actor is dead. It keeps its name until ``free``."""
        self._members.ask("name_died", [*name, actor], _ignore)

    def free(self, name: RegisteredName, actor: bytes) -> None:
        """Makes the name available, unless another actor has it by then."""
        self._members.ask("free_name", [*name, actor], _ignore)


class ClusterRequests:
    """Answers for one node of a cluster.

    Args:
        node: the ID of this node.
    """

    def __init__(self, node: bytes, members: Members, work: Work, ask_this_node: Callable[..., None]) -> None:
        self._node = node
        self._members = members
        self._work = work
        self._ask_this_node = ask_this_node
        self.names = NamesAtHead(members)
        # ``Routes.killed``. ``ClusterMachine`` sets it.
        self.killed: dict[bytes, None] = {}
        # Makes detached actors. ``ClusterMachine`` sets it.
        self.adoptions: Adoptions
        self.table: dict[str, Callable[..., Any]] = {
            "create_named": self._create_named,
            "get_actor": self._get_actor,
            "list_named_actors": self._list_named_actors,
            "jobs": self._jobs,
            "key_value": self._key_value,
            "all_actors": self._all_actors,
            "object": self._object,
        }

    def __repr__(self) -> str:
        return f"<ClusterRequests of {self._members}>"

    def _ask_head(self, question: Question, service: str, arguments: Sequence[Any]) -> Any:
        self._members.ask(service, arguments, lambda answer: _pass_on(question, answer))
        return LATER

    def _create_named(
        self,
        question: Question,
        namespace: str,
        name: str,
        if_exists: bool,  # noqa: FBT001 - arguments come from a message
        handle: bytes,
        create: CreateMessage,
    ) -> Any:
        key = (namespace, name)
        _, actor, template, *_ = create
        if template not in question.asker.templates:
            raise ValueError(f"{question.asker} names a template that it has not sent")
        if self.adoptions.is_for_head(question.asker.templates[template]):
            return self.adoptions.give(question, key if name else None, handle, create, reuse=if_exists)
        if not name:
            self._work.create(question.asker, create)
            return None

        def answered(answer: Answer) -> None:
            if not answer[0]:
                _pass_on(question, answer)
            elif answer[1] is None:
                self._granted(question, key, handle, create)
            elif (found := Registration(*answer[1])).actor in self.killed:
                # 1. A client here kills an actor of another node and claims its name. 2. The claim reaches the head
                # before the kill reaches the home of the actor.
                del self.killed[found.actor]
                self.names.claim(key, actor, handle, (found.actor,), answered)
            else:
                _answer(question, lambda: found_instead(key, found, if_exists=if_exists))

        self.names.claim(key, actor, handle, (), answered)
        return LATER

    def _granted(self, question: Question, name: RegisteredName, handle: bytes, create: CreateMessage) -> None:
        """The name belongs to the actor that the client wants: makes it, or frees the name."""
        if not question.asker.alive:
            self.names.free(name, create[1])
            return
        try:
            self._work.create(question.asker, create, name, handle)
        except Exception as error:  # the message is invalid, and it is the client that must end
            self.names.free(name, create[1])
            question.refuse("InternalError", {"message": f"The actor cannot be made: {error!r:.200}."})
        else:
            question.answer(None)

    def _get_actor(self, question: Question, namespace: str, name: str) -> Any:
        return self._ask_head(question, "find_name", [namespace, name])

    def _list_named_actors(self, question: Question, namespace: str | None) -> Any:
        return self._ask_head(question, "list_names", [namespace])

    def _jobs(self, question: Question) -> Any:
        return self._ask_head(question, "jobs", [])

    def _key_value(self, question: Question, operation: str, *arguments: Any) -> Any:
        return self._ask_head(question, "key_value", [operation, *arguments])

    def _all_actors(self, question: Question) -> Any:
        """Answers with the rows of all nodes that answer in time."""

        def answered(answer: Answer) -> None:
            if answer[0]:
                found, silent = answer[1]
                actors = [row for _, rows in found for row in rows]
                answer = (True, {"actors": actors, "silent_nodes": [node.hex() for node in silent]})
            _pass_on(question, answer)

        self._members.ask("gather", ["actors"], answered)
        return LATER

    def _object(self, question: Question, object_id: bytes) -> Any:
        """Asks the home of the object, through the head."""
        home = object_id[:NODE_SIZE]
        if home == self._node or len(object_id) != OBJECT_SIZE:
            self._ask_this_node(question, "object", [object_id])
            return LATER
        return self._ask_head(question, "inquire", [home, "object", [object_id]])


def _answer(question: Question, function: Callable[[], Any]) -> None:
    try:
        question.answer(function())
    except Refusal as refusal:
        question.refuse(refusal.name, {"message": refusal.message})


def _pass_on(question: Question, answer: Answer) -> None:
    """Answers a question as the head has answered."""
    if answer[0]:
        question.answer(answer[1])
    else:
        question.refuse(answer[1], answer[2])


def _ignore(answer: Answer) -> None:
    """Ignores the answer to a report."""
