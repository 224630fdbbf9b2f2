"""What a node has, by what it was told and by the machine."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.config import STORE_MINIMUM
from asyncray.node.resources import detect


def test_what_was_given_is_taken() -> None:
    given: dict[str, Any] = {
        "num_cpus": 2.5,
        "object_store_memory": 1e8,
        "memory": 10**9,
        "resources": {"a": 1, "b": 0},
    }
    resources, capacity = detect(given)
    assert (capacity, type(capacity)) == (10**8, int)
    assert {**resources, "GPU": 0} == {"CPU": 2.5, "GPU": 0, "memory": 10**9, "object_store_memory": 10**8, "a": 1}


def test_the_machine_says_the_rest() -> None:
    resources, capacity = detect({})
    assert resources["CPU"] >= 1
    assert capacity >= STORE_MINIMUM
    assert resources["object_store_memory"] == capacity


@pytest.mark.parametrize(
    ("visible", "given", "gpus"),
    [(None, 3, 3), ("0,1", 3, 2), ("0,1", 1, 1), (" 5, ,GPU-ab,", 3, 2), ("", 3, 0), ("0", 0, 0), ("", None, 0)],
)
def test_no_more_gpus_than_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, given: int | None, gpus: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect({"num_gpus": given})[0].get("GPU", 0) == gpus
