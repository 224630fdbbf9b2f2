"""The names of sessions, which a daemon needs before it starts its zygote."""

from __future__ import annotations

from asyncray.io.session_names import name_of


def test_a_session_is_named_after_the_end_of_its_directory() -> None:
    assert name_of("/tmp/asyncray-0/session_2026-01-01_00-00-00_0123456789ab") == "asyncray-0123456789ab"
