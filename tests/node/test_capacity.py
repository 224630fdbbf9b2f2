"""The capacity of a node: amounts that it was given, and those of the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asyncray.config import STORE_MINIMUM
from asyncray.io.control_groups import usable_cpus
from asyncray.node import capacity
from asyncray.words import NodeAmounts


def amounts(**given: Any) -> NodeAmounts:
    return {"num_cpus": None, "num_gpus": None, "resources": None, "object_store_memory": None, **given}  # type: ignore[typeddict-item]  # names are right


def test_given_amounts_are_taken() -> None:
    given = amounts(num_cpus=2.5, object_store_memory=1e8, resources={"a": 1, "b": 0})
    resources, store = capacity.detect(given)
    assert (store, type(store)) == (10**8, int)
    assert resources.pop("memory") == capacity.usable_memory() - 10**8
    assert {**resources, "GPU": 0} == {"CPU": 2.5, "GPU": 0, "object_store_memory": 10**8, "a": 1}


def test_given_memory_is_taken_beside_the_store() -> None:
    resources, _ = capacity.detect(amounts(memory=10**9, object_store_memory=1e8))
    assert (resources["memory"], resources["object_store_memory"]) == (10**9, 10**8)


def test_the_machine_says_the_rest() -> None:
    resources, store = capacity.detect(amounts())
    assert resources["CPU"] == usable_cpus() >= 1
    assert store >= STORE_MINIMUM
    assert resources["object_store_memory"] == store


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
    assert capacity.detect(amounts(num_gpus=given))[0].get("GPU", 0) == gpus


def test_memory_is_the_least_that_the_machine_says(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert capacity.usable_memory(str(tmp_path)) == machine
    (tmp_path / "proc").mkdir()
    for line, memory in (("MemTotal: 1000 kB", 1024000), (f"MemTotal: {machine} kB", machine), ("nonsense", machine)):
        (tmp_path / "proc/meminfo").write_text(f"{line}\nMemFree: 1 kB\n")
        assert capacity.usable_memory(str(tmp_path)) == memory
