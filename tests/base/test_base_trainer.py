"""What BaseTrainer promises of a run: its contract, what it says, and where its random numbers come from."""

import math

import pytest
import torch

import base.base_trainer
from helpers import TinyData, metrics_rows, ran, tiny_config, tiny_trainer
from parse_config import ConfigParser
from trainer import Trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint


@pytest.mark.old_defect(19)
def test_trainer_without_train_epoch_cannot_be_made():
    class Empty(base.base_trainer.BaseTrainer):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty(None, None, None, None, None)


def test_values_that_are_not_finite_are_told(tmp_path, capsys):
    _, trainer = ran(tmp_path, [1, math.nan])
    assert "epoch 2: val_loss is nan" in capsys.readouterr().out
    assert load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["epoch"] == 1


def test_interruption_says_what_to_resume_from(tmp_path, capsys):
    class Interrupted(Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                raise KeyboardInterrupt
            return {"loss": 1.0}

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (
        f"epoch 2; resume with: python train.py -r {trainer.checkpoint_dir}/checkpoint-epoch1.pth"
        in capsys.readouterr().out
    )


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
        drawn[seed] = [(row["loss"], row["order"]) for row in metrics_rows(trainer)]
    streams = [pair for rows in drawn.values() for pair in rows]
    assert len({loss for loss, _ in streams}) == 4 and len({order for _, order in streams}) == 4


@pytest.mark.parametrize(("verbosity", "lines", "progress"), [(0, 0, 0), (1, 2, 0), (2, 2, 3)])
def test_verbosity_chooses_what_is_printed(tmp_path, capsys, verbosity, lines, progress):
    tiny_trainer(tiny_config(tmp_path, verbosity=verbosity, log_step=4)).train()
    output = capsys.readouterr().out
    assert output.count("val_loss") == lines and output.count("epoch 1/2 [") == progress - (progress > 0)


@pytest.mark.parametrize(("batches", "seconds", "lines"), [(39, 0, 20), (20, 0, 20), (5, 0, 5), (39, 1000, 0)])
def test_progress_lines_in_a_file_are_at_most_twenty_an_epoch_and_seconds_apart(
    tmp_path, capsys, monkeypatch, batches, seconds, lines
):
    monkeypatch.setattr("trainer.trainer.LINE_SECONDS", seconds)
    tiny_trainer(tiny_config(tmp_path, verbosity=2, epochs=1, len_epoch=batches)).train()
    output = capsys.readouterr().out
    assert output.count("epoch 1/1 [") == lines and output.count("val_loss") == 1


def test_a_trainer_that_says_when_to_log_has_all_its_lines_in_a_file(tmp_path, capsys, monkeypatch):
    class Own(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.log_step = 10

    monkeypatch.setattr("trainer.trainer.LINE_SECONDS", 1000)
    tiny_trainer(tiny_config(tmp_path, verbosity=2, epochs=1, len_epoch=39), trainer_class=Own).train()
    assert capsys.readouterr().out.count("epoch 1/1 [") == 4


@pytest.mark.parametrize("report", [True, False])
def test_a_run_ends_with_its_report_if_the_config_asks_for_it(report, tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, report=report))
    trainer.train()
    path = trainer.config.log_dir / "report.html"
    assert path.exists() == report
    lines = [line.split(",") for line in (trainer.config.log_dir / "pace.csv").read_text().splitlines()]
    assert [(line[0], line[2]) for line in lines] == [("epoch", "batches"), ("1", "5"), ("2", "5")]
    if report:
        text = path.read_text()
        assert "This run ended after epoch 2 of 2." in text and "<h2>Model</h2>" in text and "accuracy" in text


def test_a_report_that_cannot_be_written_leaves_the_run_complete(tmp_path, monkeypatch, capsys):
    def fail(*args, **how):
        raise UserError("report.html: the disk is full")

    monkeypatch.setattr("logger.report.write_report", fail)
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    assert "no report: report.html: the disk is full" in capsys.readouterr().out
    assert trainer.saver.newest.name == "checkpoint-epoch2.pth"


def test_a_loop_that_counts_no_batches_has_its_seconds_in_the_report(tmp_path):
    _, trainer = ran(tmp_path, [3.0, 2.0])
    assert "seconds in an epoch" in (trainer.config.log_dir / "report.html").read_text()
