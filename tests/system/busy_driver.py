"""A driver with a busy node, which ends in the way that its argument says: ``python -m ... ENDING DIRECTORY``.

None of these may exist afterwards: workers that run C code and hold the interpreter's lock, sleep, wait in ``get``, or
are actors; processes that workers have started, in their process group or in a session of its own; shared memory.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import asyncray.sync as ray

SLEEP = "import time; time.sleep(1000)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}, sys.argv[1]])"
FOREVER: list[Any] = []


def announce(directory: Path) -> None:
    with open(directory / "started", "a") as pipe:
        pipe.write(".")


@ray.remote(max_retries=0)
def hold_the_lock(directory: Path) -> None:
    announce(directory)
    sum(range(10**13))


@ray.remote(max_retries=0)
def sleep(directory: Path) -> None:
    announce(directory)
    time.sleep(1000)


@ray.remote(max_retries=0)
def wait_for(directory: Path, refs: list[Any]) -> None:
    announce(directory)
    ray.get(refs)


class Parent:
    """Has children and grandchildren, also one that shows in no way (``bare``) whom it belongs to."""

    def __init__(self, directory: Path, bare: bool = True) -> None:
        for apart in (False, True):
            subprocess.Popen([sys.executable, "-c", PARENT, str(directory)], start_new_session=apart)
        if bare:
            subprocess.Popen([sys.executable, "-c", SLEEP, str(directory)], env={}, start_new_session=True)

    def pid(self) -> int:
        return os.getpid()


def occupy(directory: Path, bare: bool = True) -> dict[str, Any]:
    """Makes the node busy; returns refs that must stay alive, those of endless tasks, and an actor."""
    os.mkfifo(directory / "started")
    pipe = os.open(directory / "started", os.O_RDWR)
    kept = ray.put(np.ones(4_000_000))
    lasting = [hold_the_lock.remote(directory), sleep.remote(directory)]
    lasting.append(wait_for.remote(directory, [lasting[1]]))
    parent = ray.remote(Parent).remote(directory, bare)
    ray.get(parent.pid.remote())
    started = b""
    while len(started) < len(lasting):
        started += os.read(pipe, 10)
    os.close(pipe)
    return {"kept": kept, "lasting": lasting, "parent": parent}


def end(ending: str, lasting: list[Any]) -> None:
    if ending == "exception":
        raise ValueError("the driver fails")
    if ending == "_exit":
        os._exit(7)
    if ending == "get":
        ray.get(lasting)
    if ending == "wait":
        ray.wait(lasting)
    if ending == "await":
        asyncio.run(gather(lasting))


async def gather(refs: list[Any]) -> None:
    await asyncio.gather(*refs)


def main() -> None:
    ending, directory = sys.argv[1], Path(sys.argv[2])
    atexit.register(print, "exit handlers ran", flush=True)
    context = ray.init(num_cpus=4)
    things = occupy(directory)
    print(json.dumps(context.address_info), flush=True)
    end(ending, things["lasting"])


if __name__ == "__main__":
    main()
