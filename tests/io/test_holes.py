"""Holes: the space goes, the size and the rest of the file stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncray.io.holes import free_space


def test_a_hole_frees_space_and_changes_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    with path.open("r+b") as file:
        before = os.fstat(file.fileno()).st_blocks
        free_space(file.fileno(), 0, 1 << 19)
        assert os.fstat(file.fileno()).st_blocks <= before // 2 + 16
    assert path.read_bytes() == b"\0" * (1 << 19) + b"x" * (1 << 19)


def test_what_can_have_no_hole_is_an_error() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            free_space(write, 0, 4096)
    finally:
        os.close(read)
        os.close(write)
