"""Limits, fixed batches, a look at validation and anomalies: what they do, and that they leave no trace."""

import argparse
import json
import types
import warnings

import pytest
import torch

from base import BaseDataLoader, InMemoryDataset
from base.training.debugging import FixedBatches, overfitted, show_batches
from base.training.profile import TRACE, Profile, profile_table
from comparing.same import comparable_state
from helpers import TinyData, changed, same, tiny_config, tiny_model, tiny_trainer
from logger.pictures import draw_batches
from parse_config import PARTS, ConfigParser
from trainer import Trainer
from utils import UserError, read_json
from utils.config.train_flags import add_train_flags, debugging
from utils.seed import seed_everything


class Watching(Trainer):
    """Keeps the samples it trains on, by epoch."""

    def _batches(self, epoch):
        for batch_idx, batch in super()._batches(epoch):
            vars(self).setdefault("seen", {}).setdefault(epoch, []).append(batch)
            yield batch_idx, batch


def trained(folder, trainer_class=Trainer, **changes):
    kwargs = {key: changes.pop(key) for key in ("model", "validation_split", "num_workers") if key in changes}
    trainer = tiny_trainer(tiny_config(folder, **changes), trainer_class=trainer_class, **kwargs)
    trainer.train()
    return trainer


def state(trainer):
    return comparable_state(trainer.checkpoint_dir / f"checkpoint-epoch{trainer.epochs}.pth")


def assert_same_training(left, right):
    left, right = state(left), state(right)
    for key in left.keys() - {"config"}:
        assert same(left[key], right[key]), key


@pytest.mark.parametrize(("limit", "batches"), [(1, 1), (3, 3), (99, 5), (0.5, 2), (0.01, 1), (1.0, 5)])
def test_limit_cuts_each_epoch(tmp_path, limit, batches):
    trainer = trained(tmp_path, Watching, limit_train_batches=limit)
    assert trainer.len_epoch == batches and trainer.step == 2 * batches
    full = tiny_trainer(tiny_config(tmp_path / "full"), trainer_class=Watching)
    for epoch in (1, 2):
        expected = [batch for _, batch in zip(range(batches), full.stream.batches(epoch), strict=False)]
        assert same([list(batch) for batch in trainer.seen[epoch]], [list(batch) for batch in expected])


@pytest.mark.parametrize("limit", [5, 1.0])
def test_limit_that_leaves_nothing_out_changes_nothing(tmp_path, limit):
    straight = trained(tmp_path / "a")
    assert_same_training(straight, trained(tmp_path / "b", limit_train_batches=limit, limit_valid_batches=limit))


def test_limited_run_resumes_within_an_epoch_to_the_same_bits(tmp_path):
    changes = {"limit_train_batches": 3, "limit_valid_batches": 1, "save_every_steps": 1, "num_workers": 0}
    straight = trained(tmp_path / "a", **changes)
    config = tiny_config(tmp_path / "b", limit_train_batches=3, limit_valid_batches=1, save_every_steps=1)
    first = tiny_trainer(config)
    first._callbacks.call = lambda hook, *arguments: first.stop("enough") if first.step == 2 else None
    first.train()
    resumed = tiny_trainer(changed(config), resume=first.checkpoint_dir / "checkpoint-epoch1-batch2.pth")
    assert (resumed.start_epoch, resumed.batches_done) == (1, 2)
    resumed.train()
    assert_same_training(straight, resumed)


@pytest.mark.parametrize(("limit", "samples"), [(1, 8), (0.5, 8), (2, 10), (1.0, 10)])
def test_limit_of_validation(tmp_path, limit, samples):
    trainer = trained(tmp_path, limit_valid_batches=limit)
    assert trainer.valid_metrics._weights["loss"] == samples


def test_schedule_by_steps_knows_of_the_limit(tmp_path):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)

    section = {"lr_scheduler": {"type": "OneCycleLR", "interval": "step"}}
    tiny_trainer({**tiny_config(tmp_path, limit_train_batches=3), **section}, schedule=schedule).train()
    with pytest.raises(UserError, match="total_steps: got 6, but the run has 8 optimizer steps; give 8"):
        tiny_trainer({**tiny_config(tmp_path, limit_train_batches=4), **section}, schedule=schedule)


def test_endless_loader_is_cut_and_one_with_a_position_of_its_own_is_refused(tmp_path):
    class Endless:
        dataset = TinyData()

        def __iter__(self):
            return iter([(torch.rand(4, 4), torch.tensor([0, 1, 2, 0]))] * 9)

    class Placed(Endless):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    trainer = tiny_trainer(tiny_config(tmp_path, limit_train_batches=3), loader_class=lambda *args: Endless())
    trainer.train()
    assert trainer.step == 6
    with pytest.raises(UserError, match="limit_train_batches: data_loader continues from its own position"):
        tiny_trainer(tiny_config(tmp_path, limit_train_batches=3), loader_class=lambda *args: Placed())
    with pytest.raises(UserError, match="data_loader: has no length"):
        tiny_trainer(tiny_config(tmp_path, limit_train_batches=0.5), loader_class=lambda *args: Endless())
    trainer = tiny_trainer(tiny_config(tmp_path, limit_train_batches=3, epochs=1), loader_class=lambda *args: Placed())
    trainer.train()
    assert trainer.step == 3
    with pytest.raises(UserError, match="limit_valid_batches: valid_data_loader has no length"):
        tiny_trainer(tiny_config(tmp_path, limit_valid_batches=0.5), valid_data_loader=Endless())


@pytest.mark.parametrize("key", ["limit_train_batches", "limit_valid_batches", "sanity_check_batches"])
def test_trainer_with_methods_of_its_own_refuses_what_it_cannot_follow(tmp_path, key):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            return {}

        def _valid_epoch(self, epoch):
            return {}

    with pytest.raises(UserError, match=f"trainer.{key}: is not for a trainer with a _.*_epoch of its own"):
        tiny_trainer(tiny_config(tmp_path, **{key: 1}), trainer_class=Own)
    assert not list(tmp_path.iterdir())


def checked(**changes):
    config = read_json("config.json")
    config["trainer"].update(changes.pop("trainer", {}))
    config["data_loader"]["args"].update(changes)
    return ConfigParser(config, parts=PARTS)


@pytest.mark.parametrize("key", ["limit_train_batches", "limit_valid_batches"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 0.0, -0.5, True, "3", float("nan")])
def test_value_that_is_no_limit_is_refused(key, value):
    with pytest.raises(UserError, match=f"^trainer.{key}: got .*; it should be a number of batches from 1 on, or"):
        checked(trainer={key: value})


@pytest.mark.parametrize(
    ("trainer", "where"),
    [
        ({"overfit_batches": 0}, "trainer.overfit_batches"),
        ({"sanity_check_batches": -1}, "trainer.sanity_check_batches"),
        ({"detect_anomaly": "yes"}, "trainer.detect_anomaly"),
        ({"limit_train_batches": 3, "len_epoch": 9}, "trainer.limit_train_batches: trainer.len_epoch sets"),
    ],
)
def test_values_that_cannot_be_are_refused_by_the_check(trainer, where):
    with pytest.raises(UserError, match=f"^{where}"):
        checked(trainer=trainer)


@pytest.mark.parametrize("key", ["limit_valid_batches", "sanity_check_batches"])
def test_limit_of_validation_data_that_are_not_there_is_refused(tmp_path, key):
    with pytest.raises(UserError, match=f"^trainer.{key}: there are no validation data"):
        checked(trainer={key: 2, "monitor": "off"}, validation_split=0.0)


def test_sanity_check_without_validation_data_is_refused_by_the_trainer(tmp_path):
    with pytest.raises(UserError, match="sanity_check_batches: there are no validation data"):
        tiny_trainer(tiny_config(tmp_path, sanity_check_batches=2), validation_split=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_sanity_check_leaves_no_trace(tmp_path, workers):
    straight = trained(tmp_path / "a", num_workers=workers)
    looked = trained(tmp_path / "b", num_workers=workers, sanity_check_batches=2)
    assert_same_training(straight, looked)
    rows = [(trainer.config.log_dir / "metrics.csv").read_text() for trainer in (straight, looked)]
    assert rows[0] == rows[1]
    generators = [trainer.data_loader.generator.get_state() for trainer in (straight, looked)]
    assert torch.equal(*generators)


def test_sanity_check_leaves_modes_random_numbers_and_positions_alone(tmp_path):
    class Placed:
        position = 0

        def __iter__(self):
            while True:
                self.position += 1
                yield torch.rand(4, 4), torch.tensor([0, 1, 2, 0])

        def state_dict(self):
            return {"position": self.position}

        def load_state_dict(self, state):
            self.position = state["position"]

    trainer = tiny_trainer(tiny_config(tmp_path, sanity_check_batches=2))
    trainer.valid_data_loader = Placed()
    trainer.model[1].eval()
    before, modes = torch.get_rng_state(), [module.training for module in trainer.model.modules()]
    trainer._run_epochs = lambda: None
    trainer.train()
    assert torch.equal(torch.get_rng_state(), before) and trainer.valid_data_loader.position == 0
    assert modes == [module.training for module in trainer.model.modules()]
    assert trainer.valid_metrics.window("loss") == []


def test_sanity_check_finds_a_mistake_in_validation_before_training(tmp_path):
    class OnlyTrains(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_model()

        def forward(self, data):
            assert self.training, "broken in validation"
            return self.inner(data)

    trainer = tiny_trainer(tiny_config(tmp_path, sanity_check_batches=1), model=OnlyTrains())
    with pytest.raises(AssertionError, match="broken in validation"):
        trainer.train()
    assert trainer.step == 0


class RootOfZero(torch.nn.Module):
    """Finite forward, nan backward."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_model()

    def forward(self, data):
        output = self.inner(data)
        return output + (output * 0).sqrt()


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_anomaly_is_named_with_its_batch(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, detect_anomaly=True), model=RootOfZero())
    with pytest.raises(UserError, match=r"epoch 1, batch 1 of 5: Function 'MulBackward0' returned nan .*; samples"):
        trainer.train()
    assert not torch.is_anomaly_enabled()


def test_detecting_anomalies_changes_nothing(tmp_path):
    assert_same_training(trained(tmp_path / "a"), trained(tmp_path / "b", detect_anomaly=True))


def overfitting(folder, **changes):
    return tiny_trainer(tiny_config(folder, overfit_batches=2, **changes), trainer_class=Watching)


def test_overfitting_trains_and_validates_on_the_same_batches_in_every_epoch(tmp_path):
    trainer = overfitting(tmp_path)
    trainer.train()
    first, second = ([list(batch) for batch in trainer.seen[epoch]] for epoch in (1, 2))
    assert same(first, second) and same(first, [list(batch) for batch in trainer.valid_data_loader])
    assert [len(target) for _, target in first] == [8, 8]
    seed_everything(5)
    everything = BaseDataLoader(TinyData(), 8, True, 0.2, 0)
    assert trainer.data_loader.indices == [everything.batch_indices(1, 0), everything.batch_indices(1, 1)]


def test_overfitted_samples_are_those_that_validation_would_see():
    images = torch.arange(40.0).reshape(20, 2)
    plain, augmented = (InMemoryDataset(images, torch.arange(20), transform=t) for t in (None, lambda x: x + 100))
    loader = BaseDataLoader(augmented, 4, True, 4, 0, valid_dataset=plain)
    train, valid = overfitted({"trainer": {"overfit_batches": 3}}, loader, loader.split_validation())
    for batches in (train, valid):
        for (data, target), indices in zip(batches, train.indices, strict=True):
            assert torch.equal(data, images[indices]) and target.tolist() == indices


@pytest.mark.slow
def test_overfitting_makes_the_loss_vanish(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    trainer = tiny_trainer(
        tiny_config(tmp_path, overfit_batches=1, epochs=300, save_period=300), schedule=None, model=model
    )
    trainer.train()
    row = trainer.table.rows()[-1]
    assert float(row["val_loss"]) < 0.05 and float(row["val_accuracy"]) == 1


def test_overfitting_has_validation_data_whether_or_not_the_config_has(tmp_path):
    trainer = trained(tmp_path, validation_split=0, overfit_batches=2, sanity_check_batches=1, limit_valid_batches=1)
    assert float(trainer.table.rows()[-1]["val_loss"]) > 0


def test_overfitting_resumes_within_an_epoch_to_the_same_bits(tmp_path):
    straight = overfitting(tmp_path / "a")
    straight.train()
    first = overfitting(tmp_path / "b")
    first._callbacks.call = lambda hook, *arguments: first.stop("enough") if first.step == 1 else None
    first.train()
    config = changed(tiny_config(tmp_path / "b", overfit_batches=2))
    resumed = tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch1-batch1.pth")
    assert (resumed.start_epoch, resumed.batches_done) == (1, 1)
    resumed.train()
    assert_same_training(straight, resumed)


@pytest.mark.parametrize("changes", [{}, {"overfit_batches": 1}, {"limit_train_batches": 1}])
def test_epoch_whose_batches_are_others_now_starts_over(tmp_path, changes):
    first = overfitting(tmp_path)
    first._callbacks.call = lambda hook, *arguments: first.stop("enough") if first.step == 1 else None
    first.train()
    resume = first.checkpoint_dir / "checkpoint-epoch1-batch1.pth"
    assert tiny_trainer(tiny_config(tmp_path, **changes), resume=resume).batches_done == 0


def test_overfitting_needs_a_loader_of_ours_and_so_many_batches(tmp_path):
    with pytest.raises(UserError, match=r"overfit_batches: got 9; data_loader has 5 batches"):
        tiny_trainer(tiny_config(tmp_path, overfit_batches=9))
    plain = torch.utils.data.DataLoader(TinyData(), 8)
    with pytest.raises(UserError, match=r"overfit_batches: got 1; it needs a BaseDataLoader"):
        tiny_trainer(tiny_config(tmp_path, overfit_batches=1), loader_class=lambda *args: plain)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("epochs", [1, 3])
def test_profile_is_written_and_trains_the_same_bits(tmp_path, epochs):
    straight = trained(tmp_path / "a", epochs=epochs)
    trainer = tiny_trainer(tiny_config(tmp_path / "b", epochs=epochs, verbosity=1))
    trainer.add_callback(Profile())
    trainer.train()
    left, right = state(straight), state(trainer)
    assert all(same(left[key], right[key]) for key in left.keys() - {"config", "attributes"})
    names = {event["name"] for event in json.loads((trainer.config.log_dir / TRACE).read_text())["traceEvents"]}
    assert "aten::addmm" in names
    log = (trainer.config.log_dir / "info.log").read_text()
    assert f"profile of {5 if epochs == 3 else 1} steps" in log and "aten::" in log


def test_profile_of_a_run_that_ends_before_is_that_of_the_steps_there_were(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=9, verbosity=1))
    trainer.add_callback(Profile())
    count = trainer._count_batch
    trainer._count_batch = lambda batch_idx: count(batch_idx) or (trainer.step == 7 and trainer.stop("enough"))
    trainer.train()
    assert "profile of 2 steps" in (trainer.config.log_dir / "info.log").read_text()


def test_table_of_a_profile_is_at_most_80_columns_wide():
    class Event:
        device_type = torch.autograd.DeviceType.CPU

        def __init__(self, key, cpu, device):
            self.key, self.count, self.self_cpu_time_total, self.self_device_time_total = key, 123456, cpu, device

    events = [Event("x" * 90, 1e6, 2e6), Event("ProfilerStep*", 99e6, 0), Event("y", 1, 1e9)]
    lines = profile_table(events, 2).splitlines()
    assert max(map(len, lines)) <= 80 and lines[2].startswith("y ")
    assert Profile.left == 0


def flags(*arguments):
    parser = argparse.ArgumentParser()
    add_train_flags(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²"])
def test_number_of_a_fast_dev_run_that_is_none_is_refused(value, capsys):
    with pytest.raises(SystemExit) as ended:
        flags(f"--fast-dev-run={value}")
    assert ended.value.code == 2 and "is not a number of batches from 1 on" in capsys.readouterr().err


def test_fast_dev_run_trains_one_epoch_and_keeps_nothing(tmp_path, capsys):
    config = ConfigParser({**tiny_config(tmp_path, epochs=7, len_epoch=9), "trackers": ["JsonLines"]})
    with debugging(config, flags("--fast-dev-run", "3")):
        assert not config.init_trackers()
        settings = dict(config["trainer"])
        trainer = trained(settings.pop("save_dir"), **settings)
        assert (
            trainer.step == 3
            and trainer.valid_batches == 2
            and (trainer.checkpoint_dir / "checkpoint-epoch1.pth").exists()
        )
    assert not trainer.checkpoint_dir.exists() and not list(tmp_path.iterdir())
    assert "3 batches of everything" in capsys.readouterr().out


def test_fast_dev_run_continues_no_run(tmp_path):
    trainer = trained(tmp_path)
    config = ConfigParser(tiny_config(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    with pytest.raises(UserError, match="--fast-dev-run: keeps nothing"), debugging(config, flags("--fast-dev-run")):
        pass


@pytest.mark.parametrize("path", ["out.jpg", "none/out.png", "file/out.png", "folder.png"])
def test_picture_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with (
        pytest.raises(UserError, match=r"^--show-batch"),
        debugging(ConfigParser(tiny_config(tmp_path)), flags("--show-batch", str(tmp_path / path))),
    ):
        pass


def image_loader(channels=1, validation_split=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, channels, 6, 6, generator=generator)
    return BaseDataLoader(InMemoryDataset(images, torch.arange(40)), 36, True, validation_split, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("validation_split", [0, 4])
def test_batches_are_drawn(tmp_path, capsys, channels, validation_split):
    loader = image_loader(channels, validation_split)
    parts = {"data_loader": loader, "valid_data_loader": loader.split_validation(), "torch_seed": 1, "criterion": None}
    show_batches(types.SimpleNamespace(**parts), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    expected = "training and validation" if validation_split else "training"
    assert capsys.readouterr().out.endswith(f"out.png: the first {expected} batch\n")


def test_batches_drawn_are_those_the_run_begins_with(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("base.training.debugging.draw_batches", lambda path, by_part: drawn.update(by_part))
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), trainer_class=Watching)
    show_batches(trainer, None)
    trainer.train()
    assert same(list(drawn["training"]), list(trainer.seen[1][0]))
    assert same(list(drawn["validation"]), list(next(iter(trainer.valid_data_loader))))


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        ((torch.rand(8, 4), torch.zeros(8)), r"a tensor of shape \(8, 4\)"),
        ((torch.rand(8, 2, 5, 5), torch.zeros(8)), r"a tensor of shape \(8, 2, 5, 5\)"),
        (({"text": 1}, torch.zeros(8)), "a dict"),
        (None, "a NoneType"),
    ],
)
def test_data_that_are_no_images_are_refused(tmp_path, batch, what):
    with pytest.raises(UserError, match=f"the training batch: has {what} first; images"):
        draw_batches(tmp_path / "out.png", {"training": batch})


def test_labels_that_are_no_numbers_are_left_out(tmp_path):
    for labels in (torch.rand(3), torch.rand(3, 6, 6), None, ["a", "b", "c"]):
        draw_batches(tmp_path / "out.png", {"training": (torch.zeros(3, 1, 6, 6), labels)})
    with pytest.raises(UserError, match="cannot save the picture"), warnings.catch_warnings():
        draw_batches(tmp_path / "none" / "out.png", {"training": (torch.zeros(3, 1, 6, 6), None)})


def test_batches_of_a_fixed_list_begin_anywhere():
    batches = FixedBatches([1, 2, 3], [[0], [1], [2]])
    batches.set_epoch(5, 2)
    assert list(batches) == [3] and list(batches) == [1, 2, 3] and len(batches) == 3
