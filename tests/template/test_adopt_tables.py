"""A MetricTracker of a project's own that --adopt keeps writes into its table as pandas 3 allows."""

import ast
import warnings

import pandas as pd
import pytest
import torch

from scaffold.adopting.kept_classes import Classes
from scaffold.adopting.reading import Source
from scaffold.adopting.tables import tables_written_through
from scaffold.adopting.whole import repaired

TRACKER = """# -*- coding: utf-8 -*-
class MetricTracker:
    def __init__(self, *keys):
        self.p = ''
        self._data = pd.DataFrame(index=keys, columns=['total', 'counts', 'average', 'current'])
        self.reset()

    def reset(self):
        for col in self._data.columns:
            RESET

    def update(self, key, value, n=1):
        TOTAL += value * n
        self._data.counts[key], self.last = self._data.counts[key] + n, 'déjà'; self._data['current'][key] = value
        self._data.average[key] = self._data.total[key] / self._data.counts[key]

    def result(self):
        return dict(self._data.average)

    def first(self):
        assert self._data.index[0] == 'loss' and self._data.columns[0] == 'total'
        self._data.iloc[0, 3] = self._data.iat[0, 3] + 1
        return self._data.iloc[0]
"""
SETS = "self._data[col].values[:] = 0"
FILLS = "self._data[col] = pd.Series(0, self._data.index, object)"


def test_one_that_counts_in_a_way_of_its_own_is_kept_as_a_whole():
    text = TRACKER.replace("RESET", SETS).replace("TOTAL", "self._data.total[key]")
    source = Source("utils/util.py", ast.parse(text), text.split("\n"))
    classes = Classes(source, set(), set())
    assert "class MetricTracker:" in (classes.keep(source.tree.body[0]) or "")
    assert classes.whole == {"MetricTracker"}
    assert ["counts in a way of its own, so it is kept as a whole" in item.reason for item in classes.work] == [True]


def kept(text):
    source = Source("utils/util.py", ast.parse(text), text.split("\n"))
    return repaired(source, source.tree.body[0])


@pytest.mark.parametrize(
    "total",
    [
        "self._data.total[key]",
        "self._data['total'][key]",
        'self._data["total"][f"{key}"]',
        "self._data.total[self.p + key]",
        "self._data.loc[key, 'total']",
        "self._data['total'][\n            key\n        ]",
    ],
)
@pytest.mark.parametrize("reset", [SETS, "self._data[col][:] = 0", FILLS])
def test_every_way_to_write_a_cell_counts(total, reset):
    made = kept(TRACKER.replace("TOTAL", total).replace("RESET", reset))
    names = {"pd": pd}
    exec(made.code, names)  # of this test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker = names["MetricTracker"]("loss", "other")
        tracker.update("loss", 1.0)
        tracker.update("loss", torch.tensor(4.0), n=3)
        assert tracker.result()["loss"] == 3.25 and tracker.result()["other"] == 0
        assert tracker.first()["current"] == 5
        tracker.reset()
    assert tracker.result() == {"loss": 0, "other": 0} and not made.left


def test_what_is_not_understood_is_left_to_do():
    text = TRACKER.replace("RESET", SETS).replace("TOTAL", "self._data.total.loc[key]")
    ((line, reason),) = kept(text).left
    assert text.split("\n")[line - 1].strip().startswith("self._data.total.loc[key]")
    assert "`self._data.total.loc[key]`" in reason


def test_one_in_a_file_of_the_projects_own_is_rewritten_too():
    text = "import pandas as pd\n\n\n" + TRACKER.partition("\n")[2].replace("RESET", SETS).replace(
        "TOTAL", "self._data.total[key]"
    )
    found, done = tables_written_through(text)
    space = {}
    exec(found, space)  # of this test
    tracker = space["MetricTracker"]("loss")
    tracker.update("loss", 2.0)
    tracker.update("loss", 4.0)
    assert tracker.result() == {"loss": 3.0}
    assert text.split("\n")[done[0][0] - 1].strip() == done[0][1]
    plain = "class MetricTracker:\n    pass\n"
    assert tables_written_through(plain) == (plain, [])
