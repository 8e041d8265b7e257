"""What scikit-learn reaches on the tables of examples/tabular/data.py: python -m examples.tabular.baselines."""

import os
import sys
from pathlib import Path

from utils.errors import UserError, clean_exit, shown


def baselines(folder: Path) -> dict[str, float]:
    """Return R2 on test.csv of models that are fitted to train.csv, {name: value}; seeds are 0."""
    import pandas
    from sklearn.dummy import DummyRegressor  # pyright: ignore[reportMissingImports]
    from sklearn.ensemble import (  # pyright: ignore[reportMissingImports]
        GradientBoostingRegressor,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
    )
    from sklearn.linear_model import LassoCV, LinearRegression  # pyright: ignore[reportMissingImports]
    from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]
    from sklearn.preprocessing import StandardScaler  # pyright: ignore[reportMissingImports]

    for path in (folder / "train.csv", folder / "test.csv"):
        if not os.path.isfile(path):
            raise UserError(f"there is no file {shown(path)}; make it: python -m examples.tabular.data")
    train, test = (pandas.read_csv(folder / f"{part}.csv") for part in ("train", "test"))
    models = {
        "mean": DummyRegressor(),
        "LinearRegression": LinearRegression(),
        "LassoCV": make_pipeline(StandardScaler(), LassoCV(random_state=0)),
        "RandomForestRegressor": RandomForestRegressor(random_state=0),
        "GradientBoostingRegressor": GradientBoostingRegressor(random_state=0),
        "HistGradientBoostingRegressor": HistGradientBoostingRegressor(random_state=0),
    }
    values = {}
    for name, model in models.items():
        model.fit(train.drop(columns="target"), train["target"])
        values[name] = float(model.score(test.drop(columns="target"), test["target"]))
    return values


if __name__ == "__main__":
    with clean_exit():
        for name, value in baselines(Path(*sys.argv[1:2] or ["data/diabetes"])).items():
            print(f"{name}: {value:.3f}")
