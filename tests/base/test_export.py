"""Exported models give the model's numbers, in other programs too, or are not written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import base.export
from base import BaseDataLoader
from base.data.encoding import TableInput
from base.data.inputs import ArrayInput
from base.data.mnist_files import read_mnist
from base.data.outputs import Output
from base.data.raw_examples import raw_examples
from base.data.table_file import Table
from base.data.table_format import TableFormat
from base.data.texts import TextDataLoader, TextInput
from base.model_card import model_card
from base.trained_model import TrainedModel
from base.triton import model_config
from helpers import PROJECT, run_here
from utils.errors import UserError
from utils.files import read_json
from utils.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def exported(default_run, tmp_path_factory):
    """(model.onnx, what the command printed)."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, run_here("export.py", "-r", default_run, "--to", "onnx", "--out", path).stdout


@pytest.fixture(scope="module")
def images():
    return read_mnist(PROJECT / "data", training=False)[0][:10]


@pytest.mark.slow
def test_onnx_is_compared_and_takes_any_number_of_raw_examples(exported, default_run, images):
    import onnxruntime

    path, printed = exported
    assert float(re.search(r"outputs differ by (\S+) at most, on 256 test samples", printed)[1]) < 1e-4
    session = onnxruntime.InferenceSession(path)
    wanted = TrainedModel.load(default_run).outputs(images).numpy()
    for number in (1, 3, 10):
        (outputs,) = session.run(None, {"raw": images[:number].numpy()})
        assert np.abs(outputs - wanted[:number]).max() < 1e-4
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == list("0123456789") and about["input"]["type"] == "ImageInput"
    assert about["run"] == default_run.name and f"opset {about['opset']}, " in printed


@pytest.mark.slow
def test_the_example_of_the_page_reads_it_without_torch(exported, default_run, images, tmp_path):
    code = re.search(r"```python\n(.*?)```", (PROJECT / "docs" / "export.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 16
    Image.fromarray(images[3, 0].numpy()).save(tmp_path / "a.png")
    without = "import sys\nfor name in ('torch', 'base', 'utils'):\n    sys.modules[name] = None\n"
    words = [sys.executable, "-c", without + code, str(exported[0]), str(tmp_path / "a.png")]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (row,) = TrainedModel.load(default_run).predict([tmp_path / "a.png"])
    assert answer.split() == [row["prediction"], f"{row['probability']:.4f}"]


@pytest.mark.slow
def test_the_example_of_the_page_predicts_for_a_table_without_torch(tmp_path):
    rows = [f"{i / 8},{'red' if i % 3 else 'blue'},{'' if i % 5 == 1 else i},{3 * i + 100}" for i in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["area,colour,age,price", *rows]), encoding="utf-8")
    (tmp_path / "new.csv").write_text("colour,age,area\nblue,,1.5\ngreen,7,0.25\nred,3,9\n", encoding="utf-8")
    loader = {"path": str(tmp_path / "train.csv"), "target": "price", "task": "regression", "batch_size": 8}
    loader |= {"fill": "median", "standardize_target": True, "validation_split": 0.2, "test_split": 0.2}
    config = {
        "name": "prices",
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 3, "out_features": 1}},
        "data_loader": {"type": "TableDataLoader", "args": loader},
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.MSELoss",
        "trainer": {"epochs": 1, "save_dir": str(tmp_path / "saved"), "tensorboard": False},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_here("train.py", "-c", tmp_path / "config.json")
    (run,) = (tmp_path / "saved" / "models" / "prices").iterdir()
    run_here("export.py", "-r", run, "--to", "onnx", "--out", tmp_path / "model.onnx")
    code = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "export.md").read_text(), re.DOTALL)[1]
    without = "import sys\nfor name in ('torch', 'base', 'utils'):\n    sys.modules[name] = None\n"
    words = [sys.executable, "-c", without + code, str(tmp_path / "model.onnx"), str(tmp_path / "new.csv")]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    parts = TrainedModel.load(run).predict_files([str(tmp_path / "new.csv")])
    wanted = [row["prediction"] for part in parts for row in part.rows]
    assert len(wanted) == 3
    assert [float(number) for number in answer.split()] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_a_program_of_torch_export_gives_the_same_bits(default_run, images, tmp_path):
    path = tmp_path / "m.pt2"
    done = run_here("export.py", "-r", default_run, "--to", "torch", "--out", path)
    assert "outputs differ by 0 at most" in done.stdout
    extra = {"about.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert torch.equal(program.module()(images), TrainedModel.load(default_run).outputs(images))
    about = json.loads(extra["about.json"])
    assert about["classes"] == list("0123456789") and about["output"]["activation"] == "softmax"


def test_weights_alone_are_written_and_read_again(default_run, tmp_path):
    from safetensors.torch import load_file

    done = run_here("export.py", "-r", default_run, "--to", "safetensors", "--out", tmp_path / "m.safetensors")
    wanted, found = TrainedModel.load(default_run).model.state_dict(), load_file(tmp_path / "m.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert f"{len(wanted)} tensors, all equal, bit for bit" in done.stdout


def test_weights_that_differ_when_they_are_read_again_are_not_written(default_run, tmp_path, monkeypatch):
    zeros = {
        "state_dict": {name: 0 * value for name, value in TrainedModel.load(default_run).model.state_dict().items()}
    }
    monkeypatch.setattr(base.export, "read_safetensors", lambda path: zeros)
    done = run_here(
        "export.py", "-r", default_run, "--to", "safetensors", "--out", tmp_path / "m.safetensors", status=1
    )
    assert "not written: conv1.weight differs when it is read again" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_for_triton_describes_the_model_in_it(default_run, tmp_path):
    import onnx

    folder = tmp_path / "digits"
    run_here("export.py", "-r", default_run, "--to", "triton", "--out", folder)
    config = (folder / "config.pbtxt").read_text()
    graph = onnx.load(folder / "1" / "model.onnx").graph
    for part, (value,) in (("input", graph.input), ("output", graph.output)):
        tensor = value.type.tensor_type
        batch, *sizes = tensor.shape.dim
        kind = {"UINT8": "UINT8", "FLOAT": "FP32"}[onnx.TensorProto.DataType.Name(tensor.elem_type)]
        wanted = f'name: "{value.name}", data_type: TYPE_{kind}, dims: {[size.dim_value for size in sizes]}'
        assert re.search(rf"{part} \[\n  {{ {re.escape(wanted)}", config), config
        assert batch.dim_param and not batch.dim_value  # as max_batch_size needs it
    assert 'name: "digits"' in config and (folder / "labels.txt").read_text().split() == list("0123456789")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    done = run_here("export.py", "-r", default_run, "--to", "triton", "--out", folder, status=2)
    assert f"--out: {folder}: exists; give another name, or move it away" in done.stderr


def test_one_number_for_each_example_gets_a_dimension_in_triton(tmp_path):
    exported_to(tmp_path, "onnx", OneNumber())
    config = model_config(tmp_path / "m.onnx", "m", num_classes=2)
    assert 'name: "output", data_type: TYPE_FP32, dims: [1], reshape { shape: [] }' in config
    assert "labels" not in config  # of two classes, for a single logit
    exported_to(tmp_path, "onnx", AnyLength())
    found = ["labels.txt" in model_config(tmp_path / "m.onnx", "m", num_classes) for num_classes in (0, 7, 8)]
    assert found == [False, False, True]


def test_a_model_card_tells_what_was_measured_and_how_to_load_it(default_run, tmp_path):
    run_here("test.py", "-r", default_run)
    out = tmp_path / "m.safetensors"
    run_here("export.py", "-r", default_run, "--to", "safetensors", "--card", "--out", out)
    card, results = (tmp_path / "README.md").read_text(), read_json(default_run / "test_results.json")
    (measured,) = results.values()
    assert f"| test | 10000 | accuracy | {measured['test']['accuracy']:.6g} |" in card
    assert "`MnistModel`, 21,840 parameters; the file is `m.safetensors`" in card
    assert "10 classes: 0, 1, 2" in card and "9; softmax gives the probabilities." in card
    assert default_run.name in card and "## What is not known" in card
    again = run_here("export.py", "-r", default_run, "--to", "safetensors", "--card", "--out", out, status=2)
    assert f"--card: {tmp_path / 'README.md'}: exists; give --out in another folder, or move it away" in again.stderr
    for ending in (".onnx", ".pt2", ".safetensors", ""):
        assert f"m{ending}" in model_card(TrainedModel.load(default_run), tmp_path / f"m{ending}")


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (Output(), "numbers, in the unit of the training targets."),
        (Output(mean=5.0, std=2.0), "standardized numbers; times 2 plus 5, they are in the targets' unit."),
        (
            Output(kind="classes"),
            "one number for each class; the classes have no names; softmax gives the probabilities.",
        ),
        (
            Output(["no", "yes"], kind="logits"),
            "one number for the classes no and yes: its sigmoid is the probability of the second.",
        ),
        (Output(kind="probabilities"), "one number for the classes 0 and 1: the probability of the second."),
        (
            Output(["red", "row"], kind="logits", shape=[2]),
            "one number for each of 2 labels, whose sigmoid is its probability: red, row.",
        ),
        (
            Output(["red", "row"], kind="probabilities", shape=[2]),
            "one number for each of 2 labels, its probability: red, row.",
        ),
        (
            Output(["sky", "sea"], kind="classes", shape=[2, 8, 8]),
            "for each pixel, one number for each of 2 classes: sky, sea; argmax gives the mask.",
        ),
        (
            Output(["sky", "sea"], kind="logits", shape=[1, 8, 8]),
            "for each pixel, one number for the classes sky and sea: its sigmoid is the probability of the second.",
        ),
        (Output(kind="logits", shape=[1, 8, 8]), "numbers of shape (1, 8, 8), whose sigmoid is a probability."),
    ],
)
def test_a_model_card_says_what_the_numbers_of_the_file_mean(output, line, default_run, tmp_path):
    trained = TrainedModel.load(default_run)
    trained.output = output
    card = model_card(trained, tmp_path / "m.onnx")
    assert f"- Output: {line}\n" in card
    assert ("its probabilities" in card) == (output.kind is not None)


class Boxed(torch.nn.Module):
    """A box and the numbers of three classes."""

    def forward(self, rows):
        return {"box": rows, "logits": rows[:, :3]}


def test_what_is_known_of_one_output_is_not_said_of_several(default_run, tmp_path):
    config, cpu = {"arch": "Boxed"}, torch.device("cpu")
    for model, activation, line in (
        (Boxed(), None, "for each example, `box` of shape (4,), `logits` of shape (3,). Its 3 classes: a, b, c."),
        (
            torch.nn.Linear(4, 3),
            "softmax",
            "one number for each of 3 classes: a, b, c; softmax gives the probabilities.",
        ),
    ):
        trained = TrainedModel(model, None, Output(["a", "b", "c"]), cpu, config=config, path=default_run / "m.pth")
        shapes = base.export.shapes_of(trained, [torch.ones(5, 4)])
        assert base.export.facts_of(trained, shapes)["output"]["activation"] == activation
        assert f"- Output: {line}\n" in model_card(trained, tmp_path / "m.onnx", shapes)


@pytest.mark.parametrize(("fill", "missing"), [(None, "cannot be replaced"), ("mean", "is nan")])
def test_a_model_card_says_which_array_stands_for_a_row_of_a_table(fill, missing, default_run, tmp_path):
    trained = TrainedModel.load(default_run)
    towns = ["Bonn", *(f"t{number}" for number in range(30))]
    columns = ["size", "rooms"], ["town", "lift"], [0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [towns, ["", "yes"]]
    trained._input = TableInput(*columns, fill=fill)
    card = model_card(trained, tmp_path / "m.onnx")
    start = "- Input: rows (N, 4) float64, not scaled: `size`, `rooms`, then the codes of `town` (1 Bonn, 2 t0, "
    assert start in card and "19 t17, 20 t18, and so on: 31 in `categories` of the input, 0 any other)" in card
    assert f", `lift` (1 if it is empty, 2 yes, 0 any other). A missing number {missing}. " in card
    table = Table("t.csv", "path", TableFormat(), b"rooms,size,lift,town\n3,7,yes,t0\n")
    raw = trained.input.rows(table)  # is that array
    assert raw.tolist() == [[7.0, 3.0, 2.0, 2.0]]


def test_a_model_card_tells_that_a_checkpoint_outside_a_runs_folder_was_not_tested(default_run, tmp_path):
    trained = TrainedModel.load(default_run)
    trained.path = Path("/nowhere/m.pth")  # as /tmp/m.pth, two folders deep
    assert "It was not tested" in model_card(trained, tmp_path / "m.onnx")


def test_what_differs_too_much_is_not_written(default_run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(base.export, "_load_torch", lambda path, names: lambda raw: {"": np.zeros((len(raw), 10))})
    (tmp_path / "m.pt2").write_bytes(b"the file before")
    done = run_here("export.py", "-r", default_run, "--to", "torch", "--out", tmp_path / "m.pt2", status=1)
    assert re.search(r"m.pt2: not written: an output of the exported model differs by \S+ from", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").read_bytes() == b"the file before"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_differ(wrong):
    deployed = base.export.Deployed(TrainedModel(torch.nn.Identity(), None, Output(), torch.device("cpu")))
    ones = [torch.ones(3, 2)]
    assert base.export.largest_difference(deployed, lambda raw: {"": raw.numpy() + wrong}, ones) == np.inf


def test_a_model_that_cannot_be_exported_is_refused_in_a_line(default_run, images, tmp_path):
    class Undecided(torch.nn.Module):
        def forward(self, data):
            return data if data.sum() > 0 else data + 1

    model = TrainedModel.load(default_run)
    model.model = Undecided()
    with pytest.raises(base.export.UserError, match=r"^the model cannot be exported by torch\.export: .+$"):
        base.export.export(model, "torch", tmp_path / "m.pt2", [images], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "packages"), [("onnx", "onnx onnxscript onnxruntime"), ("safetensors", "safetensors")]
)
def test_missing_packages_are_named(default_run, tmp_path, monkeypatch, kind, packages):
    monkeypatch.setattr(base.export, "find_spec", lambda name: None)
    done = run_here("export.py", "-r", default_run, "--to", kind, "--out", tmp_path / f"m.{kind}", status=2)
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"needs packages that are not installed: pip install {packages}")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--to", "onnx", "--out", "m.pt2"), "--out: m.pt2: should end in .onnx"),
        (("--to", "torch", "--out", "/none/m.pt2"), "--out: /none: there is no such folder"),
        (("--to", "tflite"), "--to: invalid choice: 'tflite'"),
        (("--to", "triton"), "--to triton: give --out FOLDER, in a folder for all models"),
        (("--to", "triton", "--out", "m.onnx"), "--out: m.onnx: should be the name of a folder, without an ending"),
        (("--to", "onnx", "-r", "none.pth"), "none.pth: no such checkpoint"),
    ],
)
def test_wrong_commands_end_with_one_line(default_run, words, error):
    done = run_here("export.py", "-r", default_run, *words, status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_model_of_texts_is_exported_for_blocks_of_its_size(tmp_path):
    (tmp_path / "t.txt").write_text("abcdefgh" * 30)
    loader = TextDataLoader(str(tmp_path / "t.txt"), 8, 4)
    trained = TrainedModel(torch.nn.Identity(), TextInput(8), Output(), torch.device("cpu"))
    (blocks,) = raw_examples(trained, loader)
    assert blocks.shape[1:] == (8,)


class Branching(torch.nn.Module):
    def forward(self, rows):
        return rows * 2 if rows.mean() > 0 else rows


class FixedLength(torch.nn.Module):
    def forward(self, rows):
        return rows.view(len(rows), 2, 4).flatten(1)


class AnyLength(torch.nn.Module):
    def forward(self, rows):
        return rows.view(rows.shape[0], 2, 4).flatten(1)


class UnequalOutputs(torch.nn.Module):
    def forward(self, rows):
        return {"a": rows, "b": rows.sum()}


class Pooled(torch.nn.Module):
    """The mean of vectors that a mask selects, for sentences of any length."""

    def __init__(self):
        super().__init__()
        self.vectors = torch.nn.Embedding(20, 4)

    def forward(self, data):
        hidden = self.vectors(data["ids"]) * data["mask"].unsqueeze(2)
        mean = hidden.sum(1) / data["mask"].sum(1, keepdim=True)
        return {"mean": mean, "head": (mean.sum(1), hidden)}


class OfGraphs(torch.nn.Module):
    """A value for each node: what flows in over edges (2, E)."""

    def forward(self, graph):
        nodes, edges = graph
        return torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])


class OneNumber(torch.nn.Module):
    def forward(self, rows):
        return rows.sum(dim=1)


class WithoutBatch(torch.nn.Module):
    def forward(self, rows):
        return rows.squeeze()


def exported_to(folder, kind, model):
    trained = TrainedModel(model, ArrayInput(), Output(), torch.device("cpu"))
    done = base.export.export(trained, kind, folder / f"m{base.export.ENDINGS[kind]}", [torch.randn(9, 8)], {})
    return float(re.search(r"outputs differ by (\S+) at most, on 9 test samples", done)[1])


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("model", "error"),
    [
        (Branching(), r"it decides by values of the data: write torch\.where"),
        (FixedLength(), r"it takes the length of its first batch for all: write x\.shape\[0\] or -1, not len\(x\)"),
        (
            UnequalOutputs(),
            r"^UnequalOutputs returns tensors of which 'a' is \(1, 8\), 'b' is \(\); each should have a",
        ),
        (WithoutBatch(), r"^WithoutBatch returns a tensor \(8,\) for a batch of 1; .* squeeze\(1\), not squeeze\(\)"),
    ],
)
def test_a_model_that_cannot_be_exported_is_told_why_in_a_line(tmp_path, capfd, kind, model, error):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    with pytest.raises(base.export.UserError, match=error) as raised:
        exported_to(tmp_path, kind, model)
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def sentences(*sizes):
    """Batches of sentences, {"ids": (B, length), "mask": (B, length)}, for (B, length) in sizes."""
    ids = [torch.randint(20, size, generator=torch.Generator().manual_seed(1)) for size in sizes]
    return [{"ids": one, "mask": (one > 3) | (torch.arange(one.shape[1]) == 0)} for one in ids]


@pytest.mark.slow
def test_a_model_of_several_tensors_takes_any_number_of_examples_of_any_length(tmp_path):
    import onnxruntime

    trained = TrainedModel(Pooled(), None, Output(), torch.device("cpu"))
    loader = torch.utils.data.DataLoader([(data, data["ids"]) for data in sentences((4, 5), (3, 7))], batch_size=None)
    batches = raw_examples(trained, loader)
    (other,) = sentences((9, 6))
    wanted = trained.named_outputs(other)
    assert list(wanted) == ["mean", "head.0", "head.1"]

    told = base.export.export(trained, "onnx", tmp_path / "m.onnx", batches, {})
    assert re.search(r"differ by \S+ at most, on 7 test samples$", told)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    found = session.run(list(wanted), {name: tensor.numpy() for name, tensor in other.items()})
    assert all(np.allclose(array, wanted[name].detach()) for name, array in zip(wanted, found, strict=True))
    config = model_config(tmp_path / "m.onnx", "m", 0)
    assert '{ name: "ids", data_type: TYPE_INT64, dims: [-1] },\n  { name: "mask", data_type: TYPE_BOOL' in config

    base.export.export(trained, "torch", tmp_path / "m.pt2", batches, {})
    program = torch.export.load(tmp_path / "m.pt2").module()(other)
    assert list(program) == list(wanted) and all(torch.equal(program[name], wanted[name]) for name in wanted)


class Renewing(torch.nn.Module):
    """Takes and returns tensors of the same names."""

    def forward(self, data):
        return {"ids": data["ids"] + 1, "output": data["ids"] - data["output"]}


@pytest.mark.slow
def test_an_output_with_the_name_of_an_input_gets_another_one_in_onnx(tmp_path):
    import onnxruntime

    trained = TrainedModel(Renewing(), None, Output(), torch.device("cpu"))
    base.export.export(
        trained, "onnx", tmp_path / "m.onnx", [{"ids": torch.ones(3, 2), "output": torch.ones(3, 2)}], {}
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [one.name for one in session.get_outputs()] == ["ids.output", "output.output"]
    given = {"ids": np.full((5, 2), 3, np.float32), "output": np.ones((5, 2), np.float32)}
    assert [array.max() for array in session.run(None, given)] == [4, 2]


def test_a_model_whose_test_data_are_one_example_takes_any_number(tmp_path):
    trained = TrainedModel(torch.nn.Linear(8, 2), None, Output(), torch.device("cpu"))
    told = base.export.export(trained, "torch", tmp_path / "m.pt2", [torch.randn(1, 8)], {})
    assert told.endswith("on 1 test sample")
    assert torch.export.load(tmp_path / "m.pt2").module()(torch.randn(5, 8)).shape == (5, 2)


@pytest.mark.slow
def test_a_model_of_graphs_is_exported_for_any_graph(tmp_path):
    graphs = [(torch.randn(n, 2), torch.randint(n, (2, edges))) for n, edges in ((5, 8), (4, 6), (7, 9))]
    trained = TrainedModel(OfGraphs(), None, Output(), torch.device("cpu"))
    told = base.export.export(trained, "onnx", tmp_path / "m.onnx", graphs[:2], {})
    assert told.endswith("on 2 test batches")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {"0": graphs[2][0].numpy(), "1": graphs[2][1].numpy()})
    assert np.allclose(found, OfGraphs()(graphs[2]))
    with pytest.raises(UserError, match="--to triton: needs tensors with a row for each example"):
        model_config(tmp_path / "m.onnx", "m", 0)


def test_data_that_no_file_can_be_given_are_refused_in_a_line():
    trained = TrainedModel(torch.nn.Identity(), None, Output(), torch.device("cpu"))
    loader = torch.utils.data.DataLoader([({"ids": torch.ones(2), "text": "a"}, 0)], batch_size=1)
    with pytest.raises(UserError, match=r"^data_loader: data is a dict of .*; 'text.0' is a str$"):
        raw_examples(trained, loader)


def test_a_model_of_double_precision_is_exported_in_it(tmp_path):
    model = torch.nn.Linear(8, 2, dtype=torch.float64)
    trained = TrainedModel(model, None, Output(), torch.device("cpu"))
    raw = torch.randn(9, 8, dtype=torch.float64)
    base.export.export(trained, "torch", tmp_path / "m.pt2", [raw], {})
    assert torch.equal(torch.export.load(tmp_path / "m.pt2").module()(raw), model(raw))


def test_a_model_that_asks_for_the_shape_takes_any_number_of_examples(tmp_path):
    assert exported_to(tmp_path, "torch", AnyLength()) == 0


def test_a_model_without_an_input_is_not_said_to_have_one(default_run, tmp_path):
    checkpoint = load_checkpoint(default_run / "model_best.pth")
    del checkpoint["attributes"]["data_loader"]["input"]
    save_checkpoint(checkpoint, tmp_path / "old.pth")
    done = run_here("export.py", "-r", tmp_path / "old.pth", "--to", "torch")
    assert "without an input: it takes what the data loader made of the data" in done.stdout


def a_view(input, raw):
    return input(raw[None])[0]


class Prepared(torch.utils.data.Dataset):
    """Rows that a dataset prepares by its input one at a time, without files."""

    def __init__(self, input, prepare=a_view, grows=0):
        self.input, self.prepare, self.grows = input, prepare, grows

    def __len__(self):
        return 9

    def __getitem__(self, index):
        raw = torch.arange(3 + self.grows * index, dtype=torch.uint8) + index
        return (self.prepare(self.input, raw) if self.input else raw / 255), 0


def raw_rows(**how):
    trained = TrainedModel(torch.nn.Identity(), ArrayInput(raw_dtype="uint8"), Output(), torch.device("cpu"))
    loader = BaseDataLoader(Prepared(ArrayInput(raw_dtype="uint8"), **how), 4, True, 0.0, 0).as_validation()
    (rows,) = raw_examples(trained, loader, 5)
    return rows


@pytest.mark.parametrize(
    "prepare",
    [
        a_view,
        lambda input, raw: input(raw=raw[None])[0],
        lambda input, raw: torch.stack([a_view(input, raw), a_view(input, raw.flip(0))]),
    ],
    ids=["one", "by keyword", "two views"],
)
def test_raw_examples_of_a_dataset_of_single_samples_are_what_its_input_is_given(prepare):
    raw = raw_rows(prepare=prepare)
    assert raw.dtype == torch.uint8 and raw.tolist() == [[i, i + 1, i + 2] for i in range(5)]


def test_raw_examples_of_several_shapes_are_refused_in_one_line():
    message = r"raw examples of \(3,\) of sample 0 and \(4,\) of sample 1; a file takes examples of one shape"
    with pytest.raises(UserError, match=message):
        raw_rows(grows=1)


def test_samples_that_their_input_does_not_make_are_refused():
    trained = TrainedModel(torch.nn.Identity(), ArrayInput(raw_dtype="uint8"), Output(), torch.device("cpu"))
    loader = BaseDataLoader(Prepared(None), 4, True, 0.0, 0).as_validation()
    with pytest.raises(
        UserError, match=r"not made by its input, .* call the input on each, as input\(raw\[None\]\)\[0\]"
    ):
        raw_examples(trained, loader, 5)
