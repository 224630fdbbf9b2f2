"""The CPUs, memory and GPUs of this machine that a node may use, for amounts that its user does not give.

In a container that is the container's limit and not what its host has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncray.config import STORE_FRACTION, STORE_MINIMUM
from asyncray.io.control_groups import memory_limit, usable_cpus

if TYPE_CHECKING:
    from asyncray.words import NodeAmounts


def detect(amounts: NodeAmounts) -> tuple[dict[str, float], int]:
    """The resources of the node and the capacity of its object store.

    Args:
        amounts: as given to ``init``; None stands for the machine's.
    """
    cpus = amounts["num_cpus"]
    memory = usable_memory()
    capacity = int(amounts["object_store_memory"] or max(STORE_MINIMUM, memory * STORE_FRACTION))
    resources: dict[str, float] = {
        "CPU": usable_cpus() if cpus is None else cpus,
        "memory": max(0, memory - capacity) if (given := amounts.get("memory")) is None else given,
        "object_store_memory": capacity,
        **(amounts["resources"] or {}),
    }
    gpus = _gpus(amounts["num_gpus"])
    if gpus:
        resources["GPU"] = gpus
    return {name: amount for name, amount in resources.items() if amount or name == "CPU"}, capacity


def usable_memory(root: str = "/") -> int:
    """Bytes of memory: the machine's, or less where a control group limits them."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total, _total_of_meminfo(root), memory_limit(root)]
    return min(limit for limit in limits if limit is not None)


def _total_of_meminfo(root: str) -> int | None:
    """The total in /proc/meminfo. Some containers have a file of their own there (lxcfs)."""
    try:
        with open(os.path.join(root, "proc/meminfo"), encoding="utf-8") as file:
            name, amount, unit = file.readline().split()
    except (OSError, ValueError):
        return None
    return int(amount) * 1024 if name == "MemTotal:" and unit == "kB" and amount.isdigit() else None


def _gpus(given: float | None) -> float:
    """GPUs that were given or found; never more than CUDA_VISIBLE_DEVICES names, because no others can be used."""
    gpus = _present_gpus() if given is None else given
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if visible is None else min(gpus, len([name for name in visible.split(",") if name.strip()]))


def _present_gpus() -> int:
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0
