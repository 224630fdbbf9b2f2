"""Inquiries: each ends once, by the answer, by the loss of the node, or at the deadline."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import INQUIRY
from asyncray.core.head import inquiries
from asyncray.core.head.inquiries import INQUIRY_DEADLINE, Inquiries
from asyncray.core.head.membership import Member
from asyncray.core.outbox import Outbox
from asyncray.core.records import Party
from tests.core.cluster.nodes import facts, row, taken


class Stage:
    """A head with two members."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        nodes = (b"one", b"two")
        self.parties = {node: Party(self.outbox.new_party_number()) for node in nodes}
        self.members = {node: Member(facts(node), row(), self.parties[node], 0.0) for node in nodes}
        self.inquiries = Inquiries(self.outbox, self.members)
        self.answers: list[Any] = []

    def ask(self, node: bytes, now: float = 0.0) -> None:
        self.inquiries.ask(node, "object", [1], self.answers.append, now)

    def said(self, node: bytes) -> list[Any]:
        return taken(self.outbox, self.parties[node])


def test_the_answer_of_the_node_goes_to_the_asker() -> None:
    stage = Stage()
    stage.ask(b"one")
    stage.ask(b"one")
    assert stage.said(b"one") == [(INQUIRY, 1, "object", [1]), (INQUIRY, 2, "object", [1])]
    stage.inquiries.answered(b"two", 1, (True, "of another node"))
    stage.inquiries.answered(b"one", 2, (False, "ObjectLostError", {}))
    stage.inquiries.answered(b"one", 1, (True, "found"))
    stage.inquiries.answered(b"one", 1, (True, "twice"))
    assert stage.answers == [(False, "ObjectLostError", {}), (True, "found")]


def test_a_node_that_is_no_member_is_not_asked() -> None:
    stage = Stage()
    stage.ask(b"stranger")
    ((ok, name, fields),) = stage.answers
    assert (ok, name) == (False, "NodeDiedError")
    assert "no member" in fields["message"]


def test_an_inquiry_ends_at_its_deadline_and_with_its_node() -> None:
    stage = Stage()
    stage.ask(b"one", 0.0)
    stage.ask(b"two", 1.0)
    stage.inquiries.tick(INQUIRY_DEADLINE - 0.1)
    assert stage.answers == []
    stage.inquiries.tick(INQUIRY_DEADLINE)
    assert [answer[2]["message"] for answer in stage.answers] == [
        f"Node {b'one'.hex()} gave no answer: it has not answered for 1.5 s."
    ]
    stage.inquiries.node_ended(b"two")
    assert "it has ended" in stage.answers[1][2]["message"]
    stage.inquiries.answered(b"one", 1, (True, "too late"))
    stage.inquiries.tick(99.0)
    assert len(stage.answers) == 2


def test_more_inquiries_than_nodes_can_answer_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiries, "MOST_INQUIRIES", 1)
    stage = Stage()
    stage.ask(b"one")
    stage.ask(b"two")
    assert "too many" in stage.answers[0][2]["message"]
    assert stage.said(b"two") == []


def test_all_members_are_asked_and_the_silent_ones_are_named() -> None:
    stage = Stage()
    stage.inquiries.gather("actors", [], stage.answers.append, 0.0)
    stage.inquiries.answered(b"two", 2, (True, ["row"]))
    assert stage.answers == []
    stage.inquiries.tick(INQUIRY_DEADLINE)
    assert stage.answers == [(True, [[(b"two", ["row"])], [b"one"]])]


def test_the_last_member_may_be_the_only_one() -> None:
    stage = Stage()
    del stage.members[b"two"]
    stage.inquiries.gather("actors", [], stage.answers.append, 0.0)
    stage.inquiries.node_ended(b"one")
    assert stage.answers == [(True, [[], [b"one"]])]
