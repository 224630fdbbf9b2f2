"""The ODSC deck, "Function → Task": read two arrays from files and add them, step by step from functions to tasks.

Prints the sum as plain functions give it, what happens on the slide that decorates the functions and still calls them
plainly, and the sum as tasks give it.
"""

import tempfile
from pathlib import Path

import numpy as np

import asyncray.sync as ray


def run_functions(file1: Path, file2: Path) -> None:
    def read_array(file):
        # read ndarray "a"
        # from "file"
        return np.load(file)

    def add(a, b):
        return np.add(a, b)

    array1 = read_array(file1)
    array2 = read_array(file2)
    sum = add(array1, array2)
    print("functions:", sum.tolist())


@ray.remote
def read_array(file):
    # read ndarray "a"
    # from "file"
    return np.load(file)


@ray.remote
def add(a, b):
    return np.add(a, b)


def call_plainly(file1: Path) -> None:
    try:
        read_array(file1)
    except TypeError:
        print("a remote function called plainly: TypeError")


def run_tasks(file1: Path, file2: Path) -> None:
    id1 = read_array.remote(file1)
    id2 = read_array.remote(file2)
    id = add.remote(id1, id2)
    sum = ray.get(id)
    print("tasks:", sum.tolist())


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ray.init():
        file1, file2 = Path(directory, "1.npy"), Path(directory, "2.npy")
        np.save(file1, np.arange(4))
        np.save(file2, np.full(4, 10))
        run_functions(file1, file2)
        call_plainly(file1)
        run_tasks(file1, file2)


if __name__ == "__main__":
    main()
