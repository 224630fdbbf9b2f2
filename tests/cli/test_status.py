"""The tables of ``asyncray status``."""

from __future__ import annotations

import pytest

from asyncray.cli import status


def test_columns_are_as_wide_as_their_widest_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(1, "a\x1b[31m[bold]", None), (200, "first\nsecond", "x" * 200)]
    status._table("Things", ("number", "name", "why"), rows)
    assert capsys.readouterr().out.splitlines() == [
        "Things",
        "number   name              why",
        "------   ---------------   " + "-" * 200,
        "1        a\\x1b[31m[bold]",
        "200      first             " + "x" * 200,
        "         second",
        "",
    ]


def test_long_and_empty_tables(capsys: pytest.CaptureFixture[str]) -> None:
    status._table("Nothing", ("name",), [])
    status._table("Many", ("name",), [(number,) for number in range(status._MOST_ROWS + 2)])
    out = capsys.readouterr().out
    assert out.startswith("Nothing: none\n\nMany\n")
    assert out.endswith("\n39\n... and 2 more: --json shows all\n\n")
