"""Make the tables of examples/tabular/config.json from scikit-learn: python -m examples.tabular.data."""

import sys
from pathlib import Path

import numpy as np

from utils.errors import UserError, clean_exit

TEST_ROWS = 88  # a fifth


def write_tables(folder: Path) -> list[Path]:
    """Write train.csv (354 rows) and test.csv (88) of the diabetes study into the folder, and return their paths.

    The rows are 442 patients: age, sex, body mass index, blood pressure, six blood serum values, and the progress of
    the disease a year later. Source: Efron, Hastie, Johnstone and Tibshirani, Least Angle Regression, 2004.
    """
    try:
        from sklearn.datasets import load_diabetes  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("the table comes with scikit-learn, which is not installed: pip install scikit-learn") from None
    table = load_diabetes(as_frame=True, scaled=False).frame  # pyright: ignore[reportAttributeAccessIssue]
    order = np.random.RandomState(0).permutation(len(table))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in (("test.csv", order[:TEST_ROWS]), ("train.csv", order[TEST_ROWS:])):
        paths.append(folder / name)
        table.iloc[rows].to_csv(paths[-1], index=False)
    return paths


if __name__ == "__main__":
    with clean_exit():
        print("\n".join(map(str, write_tables(Path(*sys.argv[1:2] or ["data/diabetes"])))))
