"""A run that goes on from a checkpoint after an epoch: what comes back, and to which bits."""

import copy

import pytest
import torch

from base import BaseTrainer
from helpers import metrics_rows, newest_state, same, tiny_config, tiny_model, tiny_trainer
from parse_config import ConfigParser
from trainer import Trainer
from utils.runs.checkpoint import load_checkpoint


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
    left, right = newest_state(straight), newest_state(second)
    for key in ("state_dict", "optimizer", "attributes", "rng", "monitor_best", "epoch"):
        assert same(left[key], right[key]), key
    assert metrics_rows(straight) == metrics_rows(second)


def test_resume_equals_a_straight_run_when_training_by_iterations(tmp_path):
    settings = {"len_epoch": 7, "monitor": "min val_loss"}
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=4, **settings))
    straight.train()
    first = tiny_trainer(tiny_config(tmp_path / "b", epochs=2, **settings))
    first.train()
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    second = tiny_trainer(tiny_config(tmp_path / "b", epochs=4, **settings), resume=checkpoint)
    second.train()
    assert same(newest_state(straight)["state_dict"], newest_state(second)["state_dict"])
    assert metrics_rows(straight) == metrics_rows(second)


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


def test_finished_run_says_that_nothing_is_left(tmp_path, capsys):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    resumed = tiny_trainer(tiny_config(tmp_path, epochs=1), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    resumed.train()
    assert "nothing left to train: epoch 1 is done" in capsys.readouterr().out


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
    assert same(newest_state(straight)["state_dict"], newest_state(second)["state_dict"])
    assert metrics_rows(straight) == metrics_rows(second)


def test_generators_of_a_trainer_with_its_own_train_go_on_after_a_resume(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    expected = torch.rand(3)
    torch.manual_seed(99)

    class Own(type(trainer)):
        def train(self):
            return self.start_epoch, torch.rand(3), copy.deepcopy(self.model.state_dict())

    own = tiny_trainer(
        tiny_config(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth", trainer_class=Own
    )
    start, drawn, weights = own.train()
    assert start == 2 and torch.equal(drawn, expected) and same(weights, trainer.model.state_dict())


def test_row_that_a_kill_left_out_is_written_on_resume(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    rows = metrics_rows(trainer)
    text = trainer.table.path.read_text().splitlines(keepends=True)
    trainer.table.path.write_text("".join(text[:-1]))
    resumed = tiny_trainer(tiny_config(tmp_path, epochs=2), resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    resumed.train()
    assert metrics_rows(resumed) == rows


def test_attribute_whose_state_cannot_be_saved_is_told_of_and_left_out(tmp_path, capsys):
    class Warmup(torch.optim.lr_scheduler.LRScheduler):
        """Holds another scheduler, as many projects' warm-ups do."""

        def __init__(self, optimizer):
            self.after = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            super().__init__(optimizer)

        def get_lr(self):
            return [0.1 for _ in self.optimizer.param_groups]

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), schedule=Warmup)
    trainer.train()
    assert "self.lr_scheduler will not survive a restart" in capsys.readouterr().out
    assert "lr_scheduler" not in newest_state(trainer)["attributes"]


def test_a_resume_reads_the_checkpoint_once(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    config = ConfigParser(trainer.config.config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    config._checkpoint = content = load_checkpoint(config.resume)
    monkeypatch.setattr(torch, "load", None)
    assert config.load_checkpoint() is content and config._checkpoint is None
