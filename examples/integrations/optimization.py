"""SciPy's `differential_evolution` with its population evaluated on asyncray: `workers` takes any `map`.

Needs `pip install scipy`. Prints the minimum of Rosenbrock's function in three dimensions, which is at (1, 1, 1).
"""

from scipy.optimize import differential_evolution, rosen

import asyncray.sync as ray
from asyncray.util import Executor


def main() -> None:
    with ray.init(num_cpus=2), Executor() as executor:
        found = differential_evolution(
            rosen, [(-2, 2)] * 3, workers=executor.map, updating="deferred", maxiter=20, popsize=8, seed=1
        )
    print("minimum at:", found.x.round(3).tolist())


if __name__ == "__main__":
    main()
