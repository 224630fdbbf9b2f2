"""Names of a cluster at the head: claims of several nodes, ends of actors that come late, and ends of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncray.core.head.names import ClusterNames
from asyncray.core.questions import Answer

NAME = ["ns", "ann"]


class Stage:
    """A head with names. The test answers in place of the nodes that the head asks."""

    def __init__(self) -> None:
        self.members = {b"X", b"H"}
        self.asked: list[tuple[bytes, Callable[[Answer], None]]] = []
        self.names = ClusterNames(
            lambda node, method, arguments, reply: self.asked.append((node, reply)), lambda node: node in self.members
        )

    def say(self, service: str, node: bytes, *arguments: Any) -> list[Any]:
        """Returns the answers so far. Later ones appear in the list."""
        answers: list[Any] = []
        getattr(self.names, service)(node, arguments, lambda ok, value: answers.append(value))
        self.names.check()
        return answers

    def claim(self, node: bytes, actor: bytes, *killed: bytes) -> list[Any]:
        return self.say("claim", node, *NAME, actor, b"handle", killed)

    def holder_answers(self) -> None:
        for _, reply in self.asked:
            reply((True, None))
        self.asked.clear()
        self.names.check()


def test_the_first_claim_counts_and_the_second_gets_the_first() -> None:
    stage = Stage()
    assert stage.claim(b"H", b"a1") == [None]
    assert stage.claim(b"H", b"a1") == [None]  # the node repeats itself
    assert stage.claim(b"H", b"a2") == [[b"a1", b"handle", True]]
    second = stage.claim(b"X", b"a3")
    assert second == []
    assert [node for node, _ in stage.asked] == [b"H"]
    stage.holder_answers()
    assert second == [[b"a1", b"handle", True]]
    assert stage.say("find", b"X", *NAME) == [[b"a1", b"handle"]]
    assert stage.say("find", b"X", "ns", "bob") == [None]
    assert stage.say("list", b"X", None) == [[{"name": "ann", "namespace": "ns"}]]
    assert stage.say("list", b"X", "elsewhere") == [[]]


def test_r40_a_name_is_free_at_once_for_the_node_that_killed_its_actor() -> None:
    """1. X kills a1 of H. 2. X claims the name. 3. The word of H about the end comes last: it frees a2's name not."""
    stage = Stage()
    stage.claim(b"H", b"a1")
    assert stage.claim(b"X", b"a2", b"a1") == [None]
    assert stage.say("find", b"X", *NAME) == [[b"a2", b"handle"]]
    stage.say("free", b"H", *NAME, b"a1")
    stage.say("died", b"H", *NAME, b"a1")
    assert stage.say("find", b"X", *NAME) == [[b"a2", b"handle"]]
    stage.say("free", b"X", *NAME, b"a2")
    assert stage.say("find", b"X", *NAME) == [None]


def test_h19_the_word_of_the_holder_comes_before_its_answer() -> None:
    stage = Stage()
    stage.claim(b"H", b"a1")
    claim = stage.claim(b"X", b"a2")
    stage.say("free", b"H", *NAME, b"a1")
    stage.holder_answers()
    assert claim == [None]


def test_h19_a_dead_actor_keeps_its_name_while_handles_exist() -> None:
    stage = Stage()
    stage.claim(b"H", b"a1")
    stage.say("died", b"H", *NAME, b"a1")
    claim = stage.claim(b"X", b"a2")
    stage.holder_answers()
    assert claim == [[b"a1", b"handle", False]]
    assert stage.say("find", b"X", *NAME) == [None]
    assert stage.say("list", b"X", "ns") == [[]]


def test_two_claims_wait_for_one_holder_and_one_of_them_gets_the_name() -> None:
    stage = Stage()
    stage.members.add(b"Y")
    stage.claim(b"H", b"a1")
    claims = [stage.claim(b"X", b"a2"), stage.claim(b"Y", b"a3")]
    stage.names.node_ended(b"H")
    stage.holder_answers()
    assert claims == [[None], [[b"a2", b"handle", True]]]


def test_the_end_of_a_node_frees_what_it_has_claimed_and_nothing_else() -> None:
    stage = Stage()
    stage.claim(b"H", b"a1")
    stage.say("claim", b"X", "ns", "bob", b"a2", b"", ())
    stage.names.node_ended(b"H")
    assert stage.say("list", b"X", None) == [[{"name": "bob", "namespace": "ns"}]]


def test_a_node_that_ended_while_it_waited_gets_no_name() -> None:
    """It would stay taken for ever: the end of the node has freed its names already."""
    stage = Stage()
    stage.claim(b"H", b"a1")
    claim = stage.claim(b"X", b"a2")
    stage.members.discard(b"X")
    stage.names.node_ended(b"X")
    stage.say("free", b"H", *NAME, b"a1")
    stage.holder_answers()
    assert claim == []
    assert stage.say("find", b"H", *NAME) == [None]
