"""Submits many tasks and gets their results: ``burst.py COUNT queued|at-once``. Prints the seconds as JSON.

"queued": no task can start before all are submitted, for others hold every CPU.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

ray: Any = importlib.import_module(os.environ.get("ASYNCRAY_BENCHMARK_FACE", "asyncray.sync"))


@ray.remote  # type: ignore[untyped-decorator]  # the module is known by name only
def small_value() -> bytes:
    return b"ok"


@ray.remote  # type: ignore[untyped-decorator]  # as above
def hold(running: str, until: str) -> None:
    with open(running, "w", encoding="utf-8"):
        pass
    while not os.path.exists(until):
        time.sleep(0.01)


@contextlib.contextmanager
def cpus_are_held() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        until = os.path.join(directory, "until")
        running = [os.path.join(directory, str(i)) for i in range(int(ray.cluster_resources()["CPU"]))]
        holders = [hold.remote(path, until) for path in running]
        while not all(map(os.path.exists, running)):
            time.sleep(0.01)
        yield
        with open(until, "w", encoding="utf-8"):
            pass
        ray.get(holders)


def main() -> None:
    count = int(sys.argv[1])
    with ray.init():
        ray.get([small_value.remote() for _ in range(100)])  # workers are up, the function is known
        began = time.perf_counter()
        with cpus_are_held() if sys.argv[2] == "queued" else contextlib.nullcontext():
            refs = [small_value.remote() for _ in range(count)]
        results = ray.get(refs)
        elapsed = time.perf_counter() - began
    print(json.dumps({"right": results.count(b"ok") == count, "seconds": elapsed}))


if __name__ == "__main__":
    main()
