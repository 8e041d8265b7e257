"""Torch's own errors are raised here, so that a new version with other texts is noticed."""

import pytest
import torch

from base import BaseDataLoader
from base.training.evaluate import evaluate
from helpers import tiny_config, tiny_model, tiny_trainer
from utils import MetricTracker, UserError
from utils.misfits import explain

ROWS = torch.ones(2, 8)
IMAGES = torch.ones(2, 3, 8, 8)


def meet(model, data, target=None):
    """Raise what explain makes of the model's error; the error itself if it makes nothing of it."""
    try:
        model(data)
    except Exception as error:
        explain(error, data, target, model)
        raise


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.uint8, torch.bool, torch.uint16])
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (torch.nn.Linear(8, 2), ROWS),
        (torch.nn.Conv2d(3, 2, 3), IMAGES),
        (torch.nn.LSTM(8, 4), ROWS),
        (torch.nn.BatchNorm1d(8), ROWS),
        (torch.nn.LayerNorm(8), ROWS),
    ],
)
def test_data_that_are_no_floats_for_a_layer_are_one_line(model, data, dtype):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        UserError, match=rf"^data_loader: the batch's data is tensor .* {name}, and .* float32"
    ) as error:
        meet(model, data.to(dtype))
    assert str(error.value).endswith('as with .float(); for ArrayDataLoader, give "dtype": "float32"')


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.uint16, torch.bool])
def test_data_that_are_no_indices_for_an_embedding_are_one_line(dtype):
    with pytest.raises(UserError, match=r'an embedding takes int64: .*with \.long\(\); .*"dtype": "int64"$'):
        meet(torch.nn.Embedding(4, 2), ROWS.to(dtype))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 4], [1, 9]], r"int64, with integers from 0 to 9, and an embedding of the model has 4 rows; give it 10$"),
        ([[-1, 3], [0, 0]], r"with integers from -1 to 3, and an embedding of the model has 4 rows; count from 0$"),
    ],
)
def test_an_index_outside_an_embedding_is_one_line(indices, message):
    with pytest.raises(UserError, match=message):
        meet(torch.nn.Embedding(4, 2), torch.tensor(indices))


def test_the_weights_need_not_be_float32():
    with pytest.raises(UserError, match=r"the model's weights are bfloat16: .*with \.to\(torch\.bfloat16\)"):
        meet(torch.nn.Linear(8, 2).bfloat16(), ROWS)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        meet(torch.nn.Linear(4, 2), ROWS)
    positions = torch.nn.Embedding(8, 2)
    positions.forward = lambda data: torch.nn.functional.embedding(torch.arange(9), positions.weight)
    with pytest.raises(IndexError, match="index out of range"):  # an index that is not of the data
        meet(positions, torch.tensor([1, 2]))
    mixed = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.Linear(2, 2).double())
    with pytest.raises(RuntimeError, match="same dtype"):  # its data are what the first layer takes
        meet(mixed, ROWS)
    counted = torch.nn.Linear(8, 2)
    counted.forward = lambda data: data["rows"].double() @ counted.weight.T
    with pytest.raises(RuntimeError, match="same dtype"):  # the numbers beside them are not what it is about
        meet(counted, {"rows": ROWS, "ids": torch.arange(2)})


def test_an_evaluation_refuses_them_too():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS.long(), ROWS[:, :2]), batch_size=2)
    model, device = torch.nn.Linear(8, 2), torch.device("cpu")
    with pytest.raises(UserError, match=r"the batch's data is tensor \(2, 8\) int64, and the model's weights"):
        evaluate(model, torch.nn.MSELoss(), [], loader, device, MetricTracker.of([]), "fp32")


def test_a_run_with_float64_targets_ends_in_one_line(tmp_path):
    class Regression(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.zeros(4), torch.zeros(3, dtype=torch.float64)

    trainer = tiny_trainer(
        tiny_config(tmp_path),
        model=tiny_model(),
        criterion=torch.nn.HuberLoss(),
        loader_class=lambda data, *args: BaseDataLoader(Regression(), *args),
        metrics=[],
    )
    with pytest.raises(UserError, match=r"the batch's target is tensor .* float64, and the loss takes float32"):
        trainer.train()


def test_other_errors_get_a_note_of_shapes_and_types():
    data = {"ids": torch.zeros(2, 3, dtype=torch.long), "names": ["a", "b", "c"]}
    error = RuntimeError("of another kind")
    explain(error, data, (torch.zeros(2), torch.zeros(2, 1)), torch.nn.Linear(1, 1).double())
    assert error.__notes__ == [
        "the batch's data: dict of ids: tensor (2, 3) int64, names: list of str, str and 1 more; "
        "its target: tuple of tensor (2,) float32, tensor (2, 1) float32; the model's parameters: float64"
    ]
