"""What this machine has, as far as nobody says otherwise."""

from __future__ import annotations

import os
from typing import Any

from asyncray.config import STORE_FRACTION, STORE_MINIMUM


def detect(config: dict[str, Any]) -> tuple[dict[str, float], int]:
    """The resources of the node and the capacity of its object store.

    Args:
        config: "num_cpus", "num_gpus", "memory", "object_store_memory", "resources": as given to ``init``, or None.
    """
    cpus = config.get("num_cpus")
    memory = _memory()
    capacity = int(config.get("object_store_memory") or max(STORE_MINIMUM, memory * STORE_FRACTION))
    resources: dict[str, float] = {
        "CPU": _cpus() if cpus is None else cpus,
        "memory": config.get("memory") or max(0, memory - capacity),
        "object_store_memory": capacity,
        **(config.get("resources") or {}),
    }
    gpus = _gpus(config.get("num_gpus"))
    if gpus:
        resources["GPU"] = gpus
    return {name: amount for name, amount in resources.items() if amount or name == "CPU"}, capacity


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no limit, or no such control group
        return total


def _gpus(given: float | None) -> float:
    """GPUs that were given, or are there; never more than CUDA_VISIBLE_DEVICES names, for no others can be used."""
    gpus = _present_gpus() if given is None else given
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if visible is None else min(gpus, len([name for name in visible.split(",") if name.strip()]))


def _present_gpus() -> int:
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0
