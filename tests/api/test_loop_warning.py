"""A blocking call in an event loop is logged once."""

from __future__ import annotations

import pytest

from asyncray.api import loop_warning


async def test_the_first_call_in_a_loop_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_warning, "_has_warned", False)
    for _ in range(2):
        loop_warning.warn_in_loop("get")
    (record,) = caplog.records
    assert record.name == "asyncray"
    assert record.getMessage().startswith("Using blocking asyncray.sync.get inside an event loop")


def test_without_a_loop_nothing_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_warning, "_has_warned", False)
    loop_warning.warn_in_loop("get")
    assert not caplog.records
