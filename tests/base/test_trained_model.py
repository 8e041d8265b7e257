"""TrainedModel gives in use the numbers that training and testing gave."""

import csv
import functools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import ArrayInput, Examples, Input, build_input
from base.data.outputs import Output, spec_of
from base.trained_model import Predictions, TrainedModel
from helpers import PROJECT, run_here, tiny_config
from logger.predictions import PredictionGrid, PredictionWriter, errors_first
from utils import UserError
from utils.files import read_json
from utils.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(folder of 40 test images of MNIST as PNG files, their labels)."""
    from base.data.mnist_files import read_mnist

    folder = tmp_path_factory.mktemp("digits")
    images, labels = read_mnist(PROJECT / "data", training=False)
    for i in range(40):
        Image.fromarray(images[i, 0].numpy()).save(folder / f"{i:02d}.png")
    return folder, labels[:40]


def test_files_give_the_numbers_of_the_test_data_exactly(default_run, digits):
    model = TrainedModel.load(default_run)
    from data_loader.data_loaders import MnistDataLoader

    loader = MnistDataLoader(PROJECT / "data", 40, shuffle=False, training=False)
    data, _ = next(iter(loader))
    (found,) = model.predict_files([str(digits[0])], batch_size=40)
    assert torch.equal(found.data, data)
    assert torch.equal(found.outputs, model(data))
    raw = np.stack([model.input.read(str(file)) for file in sorted(digits[0].iterdir())])
    assert torch.equal(model.outputs(raw), found.outputs)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_predictions_do_not_depend_on_the_batch(default_run, digits, batch_size):
    model, files = TrainedModel.load(default_run), sorted(map(str, digits[0].iterdir()))
    wanted, found = model.predict(files, top=3), model.predict(files, batch_size, top=3)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in wanted]
    assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in wanted])
    assert all(len(row["top"]) == 3 and row["top"][0] == [row["prediction"], row["probability"]] for row in found)


def test_the_training_data_are_not_read(default_run, digits, monkeypatch):
    def refuse(*args):
        raise AssertionError("the training data are read")

    monkeypatch.setattr("data_loader.data_loaders.read_mnist", refuse)
    assert len(TrainedModel.load(default_run).predict(sorted(digits[0].iterdir()))) == 40


def test_a_command_writes_what_it_predicts(default_run, digits, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = {name: tmp_path / name for name in ("p.csv", "o.npy", "g.png")}
    outputs = ("--out", files["p.csv"], "--save-outputs", files["o.npy"], "--grid", files["g.png"])
    done = run_here("predict.py", "-r", default_run, digits[0], tmp_path / "broken.png", *outputs, "--top", 2, status=1)
    assert re.search(r"\.\.\. and 21 more\nerror: .*broken\.png.*\n41 examples, 1 could not be read\n", done.stdout)
    with open(files["p.csv"]) as file:
        rows = list(csv.DictReader(file))
    saved = np.load(files["o.npy"])
    assert saved.shape == (40, 10) and len(rows) == 41
    assert [row["prediction"] for row in rows[:40]] == [str(number) for number in saved.argmax(1)]
    assert rows[40]["prediction"] == "" and "cannot be read as an image" in rows[40]["error"]
    with Image.open(files["g.png"]) as picture:
        assert min(picture.size) > 300


def test_a_split_has_targets_and_its_errors_come_first_by_confidence(default_run, tmp_path):
    run_here("predict.py", "-r", default_run, "--split", "test", "--errors", "--out", tmp_path / "e.csv", "--json")
    with open(tmp_path / "e.csv") as file:
        errors = list(csv.DictReader(file))
    run_here("test.py", "-r", default_run)
    result = read_json(default_run / "test_results.json")["checkpoint-epoch1.pth"]["test"]
    assert len(errors) == round(10_000 * (1 - result["accuracy"]))
    shares = [float(row["probability"]) for row in errors]
    assert shares == sorted(shares, reverse=True)
    assert all(row["prediction"] != row["target"] for row in errors)


def test_json_lines_hold_one_object_for_each_example(default_run, digits):
    done = run_here("predict.py", "-r", default_run, digits[0] / "00.png", "--json")
    (row,) = map(json.loads, done.stdout.splitlines()[-1:])
    assert row.keys() == {"source", "prediction", "probability"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "give either files, folders, patterns or - to predict for, or --split, --prompt or"),
        (("a.png", "--split", "test"), "give either files"),
        (("a.png", "--top", "0"), "--top: got 0; it should be at least 1"),
        (("docs/drawing.png", "--errors"), "--errors: needs classes and their targets, as --split, a table or"),
        (("a.png", "--out", "p.txt"), "--out: p.txt: should end in .csv"),
        (("a.png", "--out", "/none/p.csv"), "/none/p.csv: cannot save the predictions: there is no such folder"),
        (("a.png", "--grid", "/none/g.png"), "--grid: /none: there is no such folder"),
        (("--samples", "4", "--out", "p.csv", "--json"), "--out, --json: of no use with --prompt or --samples"),
        (("--prompt", "a", "--grid", "g.png"), "--grid: of no use with --prompt or --samples"),
        (("--samples", "4", "--grid", "g.jpg"), "--grid: g.jpg: should end in .png"),
        (("--samples", "1001"), "--samples: got 1001; it should be at most 1000"),
        (("/none/*.png",), "/none/*.png: no file matches the pattern"),
    ],
)
def test_wrong_commands_end_with_one_line(default_run, words, error):
    done = run_here("predict.py", "-r", default_run, *words, status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_checkpoint_without_an_input_says_what_to_do(default_run, tmp_path):
    state = load_checkpoint(next(default_run.glob("checkpoint*.pth")))
    del state["attributes"]["data_loader"]
    save_checkpoint(state, tmp_path / "old.pth")
    done = run_here("predict.py", "-r", tmp_path / "old.pth", "a.png", status=2)
    assert "a.png: the checkpoint holds no input that would read it; give arrays" in done.stderr
    run_here("predict.py", "-r", tmp_path / "old.pth", "--split", "test")
    drawing = PROJECT / "docs" / "drawing.png"
    done = run_here("predict.py", "-r", tmp_path / "old.pth", "-c", PROJECT / "config.json", drawing)
    assert done.stdout == run_here("predict.py", "-r", default_run, drawing).stdout


class Doubled(Input):
    """An input of a project's own."""

    def __init__(self, factor: float) -> None:
        super().__init__(factor=factor)
        self.factor = factor

    def forward(self, raw):
        return raw.float() * self.factor


class OwnLoader(BaseDataLoader):
    def __init__(self, *args, **kwargs):
        self.input = Doubled(2.0)
        rows = np.arange(20, dtype=np.float32).reshape(10, 2)
        super().__init__(InMemoryDataset(rows, rows[:, :1], batch_transform=self.input), *args, **kwargs)


def test_a_loader_of_a_projects_own_declares_its_input():
    loader = OwnLoader(5, False, 0.0, 0)
    assert loader.state_dict()["input"]["args"] == {"factor": 2.0}
    model = TrainedModel(torch.nn.Identity(), loader.input, Output(), torch.device("cpu"))
    data, _ = next(iter(loader))
    assert [row["prediction"] for row in model.predict([np.float32([0, 1])])] == [data[0].tolist()]


class Numbers(Doubled):
    suffixes = (".txt",)

    def read(self, file):
        return np.loadtxt(file, dtype=np.float32)


def test_a_file_that_an_own_input_cannot_read_is_an_error_of_its_row(tmp_path):
    (tmp_path / "a.txt").write_text("1 2")
    (tmp_path / "b.txt").write_text("x")
    model = TrainedModel(torch.nn.Identity(), Numbers(2.0), Output(), torch.device("cpu"))
    first, second = [row for part in model.predict_files([str(tmp_path)]) for row in part.rows]
    assert first["prediction"] == [2.0, 4.0]
    assert re.search(r"b\.txt: Numbers cannot read it: ValueError: ", second["error"])
    with pytest.raises(UserError, match=r"b\.txt: Numbers cannot read it: ValueError: "):
        model.predict([tmp_path / "b.txt"])


@pytest.fixture
def own_model(monkeypatch):
    """A function that returns a model whose checkpoint knows that raw examples have the shape (2,) in training."""
    monkeypatch.setattr("data_loader.data_loaders.Doubled", Doubled, raising=False)
    spec = OwnLoader(5, False, 0.0, 0).state_dict()["input"] | {"type": "Doubled"}
    return lambda net: TrainedModel(net, build_input(spec), Output(), torch.device("cpu"))


@pytest.mark.parametrize("shape", [(1,), (3,), (), (1, 2), (2, 1)])
def test_an_own_input_is_not_given_other_shapes_than_in_training(own_model, shape):
    model, example = own_model(torch.nn.Identity()), np.zeros(shape, np.float32)
    says = re.escape(f"an example has the shape {shape}; the model is trained on examples of (2,)")
    with pytest.raises(UserError, match=says):  # a shape that broadcasts would give other numbers without a word
        model.outputs(example[None])
    with pytest.raises(UserError, match=says):
        model.input.parse(example.tolist())
    assert model.input.parse([1, 2]).tolist() == [1, 2]


def test_an_input_behind_other_transforms_is_given_what_they_make():
    loader = OwnLoader(5, False, 0.0, 0)
    loader.valid_dataset = InMemoryDataset(torch.zeros(4, 3), batch_transform=[lambda rows: rows[:, :2], loader.input])
    assert "trained_shape" not in loader.state_dict()["input"]


def test_what_an_own_input_raises_for_an_example_is_one_line():
    class Strict(Input):
        def forward(self, raw):
            return raw @ torch.ones(2)

    model = TrainedModel(torch.nn.Identity(), Strict(), Output(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"Strict cannot compute with tensor \(1, 3\) float32"):
        model.outputs(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("knows_shape", [True, False])
def test_an_array_of_another_shape_is_an_error_of_its_file_and_the_others_are_predicted(
    own_model, tmp_path, knows_shape
):
    for name, width in (("a", 2), ("b", 3), ("c", 2)):
        np.save(tmp_path / f"{name}.npy", np.ones((2, width), np.float32))
    model = own_model(torch.nn.Linear(2, 1))
    if not knows_shape:
        model.input.trained_shape = None
    rows = [row for part in model.predict_files([str(tmp_path)]) for row in part.rows]
    wrong = [row for row in rows if "error" in row]
    assert [Path(row["source"]).name for row in rows if "error" not in row] == [
        "a.npy:0",
        "a.npy:1",
        "c.npy:0",
        "c.npy:1",
    ]
    assert wrong and all("b.npy" in row["source"] and "b.npy" in row["error"] for row in wrong)


def test_signals_of_several_lengths_are_predicted_in_one_command(tmp_path):
    for number, length in enumerate((5, 7, 7, 4)):
        np.save(tmp_path / f"{number}.npy", np.full((1, 1, length), number, np.float32))
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten())
    model = TrainedModel(net, ArrayInput(), Output(), torch.device("cpu"))
    rows = [row for part in model.predict_files([str(tmp_path)]) for row in part.rows]
    assert [row["prediction"] for row in rows] == [0, 1, 2, 3]


def test_rows_that_are_not_those_of_the_samples_are_not_named_after_them():
    def collate(samples):
        nodes = torch.cat([torch.ones(int(number), 2) for number, _ in samples])
        return {"nodes": nodes}, torch.zeros(len(nodes))

    class Nodes(torch.nn.Module):
        def forward(self, batch):
            return batch["nodes"]

    samples = [(number, 0) for number in (3, 2, 4, *[1] * 20)]
    loader = torch.utils.data.DataLoader(samples, 2, collate_fn=collate)
    model = TrainedModel(Nodes(), None, Output(), torch.device("cpu"))
    with pytest.raises(UserError, match="Nodes gives 5 rows for 2 samples, where one for each is predicted"):
        list(model.predict_split(loader))
    assert len(model.predict_loader(loader)[0]) == 29


def test_outputs_are_read_as_what_they_are():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    names = ["no", "yes"]
    for given in (logits, logits.log_softmax(1)):
        rows = Output(names).describe(given, target=torch.tensor([0, 0]))
        assert [row["prediction"] for row in rows] == ["no", "yes"]
        assert rows[0]["probability"] == pytest.approx(1 / (1 + math.exp(-2)))
        assert [row["right"] for row in rows] == [True, False] and rows[1]["target"] == "no"
    one = Output(names).describe(torch.tensor([[-1.0], [1.0]]))
    assert [row["prediction"] for row in one] == names and one[1]["probability"] == pytest.approx(0.731059, abs=1e-6)
    soft = Output(names).describe(given, target=torch.tensor([0.7, 1.0]))
    assert "target" not in soft[0] and "right" not in soft[0] and soft[1]["target"] == names[1]
    share = Output(names, kind="probabilities").describe(torch.tensor([0.9]))
    assert share[0] == {"prediction": "yes", "probability": pytest.approx(0.9)}
    value = Output(mean=10.0, std=2.0).describe(torch.tensor([[1.5]]), target=torch.tensor([[1.0]]))
    assert value == [{"prediction": 13.0, "target": 12.0}]


@pytest.mark.parametrize("top", [1, 3])
def test_of_equally_probable_classes_the_first_is_predicted_as_accuracy_counts_it(top):
    outputs = torch.zeros(2, 10)  # of which topk names another one
    outputs[1, 4:7] = 1.0  # as outputs in bfloat16 often are
    rows = Output(list("0123456789")).describe(outputs, top, outputs.argmax(dim=1))
    assert [(row["prediction"], row["right"]) for row in rows] == [("0", True), ("4", True)]
    assert top == 1 or [[name for name, _ in row["top"]] for row in rows] == [["0", "1", "2"], ["4", "5", "6"]]


def test_raw_examples_of_unequal_shape_are_named():
    model = TrainedModel(torch.nn.Identity(), Doubled(1.0), Output(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"raw examples of shape \(2,\) and \(3,\)"):
        model.predict([np.zeros(2), np.zeros(3)])
    rows = model.predict([np.ones(2), np.zeros(3), np.ones(3), np.ones(2)], batch_size=1)
    assert [row["prediction"] for row in rows] == [[1.0] * 2, [0.0] * 3, [1.0] * 3, [1.0] * 2]


def test_a_model_that_cannot_compute_with_an_example_says_what_it_was_given():
    model = TrainedModel(torch.nn.Linear(3, 1), Doubled(1.0), Output(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"^Linear cannot compute with tensor \(1, 2\) float32: "):
        model.predict([np.zeros(2)])


def test_tiny_jobs_without_an_arch_are_refused_in_a_line(tmp_path):
    save_checkpoint({"state_dict": {}, "config": tiny_config(tmp_path)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no config with an arch"):
        TrainedModel.load(tmp_path / "a.pth")


def made(model, output=None):
    """A TrainedModel of a module that takes arrays."""
    return TrainedModel(model, ArrayInput(), output or Output(), torch.device("cpu"))


@pytest.mark.parametrize("loss", ["torch.nn.CrossEntropyLoss", "nll_loss", {"type": "torch.nn.NLLLoss", "args": {}}])
def test_classes_without_names_are_called_by_their_numbers(loss):
    output = Output.from_state({}, spec_of(loss))
    rows = output.describe(torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.0, 0.0]]), top=2, target=torch.tensor([2, -100]))
    assert rows[0]["prediction"] == rows[0]["target"] == "2" and rows[0]["right"] is True
    assert [name for name, _ in rows[1]["top"]] == ["0", "1"] and "target" not in rows[1]
    pixels = output.describe(torch.zeros(1, 3, 2, 2))
    shape = (3, 2, 2) if loss == "nll_loss" else (2, 2)  # a loss of the project's own may have the classes last
    assert np.shape(pixels[0]["prediction"]) == shape and "probability" not in pixels[0]


@pytest.mark.parametrize(
    ("loss", "probability"),
    [
        ("torch.nn.BCEWithLogitsLoss", 1 / (1 + math.exp(-0.5))),
        ("torch.nn.BCELoss", 0.5),
        ("torch.nn.functional.binary_cross_entropy_with_logits", 1 / (1 + math.exp(-0.5))),
    ],
)
def test_one_output_of_two_classes_without_names_is_a_class(loss, probability):
    (row,) = Output.from_state({}, spec_of(loss)).describe(torch.tensor([[0.5]]), target=torch.tensor([[0.0]]))
    assert (row["prediction"], row["target"]) == ("1", "0") or probability == 0.5
    assert row["probability"] == pytest.approx(probability)
    (values,) = Output.from_state({}, spec_of(loss)).describe(torch.tensor([[0.5, 0.5, 0.5]]))
    assert values == {"prediction": [0.5, 0.5, 0.5]}


def test_nan_is_no_class():
    (row,) = Output(["a", "b"]).describe(torch.tensor([[math.nan, 0.0]]), target=torch.tensor([0]))
    assert row["prediction"] is None and math.isnan(row["probability"]) and row["right"] is False


def test_a_model_of_several_outputs_is_refused_in_a_line():
    class Two(torch.nn.Module):
        def forward(self, data):
            return {"a": data, "b": data}

    with pytest.raises(UserError, match=r"^Two returns a dict .*, where one tensor is predicted; in evaluation mode"):
        made(Two()).predict([np.float32([0, 1])])


def test_images_that_are_scaled_already_are_refused(default_run):
    model = TrainedModel.load(default_run)
    for wrong in (np.zeros((2, 1, 28, 28), np.float32), np.zeros((2, 28, 28), np.uint8)):
        with pytest.raises(UserError, match=r"they should be pixels from 0 to 255, uint8 \(N, 1, 28, 28\)"):
            model.outputs(wrong)


def test_a_table_cannot_be_drawn_and_says_so_at_its_first_batch(tmp_path):
    found = iter(made(torch.nn.Identity()).predict_raw([Examples(range(9), np.zeros((9, 3), np.float32))], 2))
    grid = PredictionGrid(str(tmp_path / "g.png"))
    with pytest.raises(UserError, match=r"^--grid: the model is given a tensor of shape \(2, 3\); images"):
        list(grid.drawable(found))


def test_output_images_are_drawn_below_their_inputs(tmp_path):
    grid = PredictionGrid(str(tmp_path / "g.png"))
    with grid:
        grid.add(Predictions(Examples(["a"]), torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), None, Output()))
        assert grid._images[0].shape == (3, 8, 4) and grid._labels == [""]
    assert (tmp_path / "g.png").exists()


def test_errors_below_the_table_are_shown_the_first_and_the_last(capsys):
    with PredictionWriter() as writer:
        for start in range(0, 60, 10):
            errors = {place: UserError(f"row {start + place} is wrong") for place in (3, 7)}
            examples = Examples([f"t:{i}" for i in range(start, start + 10)], errors=errors)
            for part in writer.counted([Predictions(examples, torch.zeros(8, 1), None, None, Output())]):
                writer.add(part)
    shown = [line for line in capsys.readouterr().out.splitlines() if "wrong" in line]
    assert shown == [f"error: row {row} is wrong" for row in (3, 7, 13, 17, 23, 27, 57)]


def test_arrays_on_the_console_are_summarized(capsys):
    with PredictionWriter() as writer:
        writer.add(Predictions(Examples(["a"]), torch.eye(28)[None], None, None, Output()))
    assert "values (28, 28) from 0 to 1\n" in capsys.readouterr().out


def test_json_is_valid_whatever_the_numbers_and_names_are(capsys):
    with PredictionWriter(json_lines=True) as writer:
        writer.add(Predictions(Examples(["caf\udce9"]), torch.tensor([[math.nan, math.inf]]), None, None, Output()))
    line = capsys.readouterr().out
    assert line.isascii() and json.loads(line) == {"source": "caf\udce9", "prediction": [None, None]}


def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch):
    def full(*args, **how):
        if args[0]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    monkeypatch.setattr("os.dup2", lambda *args: None)
    with (
        PredictionWriter(json_lines=True) as writer,
        pytest.raises(UserError, match=r"^standard output: cannot be written: No space"),
    ):
        writer.add(Predictions(Examples(["a"]), torch.ones(1), None, None, Output()))


def test_a_prompt_is_not_printed_for_a_model_that_is_not_of_texts(default_run):
    done = run_here("predict.py", "-r", default_run, "--prompt", "hi", status=2)
    assert done.stdout == "" and done.stderr.startswith("error: --prompt: continues a text")


def test_a_model_that_drops_the_batch_is_refused_in_a_line():
    class Squeezed(torch.nn.Module):
        def forward(self, data):
            return data.squeeze()

    with pytest.raises(UserError, match=r"^Squeezed returns a tensor \(2,\) for a batch of 1; it should keep"):
        made(Squeezed()).predict([np.float32([0, 1])])


def test_a_config_beside_a_checkpoint_names_the_data(default_run, tmp_path):
    config = read_json(PROJECT / "config.json")
    config["data_loader"]["args"]["validation_split"] = 7
    model = TrainedModel.load(default_run, "cpu", config)
    outputs, targets = model.predict_loader(model.loader("valid", batch_size=3))
    assert outputs.shape == (7, 10) and targets.dtype == np.int64
    assert model.config["arch"] == TrainedModel.load(default_run).config["arch"]
    with pytest.raises(UserError, match=r"^data_loader: got None; it should be an object"):
        model.loader("test", config={"arch": {}})


def test_a_loader_gives_arrays_that_scikit_learn_takes(default_run):
    metrics = pytest.importorskip("sklearn.metrics")
    model = TrainedModel.load(default_run)
    outputs, targets = model.predict_loader(model.loader("test", batch_size=500))
    wanted = (outputs.argmax(1) == targets).mean()
    assert metrics.accuracy_score(targets, outputs.argmax(1)) == wanted > 0.2
    assert metrics.confusion_matrix(targets, outputs.argmax(1)).shape == (10, 10)


@pytest.mark.parametrize(("dtype", "saved"), [("float64", "float64"), ("int64", "int64"), ("bfloat16", "float32")])
def test_outputs_keep_their_precision(tmp_path, dtype, saved):
    outputs = (torch.tensor([[1 / 3], [2**40 + 1]], dtype=torch.float64)).to(getattr(torch, dtype))
    found, _ = made(torch.nn.Identity()).predict_loader([(outputs, outputs)])
    with PredictionWriter(save_outputs=str(tmp_path / "o.npy")) as writer:
        writer.add(Predictions(Examples(["a", "b"]), outputs, None, None, Output()))
    for array in (found, np.load(tmp_path / "o.npy")):
        assert array.dtype == saved and array.tolist() == outputs.tolist()


def test_what_gives_no_arrays_is_said():
    with pytest.raises(UserError, match=r"^data_loader: it has no batches"):
        made(torch.nn.Identity()).predict_loader([])
    with pytest.raises(UserError, match=r"^data_loader: a target is a dict of a: str, .*; 'a' is a str"):
        made(torch.nn.Identity()).predict_loader([(torch.ones(2), {"a": "b"})])


def confident(shares, right):
    """Predictions of two classes with these probabilities of the second, which is the target where they are right."""
    logits = torch.tensor(shares).logit()
    outputs = torch.stack([torch.zeros_like(logits), logits], dim=1)
    names = [str(share) for share in shares]
    return Predictions(Examples(names), outputs, outputs, torch.tensor(right).long(), Output(["no", "yes"]))


def test_of_many_errors_the_most_confident_are_kept(monkeypatch):
    monkeypatch.setattr("logger.predictions.EXAMPLES_DRAWN", 2)
    monkeypatch.setattr("logger.predictions.MOST_ERRORS", 5)
    shares = [0.6, 0.9, 0.7, 0.8, 0.65, 0.95, 0.75, 0.85]
    right = [share == 0.9 for share in shares]
    drawn, others = errors_first(confident(shares[i : i + 3], right[i : i + 3]) for i in range(0, 8, 3))
    assert [row["source"] for row in drawn.rows + others.rows] == ["0.95", "0.85", "0.8", "0.75", "0.7"]
    assert [one.shape for one in drawn.data] == [(2,), (2,)] and others.data == (None, None, None)
    assert drawn.outputs.untyped_storage().nbytes() == 2 * 2 * 4  # and not those of whole batches


@pytest.mark.parametrize("outputs", [[[torch.nan, 0.9], [0.9, 0.9]], [[-0.5, 0.2], [0.9, 0.9]]], ids=["nan", "outside"])
def test_errors_whose_outputs_predict_nothing_come_last(outputs):
    outputs, target = torch.tensor(outputs), torch.zeros(2, 2)
    labels = Output(["far", "near"], kind="probabilities")
    (found,) = errors_first([Predictions(Examples(["a", "b"]), outputs, outputs, target, labels)])
    assert [(row["source"], row["prediction"]) for row in found.rows] == [("b", ["far", "near"]), ("a", None)]


def test_errors_are_listed_of_data_that_are_a_dict():
    part = confident([0.9, 0.8], [False, True])
    part.data = {"ids": torch.ones(2, 3)}
    (found,) = errors_first([part])
    assert [row["source"] for row in found.rows] == ["0.9"] and found.data == (None,)


def test_errors_need_the_targets_of_classes():
    known = confident([0.9], [False])
    two, one, names = torch.ones(1, 2), torch.ones(1), Output(["no", "yes"])
    unknown = Predictions(Examples(["a"]), two, two, None, names)
    left_out = Predictions(Examples(["a"]), two, two, torch.tensor([-1]), names)
    value = Predictions(Examples(["a"]), one, one, one, Output())
    broken = Predictions(Examples(["b"], errors={0: UserError("b: no")}), one[:0], one[:0], None, names)
    found = [row for part in errors_first([left_out, broken, known]) for row in part.rows]
    assert found[0] == {"source": "b", "error": "b: no"} and [row["source"] for row in found[1:]] == ["0.9"]
    for wrong in (unknown, value):
        with pytest.raises(UserError, match=r"^--errors: needs classes and their targets"):
            list(errors_first([known, wrong]))


def test_values_without_a_target_show_none():
    found = Output(std=2.0).describe(torch.tensor([[1.0], [2.0]]), target=torch.tensor([[math.nan], [3.0]]))
    assert found == [{"prediction": 2.0}, {"prediction": 4.0, "target": 6.0}]


def test_a_table_of_predictions_has_its_targets_or_none(tmp_path):
    known, unknown = confident([0.9, 0.2], [False, True]), confident([0.8], [False])
    unknown.target = None
    with PredictionWriter(out=str(tmp_path / "p.csv")) as writer:
        writer.add(known)
        writer.add(unknown)
    with open(tmp_path / "p.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["prediction"], row["target"], row["right"]) for row in rows] == [
        ("yes", "no", "False"),
        ("no", "yes", "False"),
        ("yes", "", ""),
    ]
    refused = pytest.raises(UserError, match=r"^--out: 0\.9 has a target, and those before it have none")
    with refused, PredictionWriter(out=str(tmp_path / "p.csv")) as writer:
        writer.add(unknown)
        writer.add(known)
    assert (tmp_path / "p.csv").read_text().count("\n") == 4  # as before


@pytest.mark.parametrize("total", [60, None])
@pytest.mark.parametrize(("terminal", "json_lines"), [(True, False), (False, False), (True, True)])
def test_a_progress_bar_is_shown_on_a_terminal_below_a_full_table(monkeypatch, capsys, terminal, json_lines, total):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("logger.predictions.tqdm", functools.partial(tqdm, mininterval=0))
    parts = [Predictions(Examples(["a"] * 15), torch.ones(15, 2), torch.ones(15, 2), None, Output()) for _ in range(4)]
    before = "not yet"
    with PredictionWriter(json_lines=json_lines) as writer:
        for number, part in enumerate(writer.counted(parts, total)):
            writer.add(part)
            before = capsys.readouterr().err if number == 1 else before
    assert before == ""  # while the table is printed
    found = capsys.readouterr()
    assert (("/60" if total else "60 examples [") in found.err) == (terminal and not json_lines) and (
        "60 examples\n" in found.out
    ) != json_lines


def test_the_loader_of_the_page_predicts_from_files(tmp_path):
    """The code of docs/predict.md, as a user would write it into data_loader/."""
    page = (PROJECT / "docs" / "predict.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Spectrum" in block]
    spectra, labels = np.float32([[1, 2], [3, 4], [5, 6]] * 4), np.arange(12) % 2
    places = {"np": np, "BaseDataLoader": BaseDataLoader, "InMemoryDataset": InMemoryDataset}
    exec(code, places := places | {"read_spectra": lambda path: (spectra, labels), "__name__": "page"})
    loader = places["SpectraDataLoader"]("spectra", 4)
    model = TrainedModel(torch.nn.Identity(), loader.input, Output(loader.classes), torch.device("cpu"))
    (tmp_path / "ill").mkdir()
    np.savetxt(tmp_path / "ill" / "a.txt", spectra[2])
    (found,) = model.predict_files([str(tmp_path)])
    assert torch.equal(found.data, torch.tensor([[5 / 6, 1.0]])) and found.rows[0]["target"] == "ill"
    assert loader.state_dict()["input"]["args"] == {"scale": 6.0}


def test_a_checkpoint_needs_no_section_trainer_but_a_right_one(tmp_path):
    arch = {"type": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 1}}
    weights = torch.nn.Linear(2, 1).state_dict()
    for name, config in (("a", {}), ("b", {"trainer": {"precision": "fp7"}}), ("c", {"n_gpu": "many"})):
        save_checkpoint({"state_dict": weights, "config": {"arch": arch, **config}}, tmp_path / f"{name}.pth")
    assert len(TrainedModel.load(tmp_path / "a.pth").predict(np.ones((3, 2), np.float32))) == 3
    for name, error in (("b", "trainer: precision: "), ("c", "n_gpu: ")):
        with pytest.raises(UserError, match=rf"{name}\.pth: {error}"):
            TrainedModel.load(tmp_path / f"{name}.pth")


def test_outputs_of_several_shapes_are_no_array_and_leave_the_file_as_it_was(tmp_path):
    (tmp_path / "o.npy").write_bytes(b"before")
    refused = pytest.raises(
        UserError, match=r"^--save-outputs: the outputs are \(3,\) for some .* and \(4,\) for others"
    )
    with refused, PredictionWriter(save_outputs=str(tmp_path / "o.npy")) as writer:
        for width in (3, 3, 4):  # as a model of padded sequences gives them
            writer.add(Predictions(Examples(["a"]), torch.ones(1, width), None, None, Output()))
    assert (tmp_path / "o.npy").read_bytes() == b"before"
    batches = [(torch.ones(1, width), torch.ones(1)) for width in (3, 4)]
    with pytest.raises(UserError, match=r"^data_loader: batches have outputs of shape .*\(3,\), \(4,\)"):
        made(torch.nn.Identity()).predict_loader(batches)


def test_a_checkpoint_says_what_the_outputs_are(default_run):
    kept = load_checkpoint(default_run / "model_best.pth")["outputs"]
    assert kept == {"kind": "classes", "is_declared": False, "shape": [10]}
    assert TrainedModel.load(default_run).output.spec() == kept


@pytest.mark.parametrize("error", [RuntimeError("no CUDA"), SyntaxError("invalid"), KeyError("HOME")])
def test_a_model_can_be_used_without_its_loss(default_run, monkeypatch, error):
    def broken(*_):
        raise error

    checkpoint = load_checkpoint(default_run / "model_best.pth")
    del checkpoint["outputs"]  # as in an older one
    monkeypatch.setattr("base.data.outputs.find_type", broken)
    trained = TrainedModel.of_checkpoint(checkpoint, checkpoint["config"], torch.device("cpu"), None)
    assert trained.output.kind == "classes" and trained.output.shape is None


def test_masks_are_computed_once_for_all_that_show_them(monkeypatch):
    output, calls = Output(["a", "b"], kind="classes"), []
    found = output.class_maps
    monkeypatch.setattr(output, "class_maps", lambda outputs: calls.append(1) or found(outputs))
    part = Predictions(Examples(["a"]), torch.zeros(1, 2, 4, 4), None, None, output)
    assert part.masks is not None and part.columns["prediction"] == part.masks.tolist() and len(calls) == 1
