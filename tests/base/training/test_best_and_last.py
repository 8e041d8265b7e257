"""The best model, early stopping, and which checkpoints stay: also after going back to an earlier one."""

import pytest

import base.training.checkpoints
from helpers import checkpoint_names, metrics_rows, ran, scripted, tiny_config, tiny_trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint


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
    assert resumed.mnt_best == 0.5 and checkpoint_names(resumed)[-2] == "checkpoint-epoch4.pth"


@pytest.mark.old_defect(8)
def test_best_model_is_saved_in_any_epoch_and_the_last_epoch_on_early_stop(tmp_path):
    config = tiny_config(tmp_path, epochs=9, save_period=4, monitor="min val_loss", early_stop=3)
    trainer = tiny_trainer(config, trainer_class=scripted([3, 2, 2.5, 2.6, 2.7, 2.8]))
    trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch4.pth", "checkpoint-epoch5.pth", "model_best.pth"]
    assert load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_last_epoch_is_saved_whatever_the_period(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3, save_period=2), trainer_class=scripted([1, 1, 1]))
    trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch2.pth", "checkpoint-epoch3.pth"]


@pytest.mark.old_defect(9)
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_plateau_stops_early(tmp_path, value):
    config = tiny_config(tmp_path, epochs=9, monitor="min val_loss", early_stop=2)
    trainer = tiny_trainer(config, trainer_class=scripted([1.0] + [value] * 8))
    trainer.train()
    assert [row["epoch"] for row in metrics_rows(trainer)] == ["1", "2", "3"]


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
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"]


@pytest.mark.old_defect(13)
def test_keep_last_prunes_and_spares_the_best(tmp_path):
    config = tiny_config(tmp_path, epochs=12, keep_last=2, monitor="min val_loss")
    trainer = tiny_trainer(config, trainer_class=scripted([1] + [2] * 11))
    trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch11.pth", "checkpoint-epoch12.pth", "model_best.pth"]


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
    assert checkpoint_names(resumed) == [*left, "overtaken-checkpoint-epoch4.pth", "overtaken-checkpoint-epoch5.pth"]
    assert [row["val_loss"] for row in metrics_rows(resumed)] == ["1", "1", "1", "2"]


def test_going_back_brings_the_best_before_it_back(tmp_path, capsys):
    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    worse = scripted([9] * 4)
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=worse).train()
    assert load_checkpoint(first.checkpoint_dir / "model_best.pth")["epoch"] == 2
    assert load_checkpoint(first.checkpoint_dir / "overtaken-model_best.pth")["epoch"] == 4
    told = capsys.readouterr().out
    assert "renamed to overtaken-...: checkpoint-epoch4.pth, model_best.pth" in told
    assert "model_best.pth is a copy of checkpoint-epoch2.pth again" in told


def test_a_kill_while_the_best_is_brought_back_does_not_lose_it(tmp_path, monkeypatch):
    def killed(*paths):
        raise KeyboardInterrupt

    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    back = first.checkpoint_dir / "checkpoint-epoch3.pth"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(base.training.checkpoints, "copy_checkpoint", killed)
        tiny_trainer(config, resume=back, trainer_class=scripted([9] * 4)).train()
    assert not (first.checkpoint_dir / "model_best.pth").exists()
    tiny_trainer(config, resume=back, trainer_class=scripted([9] * 4)).train()
    assert load_checkpoint(first.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_going_back_says_when_the_best_before_it_is_gone(tmp_path, capsys):
    config, first = ran(tmp_path, [3, 1, 2, 0.5])
    (first.checkpoint_dir / "checkpoint-epoch2.pth").unlink()
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch3.pth", trainer_class=scripted([9] * 4)).train()
    assert "no model_best.pth: the checkpoint of its epoch is gone" in capsys.readouterr().out
    assert not (first.checkpoint_dir / "model_best.pth").exists()


def test_going_back_with_nothing_left_to_train_changes_nothing(tmp_path, capsys):
    def content():
        files = [*first.checkpoint_dir.glob("*.pth"), *first.config.log_dir.rglob("[!i]*")]
        return {path: path.read_bytes() for path in files if path.is_file()}

    config, first = ran(tmp_path, [3, 1, 2], tensorboard=True)
    before = content()
    config["trainer"]["epochs"] = 2
    tiny_trainer(config, resume=first.checkpoint_dir / "checkpoint-epoch2.pth", trainer_class=scripted([9] * 4)).train()
    assert "nothing left to train: epoch 2 is done and trainer.epochs is 2" in capsys.readouterr().out
    assert {name: data for name, data in content().items() if name in before} == before


def test_new_run_and_changed_monitor_start_with_no_best_yet(tmp_path):
    config = tiny_config(tmp_path, epochs=1, monitor="min val_loss")
    trainer = tiny_trainer(config, trainer_class=scripted([0.1, 0.5]))
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    config["trainer"]["epochs"] = 2
    child = tiny_trainer(config, resume=checkpoint, new_run=True, trainer_class=scripted([0.1, 0.5]))
    child.train()
    assert checkpoint_names(child) == ["checkpoint-epoch2.pth", "model_best.pth"]
    config["trainer"]["monitor"] = "max val_loss"
    assert tiny_trainer(config, resume=checkpoint).mnt_best == -float("inf")
