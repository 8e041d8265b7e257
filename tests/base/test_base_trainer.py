import concurrent.futures
import csv
import json
import logging
import math
import threading
import time

import pytest
import torch

import base.checkpoint_saver
from base import BaseTrainer
from helpers import TinyData, same, tiny_config, tiny_model, tiny_trainer
from parse_config import ConfigParser
from trainer import Trainer
from utils import UserError
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def scripted(values, **logged):
    """A Trainer class whose epochs train nothing and log the listed values as val_loss."""

    class Scripted(Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 0.5, "val_loss": values[epoch - 1], **logged}

    return Scripted


def names(trainer):
    return sorted(path.name for path in trainer.checkpoint_dir.glob("*.pth"))


def state(trainer):
    return load_checkpoint(
        sorted(trainer.checkpoint_dir.glob("checkpoint-epoch*"), key=lambda path: path.stat().st_mtime)[-1]
    )


def table(trainer):
    with open(trainer.config.log_dir / "metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.old_defect(19)
def test_trainer_without_train_epoch_cannot_be_made():
    class Empty(BaseTrainer):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty(None, None, None, None, None)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.old_defect(10)
def test_resume_after_two_epochs_equals_a_straight_run(tmp_path, num_workers):
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=4), num_workers=num_workers)
    straight.train()
    first = tiny_trainer(tiny_config(tmp_path / "b", epochs=2), num_workers=num_workers)
    first.train()
    torch.rand(7)  # what runs in between must not matter
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    second = tiny_trainer(tiny_config(tmp_path / "b", epochs=4), resume=checkpoint, num_workers=num_workers)
    second.train()
    left, right = state(straight), state(second)
    for key in ("state_dict", "optimizer", "attributes", "rng", "monitor_best", "epoch"):
        assert same(left[key], right[key]), key
    assert table(straight) == table(second)


def test_resume_equals_a_straight_run_when_training_by_iterations(tmp_path):
    settings = {"len_epoch": 7, "monitor": "min val_loss"}
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=4, **settings))
    straight.train()
    first = tiny_trainer(tiny_config(tmp_path / "b", epochs=2, **settings))
    first.train()
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    second = tiny_trainer(tiny_config(tmp_path / "b", epochs=4, **settings), resume=checkpoint)
    second.train()
    assert same(state(straight)["state_dict"], state(second)["state_dict"])
    assert table(straight) == table(second)


@pytest.mark.old_defect(10)
def test_resume_keeps_the_early_stop_count_and_the_best(tmp_path):
    config = tiny_config(tmp_path, epochs=3, monitor="min val_loss", early_stop=3)
    trainer = tiny_trainer(config, trainer_class=scripted([0.5, 0.6, 0.7, 0.8, 0.9]))
    trainer.train()
    config["trainer"]["epochs"] = 5
    resumed = tiny_trainer(
        config, resume=trainer.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=scripted([0, 0, 0, 0.8, 0.9])
    )
    resumed.train()
    assert resumed.mnt_best == 0.5 and names(resumed)[-2] == "checkpoint-epoch4.pth"


@pytest.mark.old_defect(8)
def test_best_model_is_saved_in_any_epoch_and_the_last_epoch_on_early_stop(tmp_path):
    config = tiny_config(tmp_path, epochs=9, save_period=4, monitor="min val_loss", early_stop=3)
    trainer = tiny_trainer(config, trainer_class=scripted([3, 2, 2.5, 2.6, 2.7, 2.8]))
    trainer.train()
    assert names(trainer) == ["checkpoint-epoch4.pth", "checkpoint-epoch5.pth", "model_best.pth"]
    assert load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_last_epoch_is_saved_whatever_the_period(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3, save_period=2), trainer_class=scripted([1, 1, 1]))
    trainer.train()
    assert names(trainer) == ["checkpoint-epoch2.pth", "checkpoint-epoch3.pth"]


@pytest.mark.old_defect(9)
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_plateau_stops_early(tmp_path, value):
    config = tiny_config(tmp_path, epochs=9, monitor="min val_loss", early_stop=2)
    trainer = tiny_trainer(config, trainer_class=scripted([1.0] + [value] * 8))
    trainer.train()
    assert [row["epoch"] for row in table(trainer)] == ["1", "2", "3"]


def test_max_monitor_keeps_the_largest(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3, monitor="max val_loss"), trainer_class=scripted([1, 3, 2]))
    trainer.train()
    assert trainer.mnt_best == 3 and load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["epoch"] == 2


@pytest.mark.old_defect(11)
def test_monitor_that_is_not_logged_ends_the_run_after_saving(tmp_path):
    config = tiny_config(tmp_path, monitor="min val_los", save_period=2)
    trainer = tiny_trainer(config, trainer_class=scripted([1, 1]))
    with pytest.raises(UserError, match=r"'val_los' is logged; logged are loss, val_loss"):
        trainer.train()
    assert names(trainer) == ["checkpoint-epoch1.pth"]


@pytest.mark.old_defect(13)
def test_keep_last_prunes_and_spares_the_best(tmp_path):
    config = tiny_config(tmp_path, epochs=12, keep_last=2, monitor="min val_loss")
    trainer = tiny_trainer(config, trainer_class=scripted([1] + [2] * 11))
    trainer.train()
    assert names(trainer) == ["checkpoint-epoch11.pth", "checkpoint-epoch12.pth", "model_best.pth"]


def test_resume_from_an_earlier_epoch_sets_the_later_ones_aside(tmp_path):
    config = tiny_config(tmp_path, epochs=5, keep_last=3)
    trainer = tiny_trainer(config, trainer_class=scripted([1] * 5))
    trainer.train()
    config["trainer"]["epochs"] = 4
    resumed = tiny_trainer(
        config, resume=trainer.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=scripted([2] * 5)
    )
    resumed.train()
    left = ["checkpoint-epoch3.pth", "checkpoint-epoch4.pth"]
    assert names(resumed) == [*left, "overtaken-checkpoint-epoch4.pth", "overtaken-checkpoint-epoch5.pth"]
    assert [row["val_loss"] for row in table(resumed)] == ["1", "1", "1", "2"]


def ran(folder, values, **changes):
    """A run whose epochs came to these validation losses."""
    config = tiny_config(folder, **{"epochs": len(values), "monitor": "min val_loss", "verbosity": 1, **changes})
    trainer = tiny_trainer(config, trainer_class=scripted(values))
    trainer.train()
    return config, trainer


def test_going_back_brings_the_best_before_it_back(tmp_path, capsys):
    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    worse = scripted([9] * 4)
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=worse).train()
    assert load_checkpoint(first.checkpoint_dir / "model_best.pth")["epoch"] == 2
    assert load_checkpoint(first.checkpoint_dir / "overtaken-model_best.pth")["epoch"] == 4
    told = capsys.readouterr().out
    assert "set aside as overtaken-...: checkpoint-epoch4.pth, model_best.pth" in told
    assert "model_best.pth is checkpoint-epoch2.pth again" in told


def test_a_kill_while_the_best_is_brought_back_does_not_lose_it(tmp_path, monkeypatch):
    def killed(*paths):
        raise KeyboardInterrupt

    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    back = first.checkpoint_dir / "checkpoint-epoch3.pth"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(base.checkpoint_saver, "copy_checkpoint", killed)
        tiny_trainer(config, resume=back, trainer_class=scripted([9] * 4)).train()
    assert not (first.checkpoint_dir / "model_best.pth").exists()
    tiny_trainer(config, resume=back, trainer_class=scripted([9] * 4)).train()
    assert load_checkpoint(first.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_going_back_says_when_the_best_before_it_is_gone(tmp_path, capsys):
    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    (first.checkpoint_dir / "checkpoint-epoch2.pth").unlink()
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=scripted([9] * 4)).train()
    assert "there is no model_best.pth: its epoch is gone" in capsys.readouterr().out
    assert not (first.checkpoint_dir / "model_best.pth").exists()


def test_going_back_with_nothing_left_to_train_changes_nothing(tmp_path, capsys):
    def content():
        files = [*first.checkpoint_dir.glob("*.pth"), *first.config.log_dir.glob("[!i]*")]
        return {path.name: path.read_bytes() for path in files}

    config, first = ran(tmp_path, [3, 1, 2], tensorboard=True)
    before = content()
    config["trainer"]["epochs"] = 2
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch2.pth", trainer_class=scripted([9] * 4)).train()
    assert "nothing left to train: epoch 2 is done and trainer.epochs is 2" in capsys.readouterr().out
    assert {name: data for name, data in content().items() if name in before} == before


def test_values_that_are_not_finite_are_told(tmp_path, capsys):
    _, trainer = ran(tmp_path, [1, math.nan])
    assert "epoch 2: val_loss is nan" in capsys.readouterr().out
    assert load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["epoch"] == 1


@pytest.mark.old_defect(15)
def test_checkpoint_of_a_wrapped_model_loads_into_a_bare_one(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), model=torch.nn.DataParallel(tiny_model()))
    trainer.train()
    checkpoint = load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    tiny_model().load_state_dict(checkpoint["state_dict"])
    assert checkpoint["arch"] == "Sequential"
    tiny_trainer(tiny_config(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth").train()


def test_any_attribute_with_a_state_survives(tmp_path):
    class TwoModels(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.critic = torch.nn.Linear(1, 1)

        def _train_epoch(self, epoch):
            self.critic.weight.data.add_(1)
            return {"loss": 1.0}

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), trainer_class=TwoModels)
    trainer.train()
    config = tiny_config(tmp_path, epochs=2)
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth", trainer_class=TwoModels)
    resumed.train()
    assert torch.equal(resumed.critic.weight, trainer.critic.weight + 1)


def test_changed_learning_rate_wins_over_the_checkpoint(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    config = tiny_config(tmp_path, epochs=3)
    config["optimizer"]["args"]["lr"] = 0.01
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert resumed.optimizer.param_groups[0]["lr"] == 0.01
    assert same(resumed.optimizer.state_dict()["state"], trainer.optimizer.state_dict()["state"])
    resumed.train()
    assert [float(row["lr"]) for row in table(resumed)] == pytest.approx([0.1, 0.09, 0.01])


def test_another_optimizer_starts_anew(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    config = tiny_config(tmp_path, epochs=2)
    config["optimizer"] = {"type": "Adam", "args": {"lr": 0.001}}
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert not resumed.optimizer.state_dict()["state"]
    resumed.train()
    assert same(state(resumed)["epoch"], 2)


def test_checkpoint_of_another_model_is_refused_with_the_entries(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    other = torch.nn.Sequential(torch.nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"does not fit the model Sequential: .*size mismatch for 0.weight"):
        tiny_trainer(tiny_config(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth", model=other)


def test_state_that_no_safe_file_can_hold_fails_the_run_and_leaves_the_old_files(tmp_path):
    class Odd(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.memory = Memory()

        def _train_epoch(self, epoch):
            self.memory.value = {1, 2} if epoch == 2 else 1
            return {"loss": 1.0}

    class Memory:
        value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Odd)
    with pytest.raises(CheckpointError, match=r"attributes.memory.value: a builtins.set cannot be saved"):
        trainer.train()
    assert names(trainer) == ["checkpoint-epoch1.pth"] and state(trainer)["epoch"] == 1


def test_interruption_says_what_to_resume_from(tmp_path, caplog):
    class Interrupted(Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                raise KeyboardInterrupt
            return {"loss": 1.0}

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Interrupted)
    logging.getLogger().addHandler(caplog.handler)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert f"epoch 2; resume with: python train.py -r {trainer.checkpoint_dir}/checkpoint-epoch1.pth" in caplog.text


def test_finished_run_says_that_nothing_is_left(tmp_path, caplog):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    resumed = tiny_trainer(tiny_config(tmp_path, epochs=1), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    logging.getLogger().addHandler(caplog.handler)
    resumed.train()
    assert "nothing left to train: epoch 1 is done" in caplog.text


def test_new_run_that_has_no_epochs_left_is_refused_and_leaves_no_folder(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path / "a", epochs=2))
    trainer.train()
    with pytest.raises(UserError, match=r"trainer.epochs: it is 2, and the checkpoint is of epoch 2 already"):
        tiny_trainer(tiny_config(tmp_path / "b"), resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth", new_run=True)
    assert not (tmp_path / "b").exists()


def test_resume_in_a_new_run_keeps_the_old_folder_and_records_the_parent(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    parent = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    child = tiny_trainer(tiny_config(tmp_path, epochs=2), resume=parent, new_run=True)
    child.train()
    assert child.checkpoint_dir != trainer.checkpoint_dir
    assert names(trainer) == ["checkpoint-epoch1.pth"] and names(child) == ["checkpoint-epoch2.pth"]
    starts = json.loads((child.checkpoint_dir / "environment.json").read_text())
    assert starts[0]["resumed_from"] == str(parent)


def test_subclass_that_knows_only_train_epoch_resumes_exactly(tmp_path):
    class Plain(BaseTrainer):
        def __init__(self, model, criterion, metrics, optimizer, config, device, data_loader, **kwargs):
            super().__init__(model, criterion, metrics, optimizer, config)
            self.data_loader = data_loader
            self.lr_scheduler = kwargs["lr_scheduler"]

        def _train_epoch(self, epoch):
            losses = []
            for data, target in self.data_loader:
                self.optimizer.zero_grad()
                loss = self.criterion(self.model(data), target)
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
            self.lr_scheduler.step()
            return {"loss": sum(losses)}

    def shuffled(dataset, batch_size, *_):
        return torch.utils.data.DataLoader(dataset, batch_size, shuffle=True)

    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=4), trainer_class=Plain, loader_class=shuffled)
    straight.train()
    first = tiny_trainer(tiny_config(tmp_path / "b", epochs=2), trainer_class=Plain, loader_class=shuffled)
    first.train()
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    config = tiny_config(tmp_path / "b", epochs=4)
    second = tiny_trainer(config, resume=checkpoint, trainer_class=Plain, loader_class=shuffled)
    second.train()
    assert same(state(straight)["state_dict"], state(second)["state_dict"])
    assert table(straight) == table(second)


def test_the_old_attributes_are_there(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, monitor="max accuracy", early_stop=4))
    expected = {"epochs": 2, "save_period": 1, "monitor": "max accuracy", "mnt_mode": "max", "mnt_metric": "accuracy"}
    assert {key: getattr(trainer, key) for key in expected} == expected
    assert (trainer.mnt_best, trainer.early_stop, trainer.start_epoch) == (-float("inf"), 4, 1)
    for name in ("config", "logger", "model", "criterion", "metric_ftns", "optimizer", "checkpoint_dir", "writer"):
        assert hasattr(trainer, name)
    assert isinstance(trainer.config, ConfigParser) and len(TinyData()) == 50


def test_epochs_draw_different_random_numbers_and_seeds_too(tmp_path):
    class Drawing(Trainer):
        def _train_epoch(self, epoch):
            first = next(iter(self._batches(epoch)))[1][1].tolist()
            return {"loss": torch.rand(1).item(), "order": sum(label * 3**i for i, label in enumerate(first))}

    drawn = {}
    for seed in (1, 2):
        config = {**tiny_config(tmp_path / str(seed)), "seed": seed}
        trainer = tiny_trainer(config, trainer_class=Drawing)
        trainer.train()
        drawn[seed] = [(row["loss"], row["order"]) for row in table(trainer)]
    streams = [pair for rows in drawn.values() for pair in rows]
    assert len({loss for loss, _ in streams}) == 4 and len({order for _, order in streams}) == 4


def test_generators_of_a_trainer_with_its_own_train_go_on_after_a_resume(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    expected = torch.rand(3)
    torch.manual_seed(99)
    tiny_trainer(tiny_config(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert torch.equal(torch.rand(3), expected)


def test_changed_schedule_starts_anew_with_all_its_settings(tmp_path):
    def one_cycle(largest):
        return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, largest, total_steps=10)

    def rates(folder, largest, **kwargs):
        config = tiny_config(folder, epochs=4)
        config["lr_scheduler"] = {"type": "OneCycleLR", "args": {"max_lr": largest, "total_steps": 10}}
        trainer = tiny_trainer(config, schedule=one_cycle(largest), **kwargs)
        trainer.train()
        return trainer, [float(row["lr"]) for row in table(trainer)]

    first, _ = rates(tmp_path / "a", 0.1)
    _, fresh = rates(tmp_path / "b", 0.001)
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    _, resumed = rates(tmp_path / "a", 0.001, resume=checkpoint)
    assert resumed[2:] == fresh[:2]


def test_other_optimizers_sections_do_not_touch_the_schedule(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    config = {**tiny_config(tmp_path, epochs=3), "optimizer_D": {"type": "SGD", "args": {"lr": 1}}}
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    resumed.train()
    assert [float(row["lr"]) for row in table(resumed)] == pytest.approx([0.1, 0.09, 0.081])


def test_changed_loss_starts_anew_and_an_unchanged_one_is_restored(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    for loss, expected in ((None, [1.0, 2.0, 3.0]), ("other", [5.0, 5.0, 5.0])):
        config = {**tiny_config(tmp_path, epochs=1), **({"loss": loss} if loss else {})}
        resumed = tiny_trainer(config, resume=checkpoint)
        resumed.criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([5.0, 5.0, 5.0]))
        resumed.train()
        assert resumed.criterion.weight.tolist() == expected


def test_new_run_and_changed_monitor_start_with_no_best_yet(tmp_path):
    config = tiny_config(tmp_path, epochs=1, monitor="min val_loss")
    trainer = tiny_trainer(config, trainer_class=scripted([0.1, 0.5]))
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    config["trainer"]["epochs"] = 2
    child = tiny_trainer(config, resume=checkpoint, new_run=True, trainer_class=scripted([0.1, 0.5]))
    child.train()
    assert names(child) == ["checkpoint-epoch2.pth", "model_best.pth"]
    config["trainer"]["monitor"] = "max val_loss"
    assert tiny_trainer(config, resume=checkpoint).mnt_best == -float("inf")


def test_checkpoint_that_lies_in_no_run_folder_starts_a_new_run(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path / "a", epochs=1))
    trainer.train()
    moved = tmp_path / "downloads" / "checkpoint-epoch1.pth"
    moved.parent.mkdir()
    moved.write_bytes((trainer.checkpoint_dir / moved.name).read_bytes())
    (moved.parent / "config.json").write_text("mine")
    child = tiny_trainer(tiny_config(tmp_path / "b"), resume=moved)
    child.train()
    assert child.checkpoint_dir.is_relative_to(tmp_path / "b")
    assert sorted(path.name for path in moved.parent.iterdir()) == ["checkpoint-epoch1.pth", "config.json"]
    assert (moved.parent / "config.json").read_text() == "mine"


def test_refused_checkpoint_leaves_the_run_as_it_was(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        tiny_trainer(
            tiny_config(tmp_path, epochs=9),
            resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth",
            model=torch.nn.Sequential(torch.nn.Linear(4, 5)),
        )
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_row_that_a_kill_left_out_is_written_on_resume(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    rows = table(trainer)
    text = trainer.table.path.read_text().splitlines(keepends=True)
    trainer.table.path.write_text("".join(text[:-1]))
    resumed = tiny_trainer(tiny_config(tmp_path, epochs=2), resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    resumed.train()
    assert table(resumed) == rows


def test_bare_weights_can_be_trained_on(tmp_path, caplog):
    save_checkpoint({"state_dict": tiny_model().state_dict()}, tmp_path / "weights.pth")
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), resume=tmp_path / "weights.pth")
    trainer.train()
    assert names(trainer) == ["checkpoint-epoch1.pth"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}}, "does not fit the optimizer"),
        (
            {"attributes": {"lr_scheduler": {"step": "zap"}}},
            "does not fit 'lr_scheduler': it is not the state of a StepLR",
        ),
        ({"attributes": {"criterion": {"zap": torch.ones(1)}}}, "does not fit the model CrossEntropyLoss"),
        ({"rng": {}}, "random generators"),
    ],
)
def test_state_that_does_not_fit_is_refused_by_name(tmp_path, wrong, message):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    save_checkpoint({**load_checkpoint(path), **wrong}, path)
    with pytest.raises(UserError, match=message):
        tiny_trainer(tiny_config(tmp_path), resume=path).train()


def test_attribute_whose_state_cannot_be_saved_is_told_of_and_left_out(tmp_path, caplog):
    class Warmup(torch.optim.lr_scheduler.LRScheduler):
        """Holds another scheduler, as many projects' warm-ups do."""

        def __init__(self, optimizer):
            self.after = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            super().__init__(optimizer)

        def get_lr(self):
            return [0.1 for _ in self.optimizer.param_groups]

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), schedule=Warmup)
    logging.getLogger().addHandler(caplog.handler)
    trainer.train()
    assert "self.lr_scheduler will not survive a restart" in caplog.text
    assert "lr_scheduler" not in state(trainer)["attributes"]


@pytest.mark.parametrize(("verbosity", "lines", "progress"), [(0, 0, 0), (1, 2, 0), (2, 2, 3)])
def test_verbosity_chooses_what_is_printed(tmp_path, capsys, verbosity, lines, progress):
    tiny_trainer(tiny_config(tmp_path, verbosity=verbosity, log_step=4)).train()
    output = capsys.readouterr().out
    assert output.count("val_loss") == lines and output.count("epoch 1/2 [") == progress - (progress > 0)


def test_background_saves_hold_what_ordinary_ones_hold(tmp_path):
    plain = tiny_trainer(tiny_config(tmp_path / "a", epochs=3, monitor="min loss"))
    plain.train()
    background = tiny_trainer(tiny_config(tmp_path / "b", epochs=3, monitor="min loss", async_save=True))
    background.train()
    assert names(plain) == names(background) and len(names(plain)) == 4
    for name in names(plain):
        left, right = (load_checkpoint(trainer.checkpoint_dir / name) for trainer in (plain, background))
        del left["config"], right["config"]
        assert same(left, right), name


def test_a_background_save_holds_the_state_of_its_moment(tmp_path, monkeypatch):
    """Not what training has made of it by the time that the file is written."""
    trainer = tiny_trainer(tiny_config(tmp_path, async_save=True))
    gate = threading.Event()
    write = base.checkpoint_saver.save_checkpoint
    monkeypatch.setattr(base.checkpoint_saver, "save_checkpoint", lambda *args: (gate.wait(10), write(*args)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer._save_checkpoint(1)
    with torch.no_grad():
        for value in trainer.model.state_dict().values():
            value.zero_()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))  # it did not wait
    gate.set()
    trainer.saver.wait()
    assert same(load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch1.pth")["state_dict"], before)


def test_a_background_save_that_fails_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, async_save=True))
    trainer._save_checkpoint(1)
    trainer.saver.wait()

    def full(state, path):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(base.checkpoint_saver, "save_checkpoint", full)
    trainer._save_checkpoint(2)
    concurrent.futures.wait([trainer.saver._job])
    steps = []
    step = trainer.optim_step.step
    monkeypatch.setattr(trainer.optim_step, "step", lambda *args: steps.append(args) or step(*args))
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer._train_epoch(3)
    assert len(steps) == 1 and names(trainer) == ["checkpoint-epoch1.pth"]


def test_the_last_background_save_is_waited_for_and_its_error_told(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, async_save=True))

    def late(state, path):
        time.sleep(0.3)
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(base.checkpoint_saver, "save_checkpoint", late)
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer.train()


def test_a_resume_reads_the_checkpoint_once(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    config = ConfigParser(trainer.config.config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    config._checkpoint = content = load_checkpoint(config.resume)
    monkeypatch.setattr(torch, "load", None)
    assert config.load_checkpoint() is content and config._checkpoint is None


def test_a_loop_of_the_projects_own_hears_of_a_failed_save_at_its_epochs_end(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, epochs=9, save_period=3, async_save=True)
    trainer = tiny_trainer(config, trainer_class=scripted([1.0] * 9))
    finish = trainer._finish_epoch

    def full(state, path):
        raise CheckpointError("the disk is full")

    def finish_after_the_save(log, seconds):
        if trainer.saver._job is not None:
            concurrent.futures.wait([trainer.saver._job])
        return finish(log, seconds)

    monkeypatch.setattr(base.checkpoint_saver, "save_checkpoint", full)
    monkeypatch.setattr(trainer, "_finish_epoch", finish_after_the_save)
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer.train()
    assert trainer.table.epochs() == [1, 2, 3]


def test_a_ctrl_c_while_a_save_is_awaited_names_the_checkpoint_that_it_made(tmp_path, monkeypatch, capsys):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, async_save=True))
    wait, calls = trainer.saver.wait, []

    def interrupted_once():
        if trainer.saver._job is not None and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        wait()

    monkeypatch.setattr(trainer.saver, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    printed = capsys.readouterr().out
    assert calls and "resume with: python train.py -r" in printed and "checkpoint-epoch1.pth" in printed
