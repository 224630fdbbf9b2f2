"""The note about the cluster of a session's node."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asyncray.io import sessions
from asyncray.io.cluster_sessions import note_cluster, sessions_of

ADDRESS = "10.0.0.1:7"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four sessions, the oldest first."""
    directories = [str(tmp_path / f"session_{number}") for number in range(4)]
    for directory in directories:
        os.mkdir(directory)
    monkeypatch.setattr(sessions, "running", lambda: directories[::-1])
    return directories


def test_the_head_comes_first_and_then_the_oldest(running: list[str]) -> None:
    first, second, third, head = running
    assert sessions_of(ADDRESS) == []
    note_cluster(third, [ADDRESS, "127.0.0.1:7"], is_head=False)
    note_cluster(second, [ADDRESS], is_head=False)
    note_cluster(head, ["127.0.0.1:7", ADDRESS], is_head=True)
    note_cluster(first, ["10.0.0.1:77"], is_head=False)
    assert sessions_of(ADDRESS) == [head, second, third]
    assert sessions_of("127.0.0.1:7") == [head, third]
    assert sessions_of("10.0.0.1:77") == [first]


def test_only_the_user_may_read_it_and_a_second_note_replaces_it(running: list[str]) -> None:
    note_cluster(running[0], ["10.0.0.9:7"], is_head=True)
    note_cluster(running[0], [ADDRESS], is_head=False)
    assert sessions_of("10.0.0.9:7") == []
    (name,) = os.listdir(running[0])
    assert stat.S_IMODE(os.stat(os.path.join(running[0], name)).st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"addresses": 7}', '{"addresses": ["10.0.0.1:7"]', "\xff"])
def test_a_file_that_is_none_of_ours_is_passed_over(running: list[str], text: str) -> None:
    Path(running[0], "cluster.json").write_text(text, encoding="latin1")
    assert sessions_of(ADDRESS) == []
