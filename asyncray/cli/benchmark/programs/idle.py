"""Starts a node with two workers, uses both, says "ready" and then does nothing until its input ends."""

import importlib
import os
import sys
import time
from typing import Any

ray: Any = importlib.import_module(os.environ.get("ASYNCRAY_BENCHMARK_FACE", "asyncray.sync"))


@ray.remote  # type: ignore[untyped-decorator]  # the module is known by name only
def nap() -> int:
    time.sleep(0.1)
    return os.getpid()


def main() -> None:
    with ray.init(num_cpus=2):
        while len(set(ray.get([nap.remote() for _ in range(2)]))) < 2:
            pass  # one worker took both: the other had not started yet
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
