"""The ODSC deck, "Class → Actor": a counter as a plain class, then as an actor that holds a GPU.

Prints 1 and 2 from the class, then 1 and 2 from the actor, or that it skips the actor where no GPU is.
"""

import asyncray.sync as ray


def run_class() -> None:
    class Counter:
        def __init__(self):
            self.value = 0

        def inc(self):
            self.value += 1
            return self.value

    c = Counter()
    val1 = c.inc()
    val2 = c.inc()
    print("class:", val1, val2)


@ray.remote(num_gpus=1)
class Counter:
    def __init__(self):
        self.value = 0

    def inc(self):
        self.value += 1
        return self.value


def run_actor() -> None:
    c = Counter.remote()
    id4 = c.inc.remote()
    id5 = c.inc.remote()
    print("actor:", *ray.get([id4, id5]))


def main() -> None:
    run_class()
    with ray.init():
        if ray.cluster_resources().get("GPU", 0) >= 1:
            run_actor()
        else:
            # The actor would wait for a node with a GPU for ever.
            print("actor: skipped, this machine has no GPU")


if __name__ == "__main__":
    main()
