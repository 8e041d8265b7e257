"""Runs whose files hold what no program of ours writes: shown, and nothing breaks."""

import json

import pytest
from made_runs import make_run

from helpers import run_here

_DEEP = json.loads("[" * 400 + "]" * 400)
_ODD = (10**400, [1, [2]], {"a": {"b": 1}}, None, True, "x" * 5000, "\x1b[31m\n", _DEEP, float("nan"))


@pytest.mark.parametrize("odd", _ODD, ids=lambda odd: str(odd)[:8])
def test_odd_values_are_shown_by_every_form(odd, tmp_path):
    for seed in (1, 2):
        folder = make_run(tmp_path, f"s{seed}", seed=seed)
    for key in ("name", "seed", "trainer__epochs", "trainer__monitor", "optimizer__args__lr", "trainer", "loss", "odd"):
        for run in "ab":
            folder = make_run(tmp_path, f"{key}{run}")
            config = json.loads((folder / "config.json").read_text())
            *parents, last = key.split("__")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = odd
            (folder / "config.json").write_text(json.dumps(config))
            start = dict.fromkeys(("started", "ended", "host", "git_commit", "git_dirty", "libraries", "command"), odd)
            (folder / "environment.json").write_text(json.dumps([start, odd, start] if run == "a" else [odd]))
            (folder / "test_results.json").write_text(json.dumps({"model_best.pth": {"test": {"x": odd}}, "y": odd}))
    for flags in (
        (),
        ("--runs", "--sort", "odd" if type(odd) is int else "run"),
        ("--json",),
        ("--csv",),
        ("--html", tmp_path / "x.html"),
    ):
        told = run_here("compare.py", tmp_path, *flags).stdout
        assert "\x1b" not in told and ("odda" in told or flags[:1] == ("--html",) or "--json" in flags)
    run_here("compare.py", tmp_path, "--plot", tmp_path / "x.png", "--metric", "loss")
    run_here("compare.py", tmp_path, "--diff", "odda", "oddb")
