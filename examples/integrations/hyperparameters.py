"""An Optuna study whose trials run on asyncray: the study asks here, the workers compute.

Needs `pip install optuna`. A trial itself must not travel: the study in this process would not learn its values. So
this program asks the study for values, gives those to tasks, and tells the study each result as it comes. It prints how
many trials ran, and whether the best is near the minimum at 2.
"""

import optuna

import asyncray.sync as ray

TRIALS = 40
AHEAD = 4


@ray.remote
def loss(x: float) -> float:
    return (x - 2) ** 2


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    with ray.init(num_cpus=2):
        running = {}
        for number in range(TRIALS + AHEAD):
            if number >= AHEAD:
                (done,), _ = ray.wait(list(running))
                study.tell(running.pop(done), ray.get(done))
            if number < TRIALS:
                trial = study.ask()
                running[loss.remote(trial.suggest_float("x", -10, 10))] = trial
    print("trials:", len(study.trials), "near the minimum:", abs(study.best_params["x"] - 2) < 1)


if __name__ == "__main__":
    main()
