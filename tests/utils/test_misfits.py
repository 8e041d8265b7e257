"""Torch's own errors are raised here, so that a new version with other texts is noticed."""

from types import SimpleNamespace

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


class Masks(torch.utils.data.Dataset):
    """20 images with masks of two classes, without a class for one pixel of a single sample."""

    def __init__(self, wrong, number=7):
        self.wrong, self.number = wrong, number

    def __len__(self):
        return 20

    def __getitem__(self, index):
        mask = torch.zeros(4, 4, dtype=torch.int64)
        mask[1, 2] = self.number if index == self.wrong else 1
        return torch.ones(1, 4, 4), mask


def segmentation(folder, wrong):
    return tiny_trainer(
        tiny_config(folder),
        model=torch.nn.Conv2d(1, 2, 1),
        loader_class=lambda data, *args: BaseDataLoader(Masks(wrong), *args),
        metrics=[],
        validation_split=0.5,
    )


@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_class_number_without_an_output_is_a_line_with_its_sample(tmp_path, part):
    loader = segmentation(tmp_path, None).data_loader
    last = loader.batch_indices(1, 1)[-1] if part == "training" else loader.valid_sampler.indices[-1].item()
    with pytest.raises(UserError) as error:
        segmentation(tmp_path, last).train()
    assert str(error.value) == (
        f"data_loader: the target of sample {last} holds the class number 7, for which the model has no output; "
        "correct it, give the model 8 outputs, or leave it out by the loss's ignore_index"
    )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 5, 5], "of sample 2 of the batch, and of 1 more of its batch, holds the class number 5, .* 6 outputs"),
        ([0, 1, -1], "of sample 3 of the batch holds the class number -1, .* count classes from 0"),
    ],
)
def test_a_class_number_of_a_batch_whose_samples_are_unknown(targets, message):
    model, targets = torch.nn.Linear(8, 3), torch.tensor(targets)
    with pytest.raises(IndexError) as error:
        torch.nn.functional.cross_entropy(model(torch.ones(3, 8)), targets)
    with pytest.raises(UserError, match=message):
        explain(error.value, torch.ones(3, 8), {"label": targets}, model)


def test_the_sample_of_a_class_number_is_looked_for_among_integers_and_named_by_its_file():
    target = {"weight": torch.tensor([5.0, 1.0, 1.0]), "seen": torch.ones(3).bool(), "label": torch.tensor([0, 0, 5])}
    with pytest.raises(IndexError) as error:
        torch.nn.functional.cross_entropy(torch.ones(3, 3), target["label"])
    dataset = SimpleNamespace(files=[f"{i}.png" for i in range(30)])
    with pytest.raises(UserError, match=r"^data_loader: the target of sample 22 \(22\.png\) holds the class number 5,"):
        explain(error.value, torch.ones(3, 8), target, torch.nn.Linear(8, 3), [20, 21, 22], dataset)
    with pytest.raises(UserError, match=r"^data_loader: the target of a sample holds"):
        explain(error.value, torch.ones(3, 8), {"weight": target["weight"]}, torch.nn.Linear(8, 3), [20, 21, 22])


class Unpooling(torch.nn.Module):
    def forward(self, data):
        pooled, places = torch.nn.functional.max_pool2d(data, 2, return_indices=True)
        return torch.nn.functional.max_unpool2d(pooled, places, 2)


def test_an_operation_that_gives_other_bits_each_time_is_one_line_where_that_is_refused():
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UserError, match=r"^deterministic: max_unpool.* gives other bits in each run"):
            meet(Unpooling(), IMAGES)
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_index_that_a_gpu_finds_outside_of_its_range_is_one_line():
    def model(data):
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")

    model.parameters = list
    with pytest.raises(UserError, match=r"^an index lies outside of its range, .* with -d cpu$"):
        meet(model, ROWS)
