"""The jobs in examples/, shortened: each passes the check, trains, resumes to the same bits, and is tested."""

import hashlib
import importlib.util
import os
import re
import signal
import sys
import tarfile
import types

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from comparing.same import comparable_state
from examples.char_lm.model import CharTransformer, bits_per_character, rotated
from examples.cifar_resnet import data as cifar10
from examples.cifar_resnet.data import Cifar10DataLoader, read_cifar10
from examples.cifar_resnet.model import SmallResNet
from examples.gan.model import Gan, real_loss, taken_for_real
from examples.mlp.data import MnistByRatio
from examples.mlp.model import ShrinkingMlp
from examples.tabular.baselines import baselines
from examples.tabular.data import write_tables
from examples.tabular.model import RSquared, TableMlp
from helpers import PROJECT, run, same
from made_sets import made_fashion, made_mnist1d, made_series
from parse_config import PARTS, ConfigParser
from trainer import Trainer
from utils import UserError
from utils.config.check import check_types
from utils.config.files import read_config
from utils.files import read_json
from utils.runs.checkpoint import find_checkpoint, load_checkpoint


def made_cifar(folder, per_file=40):
    """Files of CIFAR-10's form, the labels in the images' brightness; {what to set in the config}."""
    numbers = np.random.RandomState(0)
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = numbers.randint(0, 10, (per_file, 1))
        pixels = numbers.randint(0, 60, (per_file, 3072)) + 20 * labels
        np.hstack([labels, pixels]).astype(np.uint8).tofile(folder / "cifar-10-batches-bin" / name)
    return {"data_loader.args.data_dir": str(folder), "data_loader.args.batch_size": 16, "arch.args.depth": 8}


def made_table(folder):
    """A table of the form of the diabetes study's; what to set in the config."""
    numbers = np.random.RandomState(0)
    folder.mkdir(parents=True)
    for name, rows in (("train.csv", 80), ("test.csv", 20)):
        features = numbers.randn(rows, 10).round(3)
        table = np.hstack([features, features[:, :1] * 2 + numbers.randn(rows, 1)])
        header = ",".join([*(f"f{i}" for i in range(10)), "target"])
        np.savetxt(folder / name, table, "%.3f", ",", header=header, comments="")
    paths = {"path": str(folder / "train.csv"), "test_path": str(folder / "test.csv"), "batch_size": 16}
    return {f"data_loader.args.{key}": value for key, value in paths.items()}


def made_images(folder):
    """Small pictures of three classes of one colour each; what to set in the config."""
    numbers = np.random.RandomState(0)
    for part, number in (("train", 20), ("test", 5)):
        for i, name in enumerate(("blue", "green", "red")):
            (folder / part / name).mkdir(parents=True)
            for j in range(number):
                pixels = numbers.randint(0, 60, (12, 10 + j % 3, 3)).astype(np.uint8)
                pixels[..., 2 - i] += 150
                Image.fromarray(pixels).save(folder / part / name / f"{j}.png")
    loader = {"folder": str(folder / "train"), "test_folder": str(folder / "test"), "image_size": 16, "batch_size": 8}
    return {f"data_loader.args.{key}": value for key, value in loader.items()} | {
        "arch.args.num_classes": 3,
        "arch.args.depth": 8,
    }


UNVALIDATED = {"trainer.limit_valid_batches": None}

JOBS = {
    "config.json": lambda folder: {},
    "mnist_iterations": lambda folder: {},
    "mlp": lambda folder: {"arch.args.n_layers": 3},
    "autoencoder": lambda folder: {},
    "gan": lambda folder: UNVALIDATED,
    "mnist_fast": lambda folder: UNVALIDATED,
    "cifar_resnet": made_cifar,
    "char_lm": lambda folder: {"data_loader.args.block_size": 32},
    "tabular": made_table,
    "image_folder": made_images,
    "mnist1d": lambda folder: UNVALIDATED | made_mnist1d(folder),
    "fashion_mnist": lambda folder: UNVALIDATED | made_fashion(folder),
    "ucr": lambda folder: UNVALIDATED | made_series(folder),
}


def config_of(job):
    """Path of a job's config."""
    return PROJECT / job if "." in job else next((PROJECT / "examples" / job).glob("config.*"))


def parsed(job, folder, resume=None, **changes):
    """The job's config, two epochs of four batches, its run below the folder."""
    short = {
        "epochs": 2,
        "len_epoch": 4,
        "limit_valid_batches": 4,
        "save_period": 1,
        "save_dir": str(folder),
        "verbosity": 0,
        "log_step": 2,
    }
    settings = {f"trainer.{key}": value for key, value in short.items()} | changes
    return ConfigParser(read_config(config_of(job)), resume, settings, parts=PARTS)


def stopped_at(step, monkeypatch):
    """Have the trainer get a signal when it has trained on this many batches."""
    count = Trainer._count_batch

    def count_batch(trainer, batch_idx):
        count(trainer, batch_idx)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_count_batch", count_batch)


def measured(run_folder):
    """What test.py writes of the run's last checkpoint."""
    spec = importlib.util.spec_from_file_location("test_command", PROJECT / "test.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    checkpoint = run_folder / "checkpoint-epoch2.pth"
    config = load_checkpoint(checkpoint)["config"]
    command.main(ConfigParser(config, checkpoint, parts=PARTS, also_logged=None), "test", None)
    return read_json(run_folder / "test_results.json")["checkpoint-epoch2.pth"]["test"]


@pytest.mark.parametrize("job", JOBS)
def test_job_trains_resumes_to_the_same_bits_and_is_tested(job, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    changes = JOBS[job](tmp_path / "data")
    straight = parsed(job, tmp_path / "a", **changes)
    check_types(straight.config, PARTS)
    assert not straight.own_keys
    train.main(straight)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stopped_at(6, patch)
        train.main(parsed(job, tmp_path / "b", **changes))
    newest, _ = find_checkpoint("latest", tmp_path / "b")
    assert newest.name.endswith("-batch2.pth")
    resumed = parsed(job, tmp_path / "b", resume=newest, **changes)
    train.main(resumed)
    for name in ["checkpoint-epoch2.pth"] + ["model_best.pth"] * (straight["trainer"].get("monitor", "off") != "off"):
        left, right = (comparable_state(config.save_dir / name) for config in (straight, resumed))
        assert all(same(left[key], right[key]) for key in left if key != "config"), name
    tables = [(config.log_dir / "metrics.csv").read_text() for config in (straight, resumed)]
    assert tables[0] == tables[1]
    assert measured(straight.save_dir) == measured(resumed.save_dir)


def test_every_shipped_config_is_among_these_jobs():
    assert sorted(JOBS) == sorted(["config.json", *(path.parent.name for path in PROJECT.glob("examples/*/config.*"))])


def test_every_job_says_what_to_expect_and_has_a_row_in_its_page():
    page = (PROJECT / "docs" / "jobs.md").read_text()
    for path in [PROJECT / "config.json", *PROJECT.glob("examples/*/config.*")]:
        place = str(path.relative_to(PROJECT))
        description = read_config(path)["description"]
        assert "to be measured" not in description, place
        assert re.search(r"\d.*(s|minute|minutes|hours)\b", description), place
        assert f"`{place.removesuffix(path.name).rstrip('/') or place}`" in page, place


def test_mlp_sizes_are_an_arithmetic_progression():
    sizes = [
        (layer.in_features, layer.out_features)
        for layer in ShrinkingMlp(n_layers=3).layers
        if hasattr(layer, "weight") and layer.weight.dim() == 2
    ]
    assert sizes == [(784, 526), (526, 268), (268, 10)]
    assert [type(layer).__name__ for layer in ShrinkingMlp(n_layers=2).layers] == [
        "Linear",
        "LeakyReLU",
        "BatchNorm1d",
        "Linear",
    ]
    dropout = ShrinkingMlp(n_layers=2, use_dropout=True, dropout_p=0.4).layers[2]
    assert type(dropout).__name__ == "Dropout" and dropout.p == 0.4
    torch.testing.assert_close(ShrinkingMlp()(torch.rand(2, 1, 28, 28)).exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("wrong", [{"n_layers": 0}, {"dropout_p": 1.0}])
def test_mlp_refuses_what_it_cannot_build(wrong):
    with pytest.raises(UserError, match=rf"^{next(iter(wrong))}: got"):
        ShrinkingMlp(**wrong)


def test_train_ratio_is_a_share_of_the_training_images():
    loader = MnistByRatio(str(PROJECT / "data"), 256)
    assert (loader.n_samples, len(loader.valid_sampler)) == (48_000, 12_000)
    assert MnistByRatio(str(PROJECT / "data"), 256, train_ratio=1.0).split_validation() is None
    assert MnistByRatio(str(PROJECT / "data"), 256, training=False).n_samples == 10_000
    for ratio in (0.0, 1.2, 1e-9):
        with pytest.raises(UserError, match="train_ratio: got"):
            MnistByRatio(str(PROJECT / "data"), 256, train_ratio=ratio)


def test_mlp_has_its_flags():
    told = run("train.py", "-c", "examples/mlp/config.json", "--help").stdout
    for flag in ("--n_layers", "--dropout_p", "--use_dropout", "--train_ratio", "--n_epochs"):
        assert flag in told


def test_autoencoder_shows_its_reconstructions_below_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    config = parsed("autoencoder", tmp_path)
    train.main(config)
    events = EventAccumulator(str(config.log_dir), size_guidance={"images": 0})
    events.Reload()
    pictures = events.Images("predictions/valid")
    assert [(picture.step, picture.width, picture.height) for picture in pictures] == [
        (4, 8 * 28, 2 * 28),
        (8, 224, 56),
    ]


def test_gan_draws_its_samples_after_each_epoch(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    config = parsed("gan", tmp_path, **UNVALIDATED, **{"trainer.tensorboard": True})
    train.main(config)
    for epoch in (1, 2):
        with Image.open(config.log_dir / f"samples-epoch{epoch}.png") as grid:
            assert grid.size == (8 * 30 + 2, 8 * 30 + 2)
    events = EventAccumulator(str(config.log_dir), size_guidance={"images": 0}).Reload()
    assert [picture.step for picture in events.Images("samples/train")] == [4, 8]


def test_gan_gives_images_as_the_loader_does_and_logits_of_them():
    torch.manual_seed(0)
    model = Gan()
    images = model.generate(torch.randn(5, 100))
    assert images.shape == (5, 1, 28, 28) and model(images).shape == (5,)
    black, white = -0.1307 / 0.3081, (1 - 0.1307) / 0.3081
    assert images.min() >= black - 1e-4 and images.max() <= white + 1e-4
    real_loss(model(images.detach()), None).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    logits = torch.tensor([2.0, -1.0, 0.5])
    torch.testing.assert_close(real_loss(logits, None), torch.log1p(torch.exp(-logits)).mean())
    assert taken_for_real(logits, None) == pytest.approx(2 / 3)


def test_residual_network_has_the_papers_size_and_its_shortcut_adds_nothing():
    network = SmallResNet()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 0.27  # He et al. 2015, table 6
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    block = network.features[-3]  # the first of the last stage: half the pixels, twice the channels
    maps = torch.rand(1, 32, 16, 16)
    torch.nn.init.zeros_(block.residual[-1].weight)
    assert torch.equal(block(maps), F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 0, 32)))
    with pytest.raises(UserError, match="depth: got 21"):
        SmallResNet(depth=21)


def test_cifar_is_read_as_its_bytes_say_and_validated_without_augmentation(tmp_path):
    made_cifar(tmp_path)
    images, labels = read_cifar10(tmp_path, training=True)
    record = np.fromfile(tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8)[:3073]
    assert images.shape == (200, 3, 32, 32) and labels[40] == record[0]
    assert np.array_equal(images[40].numpy().ravel(), record[1:])
    loader = Cifar10DataLoader(str(tmp_path), 20, validation_split=40)
    passes = [torch.cat([data for data, _ in loader.split_validation()]) for _ in range(2)]
    assert torch.equal(*passes)
    held_out = images[loader.valid_sampler.order(0)].float()
    red = (held_out[:, 0] / 255 - 0.4914) / 0.2470
    torch.testing.assert_close(passes[0][:, 0], red)
    epochs = []
    for epoch in (1, 2, 1):
        loader.set_epoch(epoch)
        epochs.append(torch.cat([data for data, _ in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "damaged"), (b"\0" * 3072, "damaged"), (b"\x0a" + b"\0" * 3072, "damaged"), (None, "no test_batch.bin in")],
)
def test_cifar_files_that_are_none_are_refused(content, word, tmp_path):
    if content is not None:
        (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(UserError, match=word) as caught:
        read_cifar10(tmp_path, training=False)
    assert "\n" not in str(caught.value)


def test_cifar_is_unpacked_only_from_the_archive_whose_md5_is_known(tmp_path, monkeypatch):
    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    made_cifar(tmp_path / "made")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    with pytest.raises(UserError, match=r"cannot download CIFAR-10 into .*: no network"):
        read_cifar10(tmp_path, training=True, download=True)
    assert not (tmp_path / "cifar-10-batches-bin").exists()
    monkeypatch.setattr(cifar10, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    images, _ = read_cifar10(tmp_path, training=True, download=True)
    assert torch.equal(images, read_cifar10(tmp_path / "made", training=True)[0])


def test_char_transformer_sees_the_past_alone_and_counts_bits():
    torch.manual_seed(0)
    model = CharTransformer(width=16, n_heads=2, dropout=0.0)
    text = torch.randint(256, (2, 12))
    altered = text.clone()
    altered[:, 7:] = 0
    output = model(text)
    assert output.shape == (2, 256, 12)
    torch.testing.assert_close(model(altered)[..., :7], output[..., :7])
    assert not torch.allclose(model(altered)[..., 7:], output[..., 7:])
    torch.testing.assert_close(bits_per_character(torch.zeros(2, 256, 12), text), torch.tensor(8.0))
    with pytest.raises(UserError, match="width: got 18; it should be a multiple of 2 n_heads, 4"):
        CharTransformer(width=18, n_heads=2)


def test_products_of_turned_queries_and_keys_depend_on_their_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 10, 8)
    products = rotated(query) @ rotated(key).transpose(2, 3)
    for distance in range(-9, 10):
        along = products[0, 0].diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    torch.testing.assert_close(rotated(query).norm(dim=3), query.norm(dim=3))


def test_embedded_texts_are_plain_and_what_their_note_says():
    folder = PROJECT / "data" / "text"
    for path in folder.glob("*.txt"):
        assert path.read_bytes().isascii() and f"`{path.name}`" in (folder / "README.md").read_text()
    constitution = (folder / "constitution.txt").read_text()
    assert constitution.count("\nAmendment ") == 27 and constitution.count("\nArticle ") == 7


def test_r2_is_exact_whatever_the_batches():
    torch.manual_seed(0)
    target = torch.randn(50, 1) + 3
    output = target + 0.5 * torch.randn(50, 1)
    metric = RSquared()
    for rows in torch.arange(50).split(16):
        metric.update(output[rows], target[rows])
    share = 1 - (output - target).square().sum() / (target - target.mean()).square().sum()
    torch.testing.assert_close(metric.compute(), share.double(), rtol=1e-5, atol=0)
    metric.reset()
    metric.update(target, target)
    assert metric.compute() == 1


def test_a_table_of_another_width_is_named():
    with pytest.raises(UserError, match=r"arch.args.in_features: it is 10, and a row has 9 numbers"):
        TableMlp(10)(torch.rand(2, 9))


def test_diabetes_tables_are_all_rows_of_the_package(tmp_path, monkeypatch):
    frame = pandas.DataFrame(np.arange(442 * 11).reshape(442, 11), columns=[*"abcdefghij", "target"])
    package = types.ModuleType("sklearn.datasets")
    package.load_diabetes = lambda as_frame, scaled: types.SimpleNamespace(frame=frame)
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", package)
    test, train = (pandas.read_csv(path) for path in write_tables(tmp_path / "new"))
    assert (len(train), len(test)) == (354, 88)
    assert pandas.concat([train, test]).sort_values("a", ignore_index=True).equals(frame)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        write_tables(tmp_path / "other")


def test_baselines_are_those_of_the_same_tables(tmp_path):
    made_table(tmp_path / "data")
    values = baselines(tmp_path / "data")
    train, test = (
        np.loadtxt(tmp_path / "data" / f"{part}.csv", delimiter=",", skiprows=1) for part in ("train", "test")
    )
    weights = np.linalg.lstsq(np.c_[train[:, :-1], np.ones(len(train))], train[:, -1], rcond=None)[0]
    target = test[:, -1]
    errors = target - np.c_[test[:, :-1], np.ones(len(test))] @ weights
    share = 1 - np.square(errors).sum() / np.square(target - target.mean()).sum()
    assert values["LinearRegression"] == pytest.approx(share) and values["mean"] < 0.1
    with pytest.raises(UserError, match="make it: python"):
        baselines(tmp_path)


def test_more_classes_than_the_model_has_are_refused_before_the_run(tmp_path):
    changes = made_images(tmp_path / "data") | {"arch.args.num_classes": 2}
    with pytest.raises(UserError, match=r"arch.args.num_classes: got 2, but the data have 3 classes"):
        train.main(parsed("image_folder", tmp_path / "saved", **changes))
    assert not (tmp_path / "saved").exists()


def test_folders_that_are_not_there_are_said_to_hold_classes(tmp_path):
    there_is_none = {"data_loader.args.folder": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"data_loader.args.folder: there is no folder .* of images for each class"):
        train.main(parsed("image_folder", tmp_path / "saved", **there_is_none))
