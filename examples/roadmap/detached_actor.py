"""Ray Essentials, "Actor Options": a named, detached actor outlives the program that made it.

Starts a cluster, then two more programs, one after the other: the first makes the counter and ends, the second finds it
by its name. Prints the first one's 1, the second one's 2, and that nobody answers to the name after `ray.kill`.
"""

import subprocess
import sys

import asyncray.sync as ray


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value


def create(address: str) -> None:
    with ray.init(address=address, namespace="counters"):
        counter = Counter.options(name="my_counter", lifetime="detached").remote()
        print("first program:", ray.get(counter.increment.remote()))


def find(address: str) -> None:
    with ray.init(address=address, namespace="counters"):
        counter = ray.get_actor("my_counter")
        print("second program:", ray.get(counter.increment.remote()))
        ray.kill(counter)


def run_program(verb: str, address: str) -> None:
    subprocess.run([sys.executable, __file__, verb, address], check=True)


def main() -> None:
    # Without a namespace of its own every program would get a fresh one, and the name would not be found.
    with ray.init(namespace="counters") as context:
        run_program("create", context.address_info["address"])
        run_program("find", context.address_info["address"])
        try:
            ray.get_actor("my_counter")
        except ValueError:
            print("killed, and the name is free")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"create": create, "find": find}[sys.argv[1]](sys.argv[2])
