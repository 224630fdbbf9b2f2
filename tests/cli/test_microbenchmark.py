"""``asyncray microbenchmark``: the choice of rows, its output and its exit code. No row is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncray.cli.benchmark import report, rows
from asyncray.cli.benchmark.bench import Row
from asyncray.cli.microbenchmark import microbenchmark_command

ENTRY = {"name": "tasks", "value": 2.0}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(microbenchmark_command, arguments)


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measuring gives an entry for each row, and one that failed for rows of that name. The scales of the benches."""
    seen: list[float] = []

    def run_rows(chosen: list[Row], new_bench: Callable[[], Any]) -> Iterator[dict[str, Any]]:
        for row in chosen:
            seen.append(new_bench().scale)
            yield {**ENTRY, "name": row.name} | ({"error": "it failed"} if "put gigabytes" in row.name else {})

    monkeypatch.setattr(report, "run_rows", run_rows)
    monkeypatch.setattr(report, "line", lambda entry: f"{entry['name']}: {entry.get('error', 'measured')}")
    return seen


def test_a_list_has_all_rows_and_marks_the_slow_ones() -> None:
    lines = run("--list").output.splitlines()
    assert [line.partition(" (slow:")[0] for line in lines] == [row.name for row in rows.ROWS]
    assert [" (slow: only with --only or --all)" in line for line in lines] == [row.slow for row in rows.ROWS]


def test_rows_are_chosen_by_parts_of_their_names(scales: list[float]) -> None:
    result = run("--only", "single client tasks sync", "--only", "1:1 actor calls sync", "--scale", "0.5")
    assert result.exit_code == 0
    assert result.output.splitlines()[2:] == ["single client tasks sync: measured", "1:1 actor calls sync: measured"]
    assert scales == [0.5, 0.5]
    listed = run("--list", "--only", "1:1 actor calls sync").output
    assert listed == "1:1 actor calls sync\n"


def test_an_unknown_row_is_wrong_usage() -> None:
    result = run("--only", "nonsense")
    assert result.exit_code == 2
    assert "--only" in result.output
    assert "nonsense" in result.output


def test_figures_go_to_a_file_or_alone_to_standard_output(scales: list[float], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    talked = run("--only", "single client tasks sync", "--json", str(file))
    assert "single client tasks sync: measured" in talked.output
    alone = run("--only", "single client tasks sync", "--json", "-")
    assert json.loads(alone.output) == json.loads(file.read_text()) == [{**ENTRY, "name": "single client tasks sync"}]


def test_a_file_that_cannot_be_written_is_found_before_measuring(scales: list[float], tmp_path: Path) -> None:
    assert run("--json", str(tmp_path / "missing" / "figures.json")).exit_code == 2
    assert not scales


def test_a_row_that_fails_is_shown_and_makes_the_command_fail(scales: list[float]) -> None:
    result = run("--only", "single client put gigabytes", "--only", "single client tasks sync")
    assert result.exit_code == 1
    assert "single client put gigabytes: it failed" in result.output
    assert "single client tasks sync: measured" in result.output
