"""The end of a forked child whose task returns. ``tests/system/test_forks.py`` forks real children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from asyncray.worker import ending
from asyncray.worker.forked import ForkedRunner


class EndedError(Exception):
    """Instead of the end of the process."""


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    def end_forked(code: int) -> NoReturn:
        ended.append(code)
        raise EndedError

    ended: list[int] = []
    monkeypatch.setattr(ending, "end_forked", end_forked)
    return ended


def test_no_reply_is_made_and_the_process_ends(codes: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    runner: Any = ForkedRunner.__new__(ForkedRunner)
    replies: list[Callable[[], object]] = [
        lambda: runner.succeeded(None, 1),
        lambda: runner.small_reply(None, 1),
        lambda: runner.failed(None, ValueError("its own")),
        lambda: runner.exited(None, SystemExit(7)),
        lambda: runner.cancelled(b""),
    ]
    for reply in replies:
        with pytest.raises(EndedError):
            reply()
    assert codes == [0, 0, 1, 7, 1]
    assert capsys.readouterr().err.endswith("ValueError: its own\n")
