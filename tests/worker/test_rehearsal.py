"""The rehearsal, in processes of its own: it changes the interpreter, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

REHEARSING = """
import dis, json, os, sys, threading
from asyncray.io import forking
from asyncray.runtime import current
from asyncray.runtime.context import running_task
from asyncray.worker import work_loop, hosting, rehearsal

def state():
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "paths": sys.path,
        "variables": dict(os.environ),
        "directory": os.getcwd(),
        "output": [id(sys.stdout), id(sys.stderr)],
        "hooks": [id(sys.unraisablehook), id(sys.excepthook)],
        "handlers": [str(signal) for signal in map(forking._signal.getsignal, range(1, 32))],
        "session": current.session is None,
        "task": running_task() is None,
        "registered": len(forking._registered),
    }

def instructions():
    functions = (work_loop.WorkLoop.__init__, hosting.ActorHost.carry_out)
    return [[found.opname for found in dis.get_instructions(function, adaptive=True)] for function in functions]

state(), instructions()
before, cold = state(), instructions()
assert instructions() == cold
for _ in rehearsal.rehearse():
    pass
print(json.dumps([before, state(), [a != b for a, b in zip(cold, instructions())]]))
"""


def test_it_warms_the_interpreter_and_leaves_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", REHEARSING], stdout=subprocess.PIPE, check=True)
    before, after, faster = json.loads(done.stdout)
    assert after == before
    assert faster == [True, True]
