"""Questions: an answer at once, an answer later, and askers that end before it."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core import requests
from asyncray.core.questions import LATER, Answer, Question
from asyncray.core.requests import Requests
from asyncray.messages import REPLY, REPLY_FAULT, REQUEST
from tests.core.world import World


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """The questions that the method "later" has kept."""
    found: list[Question] = []

    def later(self: Requests, question: Question, *arguments: Any) -> Any:
        found.append(question)
        return LATER

    monkeypatch.setitem(requests._TABLE, "later", later)
    return found


def test_a_question_has_one_answer(kept: list[Question]) -> None:
    world = World()
    answers: list[Answer] = []
    world.machine.requests.ask(Question(world.host.tool, answers.append), "later", [])
    (question,) = kept
    assert answers == []
    assert not question.answered
    question.answer(5)
    assert answers == [(True, 5)]
    with pytest.raises(AssertionError, match="answered twice"):
        question.refuse("ValueError", {})


def test_an_unknown_method_is_refused() -> None:
    answers: list[Answer] = []
    world = World()
    world.machine.requests.ask(Question(world.host.tool, answers.append), "nonsense", [])
    assert answers == [(False, "InternalError", {"message": "There is no request named 'nonsense'."})]


def test_a_later_answer_lets_the_requests_behind_it_pass(kept: list[Question]) -> None:
    world = World()
    driver = world.driver()
    sent: list[Any] = []
    world.machine.receive(
        driver.client, [(REQUEST, 1, "later", []), (REQUEST, 2, "ping", []), (REQUEST, 3, "later", [])]
    )
    sent += driver.client.out
    assert [message for message in sent if message[0] == REPLY] == [(REPLY, 2, None)]
    kept[1].refuse("ValueError", {"message": "no"})
    kept[0].answer("now")
    assert driver.client.out[-2:] == [(REPLY_FAULT, 3, "ValueError", {"message": "no"}), (REPLY, 1, "now")]
    driver.client.out.clear()
    world.machine.outbox.dirty.clear()


def test_the_answer_to_a_process_that_has_ended_goes_nowhere(kept: list[Question]) -> None:
    world = World()
    driver = world.driver()
    world.machine.receive(driver.client, [(REQUEST, 1, "later", [])])
    world.die(driver)
    world.host.disconnect(driver)
    kept[0].answer(1)
    assert driver.client.out == []
    assert world.machine.outbox.dirty == []
