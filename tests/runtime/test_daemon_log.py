"""The end of the daemon's log, and whether it is worth a place in an error message."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncray.runtime.daemon_log import complaints, tail


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_the_last_lines_of_both_files(logs: Path, tmp_path: Path) -> None:
    assert tail(str(tmp_path)) == []
    (logs / "node.log").write_bytes(b"x" * 5000 + b"\n\xff 1\n2\n")
    (logs / "node.err").write_text("\n".join(map(str, range(100))))
    assert tail(str(tmp_path)) == [*map(str, range(92, 100)), "x" * 3993, "\ufffd 1", "2"]


def test_a_log_without_complaints_explains_nothing(logs: Path, tmp_path: Path) -> None:
    (logs / "node.log").write_text("12:00 INFO serving\n")
    assert complaints(str(tmp_path)) == ""
    (logs / "node.err").write_text("MemoryError\n")
    assert complaints(str(tmp_path)) == f"\nThe end of its log, {logs / 'node.log'}:\nMemoryError\n12:00 INFO serving"
