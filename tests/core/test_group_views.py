"""A node's knowledge of placement groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asyncray.core.group_records import MOST_REMOVED
from asyncray.core.group_views import GroupViews, _unknown
from asyncray.core.questions import Answer


class Stage:
    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.replies: list[Callable[[Answer], None]] = []
        self.views = GroupViews(self._ask)
        self.heard: list[str] = []
        self.views.listeners.append(lambda row: self.heard.append(row["state"]))

    def _ask(self, method: str, arguments: Sequence[Any], reply: Callable[[Answer], None]) -> None:
        self.asked.append((method, *arguments))
        self.replies.append(reply)


def row(group: bytes, state: str) -> Any:
    return {**_unknown(group), "state": state, "bundles": [[("CPU", 1)]]}


def test_a_group_is_asked_for_once_and_listeners_hear_of_it() -> None:
    stage = Stage()
    assert stage.views.find(b"g") is None
    assert stage.views.find(b"g") is None
    assert stage.asked == [("watch_group", b"g")]
    stage.replies[0]((True, row(b"g", "PENDING")))
    assert stage.heard == ["PENDING"]
    assert stage.views.find(b"g") == row(b"g", "PENDING")
    stage.views.changed(row(b"g", "PENDING"))
    assert stage.heard == ["PENDING"]


def test_an_answer_that_a_change_has_overtaken_says_nothing_new() -> None:
    stage = Stage()
    stage.views.find(b"g")
    stage.views.changed(row(b"g", "CREATED"))
    stage.replies[0]((True, row(b"g", "PENDING")))
    assert stage.heard == ["CREATED"]


def test_an_unknown_group_counts_as_removed() -> None:
    stage = Stage()
    stage.views.find(b"g")
    stage.replies[0]((True, None))
    assert stage.heard == ["REMOVED"]
    assert stage.views.rows[b"g"]["state"] == "REMOVED"


def test_a_group_that_was_unknown_may_be_registered_later() -> None:
    stage = Stage()
    stage.views.find(b"g")
    stage.replies[0]((True, None))
    assert stage.views.find(b"g") == _unknown(b"g")
    assert len(stage.asked) == 2
    stage.views.changed(row(b"g", "CREATED"))
    assert stage.views.rows[b"g"]["state"] == "CREATED"
    assert stage.heard == ["REMOVED", "CREATED"]
    stage.views.changed(row(b"g", "REMOVED"))
    stage.views.changed(row(b"g", "CREATED"))
    assert stage.views.rows[b"g"]["state"] == "REMOVED"


def test_the_oldest_removed_groups_are_forgotten() -> None:
    stage = Stage()
    for number in range(MOST_REMOVED + 1):
        stage.views.changed(row(number.to_bytes(4, "big"), "REMOVED"))
    assert len(stage.views.rows) == MOST_REMOVED
    assert (0).to_bytes(4, "big") not in stage.views.rows
