"""Imports, starts, gets a first result, stops: prints the seconds until the result, and those of stopping, as JSON."""

import importlib
import json
import os
from time import perf_counter


def main() -> None:
    began = perf_counter()
    ray = importlib.import_module(os.environ.get("ASYNCRAY_BENCHMARK_FACE", "asyncray.sync"))
    ray.init()

    @ray.remote  # type: ignore[untyped-decorator]  # the module is known by name only
    def square(x: int) -> int:
        return x * x

    right = ray.get(square.remote(3)) == 9
    first = perf_counter()
    ray.shutdown()
    print(json.dumps({"right": right, "start": first - began, "stop": perf_counter() - first}))


if __name__ == "__main__":
    main()
