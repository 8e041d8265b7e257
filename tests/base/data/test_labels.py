import re

import numpy as np
import pytest

from base.data.labels import class_numbers, suggestion
from utils import UserError


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (np.array(["b", "a"], object), ["a", "b"], [1, 0]),
        ([3, 1, 2], (1, 2, 3), [2, 0, 1]),
        ([30, 10], [30, 20, 10], [0, 2]),
        (np.array([3, 1], np.uint8), [1, 3], [1, 0]),
        ([0.5, 2], [2, 0.5], [1, 0]),
        ([[2], [1]], [1, 2], [1, 0]),
        ([[0, 1, 0], [0, 0, 1]], [7, 8, 9], [1, 2]),
        ([[0, 1], [1, 1]], [0, 1], [[0, 1], [1, 1]]),  # two labels a sample
        ([["a", "b", "a"]], ["a", "b"], [[0, 1, 0]]),
        ([1.0, 0.0], ["no", "yes"], [1, 0]),  # names of numbers
        (np.array([True, False]), ["no", "yes"], [1, 0]),
    ],
)
def test_labels_are_places_in_the_list_of_classes(labels, classes, expected):
    numbers = class_numbers(labels, classes)
    assert numbers.tolist() == expected and numbers.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["a", "c"], ["a", "b"], """target: row 1 of its 2 is 'c', which is not in classes: ["a", "b"]"""),
        (["a", "b "], ["a", "b"], """target: row 1 of its 2 is 'b ', which is not in classes: ["a", "b"]"""),
        ([1, 2], ["cat", "dog"], "target: row 1 of its 2 is 2, which is not in classes: [0, 1]"),
        ([1, 2, 0], [1, 2], "target: row 2 of its 3 is 0, which is not in classes: [1, 2]"),
        ([0.0, float("nan")], [0, 1], "target: row 1 of its 2 is nan, which is not in classes: [0, 1]"),
        ([[0, 1], [1, 3]], [0, 1], "target: row 1 holds 3, which is not in classes: [0, 1]"),
        (["1", "2"], [1, 2], 'target holds text; give "classes": ["1", "2"], its values in the order of'),
        ([b"\xff"], ["a", "b"], "target holds bytes that are not text in UTF-8: "),
        ([1j], [0, 1], "target holds <c16; labels are text or numbers"),
        (1, [0, 1], "target is a single value; "),
        ([1, 2], [1], "classes: got [1]; it should be a list of two or more texts or numbers, such as"),
        ([1, 2], [1, "2"], "classes: got [1, '2']; it should be a list of"),
        ([1, 2], [1, None], "classes: got [1, None]; it should be a list of"),
        ([1, 2], "ab", "classes: got 'ab'; it should be a list of"),
        ([1, 2], [1, 2, 1.0], "classes: 1.0 is there twice"),
        (["a"], ["a", "b", "a"], "classes: 'a' is there twice"),
    ],
)
def test_labels_that_are_no_class_are_refused_in_one_line(labels, classes, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        class_numbers(labels, classes)
    assert "\n" not in str(error.value)


def test_a_suggestion_is_short():
    assert suggestion(np.array([2, 1, 2])) == 'give "classes": [1, 2], its values in the order of their class numbers'
    assert suggestion(np.arange(60).astype(str)).startswith('give "classes", a list of its 60 values in the order')
