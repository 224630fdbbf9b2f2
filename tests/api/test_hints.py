"""Suggestions for names that do not exist."""

from __future__ import annotations

import pytest

from asyncray.api.hints import did_you_mean


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_cpu", " Did you mean 'num_cpus'?"),
        ("num_gpu", " Did you mean 'num_gpus'?"),
        ("naem", " Did you mean 'name'?"),
        ("spam", ""),
        ("", ""),
    ],
)
def test_the_most_similar_name_is_suggested(name: str, hint: str) -> None:
    assert did_you_mean(name, ["name", "num_cpus", "num_gpus"]) == hint
    assert did_you_mean(name, []) == ""
