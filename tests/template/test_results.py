"""docs/results.md, its program, and the examples that were made for it."""

import gzip
import importlib.util
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

import train
from examples.fashion_mnist.data import FashionMnistDataLoader, read_idx
from examples.fashion_mnist.model import LargeCnn, SmallCnn
from examples.mnist1d.data import Mnist1dDataLoader, write_mnist1d
from examples.mnist1d.model import Cnn, Gru, Linear, Mlp
from examples.ucr.data import DATASETS, UcrDataLoader, read_series, unpack
from examples.ucr.model import Fcn
from examples.ucr.model import Mlp as SeriesMlp
from helpers import PROJECT
from made_sets import made_fashion, made_mnist1d, made_series, write_idx
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.config.check import check_types
from utils.config.files import read_config

PAGE = (PROJECT / "docs" / "results.md").read_text()


@pytest.fixture
def program():
    """docs/results.py."""
    spec = importlib.util.spec_from_file_location("results", PROJECT / "docs" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_page_can_be_repeated(program):
    rows = program.commands()
    assert len(rows) == len(re.findall(r"^\| `", PAGE, re.M)) == len(set(rows.values()))
    for command in rows.values():
        _, _, config, *flags = command.split()
        read = read_config(PROJECT / config)
        known = {flag["flag"] for flag in read.get("cli", [])} | {flag for one in train.OPTIONS for flag in one.flags}
        assert command.startswith("train.py -c ") and {word for word in flags if word.startswith("--")} <= known
        check_types(ConfigParser(read, parts=PARTS).config, PARTS)
    variants = {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("examples/*/*.json")}
    described = [read_config(PROJECT / path)["description"] for path in variants]
    assert not [text for text in described if "to be measured" in text]


def test_a_row_is_trained_and_tested_and_its_mean_and_deviation_are_printed(program, tmp_path, monkeypatch, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "model_best.pth").touch()
    ran = []

    def ours(*words):
        ran.append(" ".join(words))
        folders = [{"folder": str(tmp_path / name)} for name in "ab"]
        return {"runs": folders} if words[0] == "train.py" else {"values": {"accuracy": 0.5 + 0.1 * len(ran)}}

    times = [(1.0, 0.5), (20.0, 1.5)]  # user's and system's seconds of the commands that have ended
    ended = [types.SimpleNamespace(children_user=user, children_system=system) for user, system in times]
    monkeypatch.setattr(program, "ours", ours)
    monkeypatch.setattr(program.os, "times", iter(ended).__next__)
    program.main("mnist_lenet", "2")
    best, last = tmp_path / "a" / "model_best.pth", tmp_path / "b"
    assert ran == ["train.py -c config.json --seeds 2", f"test.py -r {best}", f"test.py -r {last}"]
    printed = capsys.readouterr().out
    assert "\naccuracy: 0.7500 ± 0.0707 (0.7000, 0.8000)\n" in printed  # 0.1 / sqrt(2)
    assert "\nmnist_lenet: 2 seeds, 10 s of processor time to train each\n" in printed
    assert printed.endswith("| `mnist_lenet` | `python train.py -c config.json` | 99.05 | 75.00 ± 7.07 | 2 | 10 s |\n")


def test_the_first_seed_alone_has_no_deviation(program, monkeypatch, capsys):
    ran = []

    def ours(*words):
        ran.append(" ".join(words))
        return {"folder": "/none/a"} if words[0] == "train.py" else {"values": {"accuracy": 0.5}}

    monkeypatch.setattr(program, "ours", ours)
    program.main("mnist_lenet", "1")
    assert ran == ["train.py -c config.json", "test.py -r /none/a"]  # --seeds takes 2 or more
    assert "\naccuracy: 0.5000\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "results", "cells"),
    [
        ("diabetes", {"loss": 9.0, "R2": 0.35951}, "0.333 | 0.360 | 1 | 2 min |"),  # no share of samples
        ("mnist1d_linear", {"loss": 9.0, "accuracy": 0.3267}, "32 | 32.7 | 1 | 2 min |"),
        ("gunpoint_mlp", {"loss": 9.0, "accuracy": 0.94444}, "92.7 ± 1.1 | 94.4 | 1 | 2 min |"),
    ],
)
def test_a_row_of_the_page_is_rounded_as_the_published_value(program, row, results, cells):
    printed = program.row_of_page(row, [results], 121.0)
    assert printed.startswith(f"| `{row}` | `python train.py -c ") and printed.endswith(f" | {cells}")


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "ROW: got ''; give one of mnist_lenet, "), (["mnist_lenet", "0"], "SEEDS: got '0'; give a number of seeds")],
)
def test_a_row_that_is_none_is_refused(program, words, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        program.main(*words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_make_results_runs_the_program():
    command = ["make", "--no-print-directory", "-n", "-B", "results", "ROW=x", "SEEDS=3"]
    plan = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert plan.stdout.splitlines()[-1].endswith("docs/results.py x 3")


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        *[(model, (40,)) for model in (Linear(), Mlp(), Cnn(), Gru())],
        *[(model, (1, 28, 28)) for model in (SmallCnn(), LargeCnn())],
        *[(model, (30,)) for model in (Fcn(10), SeriesMlp(30, 10))],
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_give_a_number_for_each_class_that_depends_on_the_input(model, shape):
    samples = torch.randn(4, *shape, requires_grad=True)
    output = model.eval()(samples)
    assert output.shape == (4, 10)
    output.square().sum().backward()
    assert samples.grad is not None
    assert (samples.grad != 0).any(dim=0).float().mean() > 0.8  # pooling leaves out rows and columns at the border


def test_sizes_are_those_of_the_published_networks():
    def size(model):
        return sum(parameter.numel() for parameter in model.parameters())

    assert size(SmallCnn()) < 100_000 and 1.6e6 < size(LargeCnn()) < 1.8e6
    convolutions = 8 * 128 + 5 * 128 * 256 + 3 * 256 * 128
    assert size(Fcn(2)) == convolutions + 2 * (128 + 256 + 128) + 129 * 2
    with pytest.raises(UserError, match=r"arch.args.length: it is 30, and the series have 24 numbers"):
        SeriesMlp(30, 2)(torch.rand(2, 24))


def test_mnist1d_is_what_the_package_makes(tmp_path, monkeypatch):
    made = {"x": np.ones((4, 40)), "x_test": np.zeros((1, 40)), "y": np.arange(4), "y_test": np.array([7])}
    package = types.ModuleType("mnist1d.data")
    package.get_dataset_args = lambda: "settings"
    package.make_dataset = lambda settings: made if settings == "settings" else None
    monkeypatch.setitem(sys.modules, "mnist1d", types.ModuleType("mnist1d"))
    monkeypatch.setitem(sys.modules, "mnist1d.data", package)
    path = str(write_mnist1d(tmp_path / "new" / "made.npz"))
    (batch,) = Mnist1dDataLoader(path, 8, shuffle=False)
    assert torch.equal(batch[0], torch.ones(4, 40)) and batch[1].tolist() == [0, 1, 2, 3]
    ((series, digits),) = Mnist1dDataLoader(path, 8, training=False)
    assert series.abs().sum() == 0 and digits.tolist() == [7]
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(UserError, match="pip install mnist1d"):
        write_mnist1d(tmp_path / "other.npz")


def test_series_are_what_their_file_says(tmp_path):
    made_series(tmp_path / "data")
    path = tmp_path / "data" / "Made_TEST.ts"
    series, labels, classes = read_series(str(path))
    line = path.read_text().splitlines()[5]
    assert [f"{value:.4f}" for value in series[1]] == line.partition(":")[0].split(",")
    assert classes == ["1", "2"] and labels[:2].tolist() == ["1", "2"] and series.shape == (12, 30)
    ((data, target),) = UcrDataLoader(str(tmp_path / "data"), "Made", 16, shuffle=False, training=False)
    assert torch.equal(data, torch.from_numpy(series)) and target.tolist() == 6 * [0, 1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("@classLabel true 1 2\n0.1,0.2:1\n0.1:2\n", "not series of one length"),
        ("@classLabel true 1 2\n0.1,x:1\n", "not series of one length"),
        ("@classLabel true 1 2\n0.1,0.2:3\n", "damaged"),
        ("@classLabel true 1 2\n", "damaged"),
        ("0.1,0.2:1\n", "damaged"),
    ],
)
def test_series_that_are_none_are_refused(content, word, tmp_path):
    (tmp_path / "x.ts").write_text(content)
    with pytest.raises(UserError, match=word) as caught:
        read_series(str(tmp_path / "x.ts"))
    assert "\n" not in str(caught.value)


def test_the_archives_series_are_unpacked_from_a_wheel(tmp_path):
    wheel = tmp_path / "aeon-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in DATASETS:
            for part in ("TRAIN", "TEST"):
                archive.writestr(f"aeon/datasets/data/{name}/{name}_{part}.ts", f"{name} {part}")
    written = unpack(str(wheel), tmp_path / "ucr")
    assert len(written) == 8 and (tmp_path / "ucr" / "OSULeaf_TEST.ts").read_text() == "OSULeaf TEST"
    (tmp_path / "made.txt").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "aeon-0.1.whl", "w") as archive:
        archive.writestr("aeon/datasets/data/ArrowHead/ArrowHead_TRAIN.ts", "the others are missing")
    for place in (tmp_path / "aeon-0.1.whl", tmp_path / "made.txt", tmp_path / "none"):
        with pytest.raises(UserError) as caught:
            unpack(str(place), tmp_path / "refused")
        assert "\n" not in str(caught.value) and not list(tmp_path.glob("refused/*"))


def test_fashion_images_are_those_of_the_files_and_are_varied_in_training_alone(tmp_path):
    folder = tmp_path / "data"
    made_fashion(folder)
    packed = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    ((images, labels),) = FashionMnistDataLoader(str(folder), 16, shuffle=False, training=False)
    pixels = torch.frombuffer(bytearray(packed[16:]), dtype=torch.uint8).view(16, 1, 28, 28)
    torch.testing.assert_close(images, (pixels / 255 - 0.2860) / 0.3530)
    assert labels.tolist() == [i % 10 for i in range(16)]
    plain, varied = (FashionMnistDataLoader(str(folder), 16, False, 0.25, augment=augment) for augment in (0, 1))
    assert not torch.equal(next(iter(plain))[0], next(iter(varied))[0])
    assert torch.equal(next(iter(plain.split_validation()))[0], next(iter(varied.split_validation()))[0])


@pytest.mark.parametrize("change", ["shorter", "longer", "flat", "no sizes", "no gzip", "empty"])
def test_damaged_images_are_refused(change, tmp_path):
    path = tmp_path / "x.gz"
    write_idx(path, np.zeros((2, 28, 28), np.uint8))
    content = gzip.decompress(path.read_bytes())
    changed = {
        "shorter": content[:-1],
        "longer": content + b"0",
        "flat": content[:3] + b"\1" + content[4:],
        "no sizes": content[:6],
        "no gzip": content,
        "empty": b"",
    }[change]
    path.write_bytes(changed if change == "no gzip" else gzip.compress(changed))
    with pytest.raises(UserError, match=r"x\.gz: damaged") as caught:
        read_idx(path, 3)
    assert "\n" not in str(caught.value)


def test_missing_data_are_said_how_to_get(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.fashion_mnist.data.DEBIAN", str(tmp_path))
    for make, word in (
        (lambda: Mnist1dDataLoader(str(tmp_path / "x.npz"), 8), "python -m examples.mnist1d.data"),
        (lambda: UcrDataLoader(str(tmp_path), "Made", 8), "python -m examples.ucr.data"),
        (lambda: FashionMnistDataLoader(str(tmp_path), 8), "apt install dataset-fashion-mnist"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_mnist1d_is_read_with_its_classes(tmp_path):
    path = made_mnist1d(tmp_path / "data")["data_loader.args.path"]
    loader = Mnist1dDataLoader(path, 12)
    assert loader.classes == list("0123456789") and loader.n_samples == 60
