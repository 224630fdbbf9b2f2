"""Programs for drivers on machines of the network. Each takes the address of the cluster.

They run on the fourth machine, which has no node, so a small one joins for them.
"""

from __future__ import annotations

SPREADS = """\
import sys
import asyncray.sync as ray

@ray.remote(scheduling_strategy="SPREAD")
def where():
    return ray.util.get_node_ip_address()

with ray.init(sys.argv[1]):
    print(*sorted(set(ray.get([where.remote() for _ in range(12)]))))
"""

FETCHES = """\
import sys
import time
import numpy as np
import asyncray.sync as ray

@ray.remote(resources={"second": 1})
def make(size):
    return np.ones(size)

@ray.remote(resources={"third": 1})
def add(array):
    return float(array.sum())

with ray.init(sys.argv[1]):
    array = make.remote(int(sys.argv[2]) // 8)
    ray.wait([array], fetch_local=False)
    began = time.monotonic()
    print(ray.get(add.remote(array)) * 8, time.monotonic() - began)
    print(ray.get(array).nbytes, time.monotonic() - began)
"""

BROADCASTS = """\
import sys
import time
import numpy as np
import asyncray.sync as ray

@ray.remote
def add(array):
    return float(array.sum())

with ray.init(sys.argv[1]):
    array = ray.put(np.ones(int(sys.argv[2]) // 8))
    began = time.monotonic()
    here = [add.options(resources={name: 1}).remote(array) for name in ("first", "second", "third")]
    print({total * 8 for total in ray.get(here)}, time.monotonic() - began)
"""

WORKS = """\
import sys
import asyncray.sync as ray

@ray.remote(scheduling_strategy="SPREAD", max_retries=5)
def work(number):
    import time
    time.sleep(0.2)
    return number

with ray.init(sys.argv[1]):
    refs = [work.remote(number) for number in range(60)]
    ready, _ = ray.wait(refs, num_returns=6)
    print("works", flush=True)
    print(ray.get(refs) == list(range(60)), flush=True)
"""

WAITS_ELSEWHERE = """\
import sys
import threading
import asyncray.sync as ray

@ray.remote(resources={"third": 1}, max_retries=0)
def wait():
    print("waits", flush=True)
    threading.Event().wait()

ray.init(sys.argv[1])
try:
    ray.get(wait.remote())
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
