"""Starting and stopping as users meet it, in both faces: arguments, contexts, addresses."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncray
import asyncray.sync as ray

ROOT = Path(__file__).parents[2]


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


def test_contexts_of_the_blocking_face() -> None:
    with ray.init(num_cpus=1, include_dashboard=False, dashboard_port=8265) as context:
        assert ray.get(add.remote(1, 2)) == 3
        assert context["address"].startswith("unix:")
        assert context.get("nonsense", 5) == 5
        assert "nonsense" not in context
        with pytest.raises(KeyError):
            context["nonsense"]
        assert set(context) == set(context.address_info)
    assert not ray.is_initialized()
    ray.init(num_cpus=1).disconnect()
    assert not ray.is_initialized()
    ray.shutdown()  # once more than needed


async def test_contexts_of_the_async_face() -> None:
    async with asyncray.init(num_cpus=1, dashboard_host="0.0.0.0", configure_logging=False) as context:
        assert await add.remote(1, 2) == 3
        assert context["node_id"]
    assert not asyncray.is_initialized()
    await asyncray.init(num_cpus=1)
    assert asyncray.is_initialized()
    await asyncray.shutdown()
    assert not asyncray.is_initialized()


async def test_an_init_that_is_not_awaited_is_told() -> None:
    with pytest.warns(RuntimeWarning, match=r"asyncray.init\(\) was never awaited: write 'async with"):
        asyncray.init(num_cpus=1)


async def test_the_wrong_kind_of_with_names_the_right_one() -> None:
    wrong: Any = asyncray.init(num_cpus=1)
    with pytest.raises(TypeError, match=r"^Write 'async with asyncray.init"), wrong:
        pass
    wrong = ray.init(num_cpus=1)
    with pytest.raises(TypeError, match=r"^Write 'async with asyncray.init.*without 'async'"):
        async with wrong:
            pass
    assert not ray.is_initialized()


async def test_arguments_are_refused_in_both_faces_before_anything_starts() -> None:
    for options, error in (({"runtime_env": {"pip": ["x"]}}, ValueError), ({"numcpus": 2}, RuntimeError)):
        name = next(iter(options))
        with pytest.raises(error, match=name):
            ray.init(**options)
        with pytest.raises(error, match=name):
            await asyncray.init(**options)
    assert not ray.is_initialized()


@pytest.mark.parametrize("name", ["file", "file/below", "long" * 30])
async def test_a_directory_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("ASYNCRAY_TMPDIR", str(tmp_path / name))
        with pytest.raises(OSError, match=rf"The session directory {tmp_path / name}.*Set ASYNCRAY_TMPDIR"):
            ray.init()
        with pytest.raises(OSError, match="Set ASYNCRAY_TMPDIR"):
            await asyncray.init()
    assert not ray.is_initialized()
    with ray.init(num_cpus=1):
        assert ray.get(add.remote(1, 2)) == 3


def test_a_working_directory_that_was_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.syspath_prepend("relative")
    gone.rmdir()
    with ray.init(num_cpus=1):
        assert ray.get(add.remote(1, 2)) == 3


async def test_an_empty_dict_is_no_address() -> None:
    nowhere: Any = {}
    with ray.init(nowhere, num_cpus=1):
        assert ray.cluster_resources()["CPU"] == 1
    async with asyncray.init(nowhere, num_cpus=1):
        assert (await asyncray.cluster_resources())["CPU"] == 1


async def test_a_second_init_changes_nothing() -> None:
    logger = logging.getLogger("asyncray")
    level = logger.level
    context = ray.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="init twice"):
        ray.init()
    with pytest.raises(RuntimeError, match="init twice"):
        await asyncray.init()
    again = ray.init(num_cpus=3, ignore_reinit_error=True, logging_level=level + 1)
    assert again.address_info == context.address_info
    assert ray.cluster_resources()["CPU"] == 1
    assert logger.level == level


@pytest.mark.parametrize("options", [[], ["-s"]])
def test_workers_use_the_packages_of_the_user_only_if_the_program_does(options: list[str]) -> None:
    program = """
import sys
import asyncray.sync as ray

@ray.remote
def flag(): return sys.flags.no_user_site

with ray.init(num_cpus=1):
    print(ray.get(flag.remote()))
"""
    done = subprocess.run(
        [sys.executable, *options, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60.0, check=True
    )
    assert done.stdout == f"{len(options)}\n"
