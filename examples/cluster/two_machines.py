"""Two machines at work, played on one: starts a head and another node, and runs `program.py` on them.

On real machines the head takes the address of its network (`--host 10.0.0.1`), and the other machine gets the token of
the cluster in ASYNCRAY_TOKEN: the head prints the line for it. Here the second node finds the token by itself.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

NODE = [sys.executable, "-m", "asyncray", "node", "--json", "--num-cpus", "1"]


def start(*options):
    """Starts a node as people do in a terminal; returns the process and the facts that it prints when it is ready."""
    print("$ asyncray node", *options, flush=True)
    process = subprocess.Popen([*NODE, *options], stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())


def stop(process):
    process.terminate()
    process.wait()
    process.stdout.close()


def main() -> None:
    with ExitStack() as stack:
        head, facts = start("--head", "--name", "machine1")
        stack.callback(stop, head)
        address = facts["cluster_address"]
        other, _ = start("--address", address, "--name", "machine2")
        stack.callback(stop, other)
        print("$ python program.py", address, flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name("program.py"), address], check=True)


if __name__ == "__main__":
    main()
