"""The tables of ``asyncray status``."""

from __future__ import annotations

from typing import Any

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


def test_what_waits_at_other_nodes_has_a_table_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    found: Any = {
        "node_id": "00", "address": "unix:x", "pid": 1, "hostname": "h", "session_dir": "/tmp/x", "drivers": [],
        "resources": {}, "available": {}, "problem": "", "objects": 0,
        "store": {"used": 0, "reserved": 0, "capacity": 0}, "tasks": {"unfinished": 0, "queued": 0},
        "waiting": [], "groups": [], "workers": [], "actors": [],
        "waiting_elsewhere": [{"node_id": "0b", "name": "f", "needs": {"R": 1.0}, "tasks": 2, "why": "its turn comes"}],
        "silent_nodes": ["0c", "0d"],
    }  # fmt: skip
    status._show(found)
    out = capsys.readouterr().out
    assert "Waiting at other nodes\nnode   first of them   needs   tasks   why\n" in out
    assert "\n0b     f               1 R     2       its turn comes\n" in out
    assert "These nodes did not list their waiting tasks in time: 0c, 0d\n" in out


def test_each_bundle_of_a_placement_group_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    group = {"group_id": "0a", "name": "g", "state": "PENDING", "why": "no node has it"}
    found: Any = {
        "node_id": "00", "address": "unix:x", "pid": 1, "hostname": "h", "session_dir": "/tmp/x", "drivers": [],
        "resources": {}, "available": {}, "problem": "", "objects": 0,
        "store": {"used": 0, "reserved": 0, "capacity": 0}, "tasks": {"unfinished": 0, "queued": 0},
        "waiting": [], "workers": [], "actors": [], "waiting_elsewhere": [], "silent_nodes": [],
        "groups": [{**group, "bundles": [{"CPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}], "nodes": ["0b", None]}],
    }  # fmt: skip
    status._show(found)
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("Placement groups")
    assert [line.split() for line in lines[place + 3 : place + 5]] == [
        ["0a", "g", "PENDING", "1", "CPU", "at", "0b", "no", "node", "has", "it"],
        ["2", "CPU,", "1", "GPU", "at", "no", "node"],
    ]
