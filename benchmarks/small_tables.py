"""How well new_project.py --task table learns small tables, beside scikit-learn's linear model and boosting.

    python benchmarks/small_tables.py [--data iris wine breast_cancer diabetes] [--splits 10]

Each split is another order of the rows, so that other rows are set aside. The project is made, trained and tested by
commands; scikit-learn's models, with scaled columns, get the same rows to train and to test on. This prints the table
of docs/new_projects.md, which was made in one thread (OMP_NUM_THREADS=1). A split takes 20 s of processor time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harness import PROJECT, print_circumstances, print_table

sys.path.insert(0, str(PROJECT))
from base.data.splits import samples_to_serve, split_samples

TABLES = ("iris", "wine", "breast_cancer", "diabetes")


def main(names, splits):
    rows = []
    for name in names:
        found = [measure(name, split) for split in range(splits)]
        values = np.array([values for values, _ in found])
        difference = values[:, 0] - values[:, 1]
        factor, digits = (1, 3) if name == "diabetes" else (100, 1)
        show = "R2 {:.3f}" if name == "diabetes" else "{:.1f} %"
        means = [show.format(factor * mean) for mean in values.mean(axis=0)]
        error = difference.std(ddof=1) / splits**0.5
        more = " ± ".join(f"{factor * value:.{digits}f}" for value in (difference.mean(), error))
        rows.append([name.replace("_", " "), found[0][1], *means, more])
    print_circumstances("scikit-learn")
    print_table(["data", "rows to train and test on", "ours", "linear", "boosting", "ours - linear"], rows)


def measure(name, split):
    """([ours, linear, boosting], "rows to train on, rows to test on") of one order of the rows."""
    made = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = made.frame.iloc[np.random.RandomState(3000 + split).permutation(len(made.frame))]
    is_class = name != "diabetes"
    with tempfile.TemporaryDirectory() as folder:
        path, project = Path(folder) / "table.csv", Path(folder) / "made"
        frame.to_csv(path, index=False)
        last_line(PROJECT, "new_project.py", project, "--task", "table", "--data", path)
        quiet = ["--set", "trainer.tensorboard=false", "--set", "trainer.report=false"]
        run = json.loads(last_line(project, "train.py", "-c", "config.json", "--json", *quiet))
        tested = json.loads(last_line(project, "test.py", "-r", f"{run['folder']}/model_best.pth", "--json"))["values"]
        args = json.loads((project / "config.json").read_text())["data_loader"]["args"]
    target = frame["target"].to_numpy()
    classes = target if is_class else None
    rest, test = (samples_to_serve(len(frame), args["test_split"], kept, ("", None), classes) for kept in (True, False))
    train, _ = split_samples(len(frame), args["validation_split"], samples=rest, stratify=classes)
    features = frame.drop(columns="target").to_numpy()
    linear = LogisticRegression(max_iter=5000) if is_class else Ridge()
    boosting = (HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor)(random_state=0)
    values = [tested["accuracy" if is_class else "R2"]]
    for model in (linear, boosting):
        fitted = make_pipeline(StandardScaler(), model).fit(features[train], target[train])
        values.append(fitted.score(features[test], target[test]))
    print(name, split, *(f"{value:.4f}" for value in values), file=sys.stderr)
    return values, f"{len(train)}, {len(test)}"


def last_line(folder, *words):
    """Run a command of the template or of a project, and return the last line of its output."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--splits", type=int, default=10, help="2 or more")
    given = parser.parse_args()
    main(given.data, given.splits)
