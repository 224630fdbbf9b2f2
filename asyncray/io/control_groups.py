"""The limits of this process's control groups: the CPUs and memory that a container may use of its host, and the number
of times that it ran out of memory.

Promises: every limit between this process's own group and the root counts, and the tightest wins, under version 2 of
control groups, version 1, and both at once; in a container that sees its own part of the tree and in one that sees its
host's. No limit, and files that cannot be read, are no limit.

All files are read below ``root``, so that a test can make them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import NamedTuple


class _Mount(NamedTuple):
    """A tree of groups that is visible here."""

    controllers: frozenset[str]
    """Of version 1; empty for version 2, which has all controllers in one tree."""
    group: str
    """The group that is mounted, by its path in the whole tree."""
    directory: str
    """Where it is mounted."""


_Groups = tuple[list[str], tuple[_Mount, ...]]
"""The lines that name this process's groups, and the mounts of their trees."""


def usable_cpus(root: str = "/") -> int:
    """CPUs that this process may use: by its affinity, and by the quota of its control groups.

    A part of a CPU in a quota does not count, as in Ray, but there is always one. The quota is read once in a process
    and in those that are forked from it, because reading it takes 0.4 ms.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _known_cpu_limit(root)
    return cpus if limit is None else max(1, min(cpus, int(limit)))


@functools.cache
def _known_cpu_limit(root: str) -> float | None:
    return cpu_limit(root)


def cpu_limit(root: str = "/") -> float | None:
    """CPUs that may be used at once; None if there is no limit."""
    groups = _read_groups(root)
    limits = [*_version_2_cpus(groups), *_version_1_cpus(groups)]
    return min(limits, default=None)


def memory_limit(root: str = "/") -> int | None:
    """Bytes of memory that may be used; None if there is no limit."""
    groups = _read_groups(root)
    files = [os.path.join(directory, "memory.max") for directory in _directories(groups, "")]
    files += [os.path.join(directory, "memory.limit_in_bytes") for directory in _directories(groups, "memory")]
    limits = [int(fields[0]) for file in files if (fields := _fields(file)) and fields[0].isdigit()]
    return min(limits, default=None)


def oom_kills(root: str = "/") -> int:
    """How many processes of this group the system has killed for lack of memory, as far as it says so.

    It counts where the killed process belongs, whichever limit was exceeded: that of the group, of one above it, or the
    machine's memory. Without such a count, those of the whole machine.
    """
    groups = _read_groups(root)
    files = [os.path.join(directory, "memory.events") for directory in _directories(groups, "")]
    files += [os.path.join(directory, "memory.oom_control") for directory in _directories(groups, "memory")]
    for file in (*files, os.path.join(root, "proc/vmstat")):
        for line in _lines(file):
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0


def _version_2_cpus(groups: _Groups) -> Iterator[float]:
    for directory in _directories(groups, ""):
        quota, _, period = " ".join(_fields(os.path.join(directory, "cpu.max"))).partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _version_1_cpus(groups: _Groups) -> Iterator[float]:
    for directory in _directories(groups, "cpu"):
        quota = "".join(_fields(os.path.join(directory, "cpu.cfs_quota_us")))  # -1 is no limit
        period = "".join(_fields(os.path.join(directory, "cpu.cfs_period_us")))
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _read_groups(root: str) -> _Groups:
    return _lines(os.path.join(root, "proc/self/cgroup")), tuple(_mounts(root))


def _directories(groups: _Groups, controller: str) -> Iterator[str]:
    """The directories of this process's group and of those above it, as far as they can be seen.

    Args:
        controller: of version 1; empty for version 2.
    """
    lines, mounts = groups
    for line in lines:
        number, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controller not in controllers.split(",") or (not controller and number != "0"):
            continue
        for mount in mounts:
            if (controller in mount.controllers) if controller else not mount.controllers:
                yield from _upwards(mount, group)


def _upwards(mount: _Mount, group: str) -> Iterator[str]:
    """The directories from a group's up to that of the mount.

    The group may not be below what is mounted: a container without a namespace of its own has the path that its host
    uses, and sees only its own part of the tree, at the root. Then that is the group.
    """
    below = os.path.relpath(group, mount.group) if group.startswith("/") else "."
    parts = [] if below == "." or below.startswith("..") else below.split("/")
    for length in range(len(parts), -1, -1):
        yield os.path.join(mount.directory, *parts[:length])


def _mounts(root: str) -> Iterator[_Mount]:
    for line in _lines(os.path.join(root, "proc/self/mountinfo")):
        # number, parent, device, root, mount point, options, optional fields ..., "-", type, source, super options
        mounted, dash, filesystem = line.partition(" - ")
        fields, kind = mounted.split(), filesystem.split()
        if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset[str]()
        yield _Mount(controllers, fields[3], os.path.join(root, fields[4].lstrip("/")))


def _fields(file: str) -> list[str]:
    return [field for line in _lines(file)[:1] for field in line.split()]


def _lines(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return opened.read().splitlines()
    except OSError:
        return []
