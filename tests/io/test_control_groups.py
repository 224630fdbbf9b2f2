"""Limits of control groups, read from a tree of files like that of a real machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncray.io.control_groups import cpu_limit, memory_limit, oom_kills, usable_cpus

VERSION_2 = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
NO_LIMIT_OF_VERSION_1 = str(0x7FFFFFFFFFFFF000)


def machine(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> str:
    for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join(mounts), **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return str(root)


def test_no_limit_where_nothing_says_one(tmp_path: Path) -> None:
    assert cpu_limit(str(tmp_path)) is None
    assert memory_limit(str(tmp_path)) is None
    files = {"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}
    root = machine(tmp_path, "0::/", [VERSION_2], files)
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


def test_version_2_in_a_container_with_a_namespace_of_its_own(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "150000 100000", "sys/fs/cgroup/memory.max": "2147483648"}
    root = machine(tmp_path, "0::/", [VERSION_2], files)
    assert cpu_limit(root) == 1.5
    assert memory_limit(root) == 2**31


def test_the_tightest_of_nested_groups_wins(tmp_path: Path) -> None:
    group = "user.slice/user-1000.slice/app:1.scope"
    files = {
        f"sys/fs/cgroup/{group}/cpu.max": "max 100000",
        f"sys/fs/cgroup/{group}/memory.max": "3000",
        "sys/fs/cgroup/user.slice/user-1000.slice/cpu.max": "200000 50000",
        "sys/fs/cgroup/user.slice/user-1000.slice/memory.max": "max",
        "sys/fs/cgroup/user.slice/cpu.max": "800000 100000",
        "sys/fs/cgroup/user.slice/memory.max": "1000",
        "sys/fs/cgroup/other/cpu.max": "100000 100000",
        "sys/fs/cgroup/other/memory.max": "1",
    }
    root = machine(tmp_path, f"0::/{group}", [VERSION_2], files)
    assert cpu_limit(root) == 4.0
    assert memory_limit(root) == 1000


@pytest.mark.parametrize("mounted", ["/docker/abc", "/"])
def test_version_1_in_a_container(tmp_path: Path, mounted: str) -> None:
    """With the whole tree of the host below its mount, or with its own group only, which stands at the root then."""
    mounts = [
        f"32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct",
        f"33 31 0:30 {mounted} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
    ]
    below = "" if mounted != "/" else "docker/abc/"
    files = {
        f"sys/fs/cgroup/cpu,cpuacct/{below}cpu.cfs_quota_us": "300000",
        f"sys/fs/cgroup/cpu,cpuacct/{below}cpu.cfs_period_us": "100000",
        f"sys/fs/cgroup/memory/{below}memory.limit_in_bytes": "4096",
    }
    root = machine(
        tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc", mounts, files
    )
    assert cpu_limit(root) == 3.0
    assert memory_limit(root) == 4096


def test_a_group_that_is_not_below_its_mount_is_what_is_mounted(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/fs/cgroup/memory.max": "77"}
    root = machine(tmp_path, "0::/kubepods/pod1/container", [VERSION_2.replace(" / ", " /../container ", 1)], files)
    assert cpu_limit(root) == 1.0
    assert memory_limit(root) == 77


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = [
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
        "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    ]
    files = {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_OF_VERSION_1,
        "sys/fs/cgroup/unified/cpu.max": "700000 100000",
    }
    root = machine(tmp_path, "2:memory:/\n1:cpu:/\n0::/", mounts, files)
    assert cpu_limit(root) == 7.0
    assert memory_limit(root) == int(NO_LIMIT_OF_VERSION_1)


@pytest.mark.parametrize("content", ["", "nonsense", "-5 0", "100000", "100000 0", "1e9 1e9", "\0"])
def test_what_makes_no_sense_is_no_limit(tmp_path: Path, content: str) -> None:
    files = {"sys/fs/cgroup/cpu.max": content, "sys/fs/cgroup/memory.max": f"-{content}"}
    root = machine(tmp_path, f"0::/\nnonsense\n{content}", [VERSION_2, "nonsense", " - cgroup2", content], files)
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("250000 100000", 2), ("10000 100000", 1), ("9900000 100000", 8)]
)
def test_cpus_are_those_of_the_quota_as_far_as_there_are_so_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(f"{quota}\n")
    process = tmp_path / "proc/self"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("0::/\n")
    (process / "mountinfo").write_text("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert usable_cpus(str(tmp_path)) == cpus


def test_kills_for_lack_of_memory_are_those_of_the_group(tmp_path: Path) -> None:
    version_1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    files = {"proc/vmstat": "pgfault 7\noom_kill 9\n"}
    assert oom_kills(str(tmp_path)) == 0
    assert oom_kills(machine(tmp_path / "none", "0::/", [VERSION_2], files)) == 9
    files["sys/fs/cgroup/app/memory.events"] = "oom 5\noom_kill 4\noom_group_kill 0"
    assert oom_kills(machine(tmp_path / "2", "0::/app", [VERSION_2], files)) == 4
    files["sys/fs/cgroup/memory/app/memory.oom_control"] = "under_oom 0\noom_kill 3"
    files["sys/fs/cgroup/memory/memory.oom_control"] = "under_oom 0\noom_kill 8"
    assert oom_kills(machine(tmp_path / "1", "4:memory:/app\n0::/", [version_1, unified], files)) == 3
