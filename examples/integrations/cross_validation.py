"""scikit-learn's cross-validation and grid search on asyncray, by joblib's `parallel_config`.

Needs `pip install scikit-learn`. Prints the scores of four folds, which are those of a run without workers, and the
best of four settings.
"""

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

import asyncray.sync as ray
from asyncray.util.joblib import register_asyncray


def main() -> None:
    features, species = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000)
    alone = cross_val_score(model, features, species, cv=4)
    register_asyncray()
    with ray.init(num_cpus=2), joblib.parallel_config("asyncray"):
        scores = cross_val_score(model, features, species, cv=4)
        print("scores:", scores.round(2).tolist(), "as without workers:", (scores == alone).all())
        search = GridSearchCV(model, {"C": [0.01, 0.1, 1, 10]}, cv=4).fit(features, species)
        print("best C:", search.best_params_["C"])


if __name__ == "__main__":
    main()
