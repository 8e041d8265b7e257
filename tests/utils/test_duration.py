import pytest

from utils.duration import RunLength, is_duration, is_part
from utils.errors import UserError

LENGTH = RunLength(epochs=10, len_epoch=7, batch_size=32, accumulate=2)  # 70 batches, 4 updates an epoch


@pytest.mark.parametrize(
    ("duration", "batches", "epochs", "updates"),
    [
        (2, 14, 2, 8),
        ("2 epochs", 14, 2, 8),
        ("1 epoch", 7, 1, 4),
        ("0.5 epochs", 4, 1, 2),
        ("9 steps", 16, 3, 9),
        ("4 steps", 7, 1, 4),
        ("100 samples", 4, 1, 2),  # 3.125 batches
        ("5%", 4, 1, 2),
        ("100 %", 70, 10, 40),
        ("30%", 21, 3, 12),
        ("0 steps", 0, 0, 0),
    ],
)
def test_a_duration_is_the_same_in_all_units(duration, batches, epochs, updates):
    assert LENGTH.in_batches(duration) == batches
    assert (LENGTH.in_epochs(duration), LENGTH.in_updates(duration)) == (epochs, updates)


def test_epochs_and_shares_need_no_length_of_an_epoch():
    unknown = RunLength(epochs=8, len_epoch=None)
    assert (unknown.in_epochs("25%"), unknown.in_epochs("3 epochs"), unknown.in_epochs(4)) == (2, 3, 4)
    with pytest.raises(UserError, match="the number of batches in an epoch is unknown"):
        unknown.in_epochs("100 samples")


@pytest.mark.parametrize(
    "value", ["5", "five steps", "5 parsecs", "-1 steps", "9" * 400 + " epochs", "", None, True, [], "5 steps\nx"]
)
def test_what_is_no_duration_is_refused(value):
    assert not is_duration(value)
    with pytest.raises(UserError, match="a duration is such as"):
        LENGTH.in_batches(value)


def test_a_part_is_less_than_all():
    assert is_part("5%") and is_part("99.9 %")
    assert not any(map(is_part, ["100%", "150%", "5 steps", 5, "x%"]))
