"""Every row of the microbenchmark at a hundredth of its size: it works, and does the work that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from asyncray.cli import main
from asyncray.cli.benchmark.bench import Bench, Figures, Row
from asyncray.cli.benchmark.budgets import BUDGETS, Budget
from asyncray.cli.benchmark.compare import markdown, read_figures
from asyncray.cli.benchmark.report import describe, figure, line, measure_row, run_rows
from asyncray.cli.benchmark.rows import ROWS, chosen

TINY = 0.01

# The rows that `ray microbenchmark` prints, without those of its client, compiled graphs and placement groups.
RAYS_ROWS = {
    "1:1 actor calls async",
    "1:1 actor calls concurrent",
    "1:1 actor calls sync",
    "1:1 async-actor calls async",
    "1:1 async-actor calls sync",
    "1:1 async-actor calls with args async",
    "1:n actor calls async",
    "1:n async-actor calls async",
    "multi client put calls (Plasma Store)",
    "multi client put gigabytes",
    "multi client tasks async",
    "n:n actor calls async",
    "n:n actor calls with arg async",
    "n:n async-actor calls async",
    "single client get calls (Plasma Store)",
    "single client get object containing 10k refs",
    "single client put calls (Plasma Store)",
    "single client put gigabytes",
    "single client tasks and get batch",
    "single client tasks async",
    "single client tasks sync",
    "single client wait 1k refs",
}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("row", [row for row in ROWS if row.session], ids=lambda row: row.name)
def test_a_row_does_its_work(row: Row) -> None:
    bench = Bench(TINY)
    check_figures(row.measure(bench), bench)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.session], ids=lambda row: row.name)
def test_a_row_does_its_work_without_a_session(row: Row) -> None:
    bench = Bench(TINY)
    check_figures(measure_row(row, bench), bench)


def check_figures(figures: Figures, bench: Bench) -> None:
    assert figures.values
    assert all(value > 0 for value in figures.values)
    assert bench.checks >= 1
    assert figures.p50 is None or figures.p50 > 0


def test_rows_have_rays_names_and_budgets_have_rows() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert set(names) >= RAYS_ROWS
    assert set(names) >= BUDGETS.keys()


@pytest.mark.parametrize("method", ["rate", "rate_with_latency", "seconds"])
def test_work_that_was_not_done_is_no_figure(method: str) -> None:
    with pytest.raises(RuntimeError, match="the work was not done"):
        getattr(Bench(TINY), method)(lambda: 1, (2).__eq__)


def test_the_command_prints_and_writes_figures(tmp_path: Path) -> None:
    path = tmp_path / "ours.json"
    arguments = [
        "microbenchmark",
        "--scale",
        "0.01",
        "--only",
        "Client Tasks async",
        "--only",
        "Get calls",
        "--json",
        str(path),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    entries = {entry["name"]: entry for entry in json.loads(path.read_text())}
    assert entries.keys() == {
        "relay (bare shape)",
        "single client get calls (Plasma Store)",
        "single client tasks async",
        "multi client tasks async",
    }
    for name, entry in entries.items():
        assert name in done.stdout
        assert entry["value"] > 0
        assert len(entry["repetitions"]) == 4
    assert done.stdout.startswith("at least, aim: goals of the design for two cores.")
    tasks = entries["single client tasks async"]
    assert tasks["share_of_relay"] > 0
    assert (tasks["unit"], tasks["budget"], tasks["aim"]) == ("tasks/s", 27_000, 50_000)
    assert entries["single client get calls (Plasma Store)"]["share_of_relay"] is None


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["microbenchmark", "--json", str(tmp_path / "none" / "ours.json")])
    assert done.exit_code == 2
    assert "No such file or directory" in done.output


def test_listing_measures_nothing() -> None:
    done = CliRunner().invoke(main, ["microbenchmark", "--list", "--json", "-"])
    assert [entry["name"] for entry in json.loads(done.stdout)] == [row.name for row in ROWS]
    assert "1,000,000" in CliRunner().invoke(main, ["microbenchmark", "--list"]).stdout


def test_slow_rows_are_measured_only_when_named() -> None:
    slow = {row.name for row in ROWS if row.slow}
    assert slow
    assert not slow & {row.name for row in chosen((), everything=False)}
    assert slow <= {row.name for row in chosen((), everything=True)}
    assert slow == {row.name for row in chosen(("1,000,000",), everything=False)}


def test_a_row_that_fails_does_not_stop_the_others() -> None:
    def fail(bench: Bench) -> Figures:
        raise ValueError("no luck")

    rows = [Row("bad", "s", fail, session=False), Row("good", "s", lambda bench: Figures([1.0]), session=False)]
    bad, good = run_rows(rows, lambda: Bench(TINY))
    assert bad["error"] == "ValueError: no luck"
    assert bad["value"] is None
    assert "failed: ValueError: no luck" in line(bad)
    assert good["value"] == 1.0


@pytest.mark.parametrize(
    ("unit", "value", "verdict"),
    [
        ("x/s", 9.0, "MISSED"),
        ("x/s", 10.0, "ok"),
        ("x/s", 20.0, "aim"),
        ("s", 21.0, "MISSED"),
        ("s", 20.0, "ok"),
        ("s", 10.0, "aim"),
    ],
)
def test_verdicts(monkeypatch: pytest.MonkeyPatch, unit: str, value: float, verdict: str) -> None:
    budget = Budget(10, 20) if unit == "x/s" else Budget(20, 10)
    monkeypatch.setitem(BUDGETS, "row", budget)
    row = Row("row", unit, lambda bench: Figures([value, value, value]), session=False)
    (entry,) = run_rows([row], lambda: Bench(TINY))
    assert entry["verdict"] == verdict
    assert line(entry).endswith(verdict)
    assert describe(row)["verdict"] == ""


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "s", ""),
        (1.5, "s", "1.5 s"),
        (0.0123, "s", "12.3 ms"),
        (0.000012, "s", "12 µs"),
        (1234567.8, "tasks/s", "1,234,568"),
        (2.345, "GB/s", "2.35"),
    ],
)
def test_figures_are_readable(value: float | None, unit: str, shown: str) -> None:
    assert figure(value, unit) == shown


def test_the_page_is_made_of_two_files(tmp_path: Path) -> None:
    names = {"single client tasks sync": 3000.0, "shutdown": 0.1, "chain of 1,000 tasks": None}
    rows = [row for row in ROWS if row.name in names]
    ours = [describe(row) | {"value": names[row.name]} for row in rows]
    rays = tmp_path / "ray.txt"
    rays.write_text("Tip: ...\nsingle client tasks sync per second 1000.0 +- 12.5\n")
    ours_on_ray = tmp_path / "ray.json"
    ours_on_ray.write_text(json.dumps([{"name": "shutdown", "value": 2.0}, {"name": "failed", "value": None}]))
    assert read_figures(rays) == {"single client tasks sync": 1000.0}
    table = markdown(ours, read_figures(rays) | read_figures(ours_on_ray))
    assert "| shutdown | 100 ms | 2 s | 20 | 300 ms | 100 ms |  |" in table
    assert "| single client tasks sync | 3,000 tasks/s | 1,000 | 3 | 4,000 | 7,000 |  |" in table
    assert "chain" not in table
