"""EMA and SWA: the averages are the right ones, what is measured is what is saved, and a resume changes no bit."""

import copy

import pytest
import torch

import utils.runs.saver
from base.training.evaluate import evaluate
from helpers import accuracy, run_here, same, tiny_config, tiny_trainer
from utils import MetricTracker, UserError
from utils.files import read_json
from utils.runs.checkpoint import CheckpointError, load_checkpoint
from utils.runs.weights import load_weights


def trainer_with(folder, *callbacks, resume=None, description="", **changes):
    config = {**tiny_config(folder, **changes), "callbacks": list(callbacks), "description": description}
    return tiny_trainer(config, resume=resume)


def spec(kind, **args):
    return {"type": kind, "args": args}


def weights_after_each_update(trainer):
    """A list that fills with the trained weights, one {name: tensor} for each update."""
    seen = [copy.deepcopy(trainer.model.state_dict())]
    trainer.optimizer.register_step_post_hook(lambda *step: seen.append(copy.deepcopy(trainer.model.state_dict())))
    return seen


def test_ema_is_the_moving_average_over_updates_and_not_over_batches(tmp_path):
    trainer = trainer_with(tmp_path, spec("EMA", decay=0.3), accumulate=2, epochs=2)
    seen = weights_after_each_update(trainer)
    trainer.train()
    assert len(seen) == 1 + 2 * 3  # 5 batches an epoch, the last update of one batch
    average = seen[0]["0.weight"].clone()
    for n, weights in enumerate(seen[1:], 1):
        average.lerp_(weights["0.weight"], 1 - min(0.3, (1 + n) / (10 + n)))
    assert torch.allclose(trainer.averaged_model[0].weight, average, atol=1e-7)
    assert not torch.equal(average, seen[-1]["0.weight"])


def test_the_validation_values_are_those_of_the_weights_that_are_saved(tmp_path):
    trainer = trainer_with(tmp_path, spec("EMA", decay=0.8), monitor="min val_loss")
    trainer.train()
    for name in ("model_best.pth", "checkpoint-epoch2.pth"):
        saved = load_checkpoint(trainer.checkpoint_dir / name)
        model = copy.deepcopy(trainer.model)
        load_weights(model, saved["state_dict"])
        loader = trainer.valid_data_loader
        tracker = MetricTracker("loss", "accuracy")
        device = torch.device("cpu")
        measured = evaluate(model, torch.nn.CrossEntropyLoss(), [accuracy], loader, device, tracker)
        assert measured["loss"] == saved["log"]["val_loss"]
        assert not same(saved["state_dict"], saved["trained_state_dict"])


def test_averaging_leaves_training_as_it_is(tmp_path):
    plain, averaged = trainer_with(tmp_path / "a"), trainer_with(tmp_path / "b", spec("EMA"))
    plain.train()
    averaged.train()
    assert same(plain.model.state_dict(), averaged.model.state_dict())


def stopped_and_resumed(folder, step, *callbacks, **changes):
    first = trainer_with(folder, *callbacks, **changes)
    count = first._count_batch

    def stop_at_step(batch_idx):
        count(batch_idx)
        if first.step == step:
            first.stop("test")

    first._count_batch = stop_at_step
    first.train()
    resumed = trainer_with(folder, *callbacks, resume=first.saver.newest, description="goes on", **changes)
    resumed.train()
    return resumed


@pytest.mark.parametrize("step", [3, 5, 8, 15])
@pytest.mark.parametrize("callback", [spec("EMA", decay=0.9), spec("SWA", start="1 epoch")], ids=["EMA", "SWA"])
def test_a_resumed_run_comes_to_the_same_average(tmp_path, callback, step):
    straight = trainer_with(tmp_path / "a", callback, epochs=3, accumulate=2)
    straight.train()
    resumed = stopped_and_resumed(tmp_path / "b", step, callback, epochs=3, accumulate=2)
    for name in ["checkpoint-epoch3.pth"] + ["swa.pth"] * (callback["type"] == "SWA"):
        left, right = (load_checkpoint(t.checkpoint_dir / name) for t in (straight, resumed))
        for key in ("state_dict", "trained_state_dict", "optimizer", "log"):
            assert same(left.get(key), right.get(key)), (name, key)


def test_ema_goes_on_from_its_average_after_a_rollback(tmp_path):
    ema = spec("EMA", decay=0.9)
    trainer = trainer_with(tmp_path, ema, on_nonfinite="rollback", save_every_steps=2, epochs=1)
    count, broken, restored = trainer._count_batch, [], []
    restore = trainer._restore_attributes

    def restore_and_look():
        restore()
        restored.append((load_checkpoint(trainer.saver.newest), copy.deepcopy(trainer.averaged_model)))

    trainer._restore_attributes = lambda: restore_and_look() if broken else restore()

    def once_nan(batch_idx):
        count(batch_idx)
        if trainer.step == 4 and not broken:
            broken.append(copy.deepcopy(trainer.averaged_model.state_dict()))
            trainer.train_metrics.update("loss", torch.tensor(float("nan")))
            trainer.nonfinite.batches.append(3)

    trainer._count_batch = once_nan
    trainer.train()
    ((checkpoint, average),) = restored
    assert checkpoint["batch"] == 2
    saved = checkpoint["state_dict"]
    assert same(dict(average.named_parameters()), {key: saved[key] for key, _ in average.named_parameters()})
    assert not torch.equal(saved["0.weight"], broken[0]["0.weight"])


def test_ema_has_a_buffer_that_the_model_fills_in_its_first_forward_pass(tmp_path):
    class Scaled(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Linear(4, 3))
            self.register_buffer("scale", None)

        def forward(self, data):
            self.scale = torch.tensor(10.0) if self.scale is None else self.scale
            return super().forward(data) / self.scale

    config = {**tiny_config(tmp_path, epochs=1), "callbacks": [spec("EMA")]}
    trainer = tiny_trainer(config, model=Scaled())
    trainer.train()
    assert trainer.averaged_model.scale == 10


def test_swa_is_the_mean_of_the_epochs_ends_with_statistics_of_its_own(tmp_path):
    trainer = trainer_with(tmp_path, spec("SWA", start="50%"), epochs=4)
    ends = []
    finish = trainer._finish_epoch
    trainer._finish_epoch = lambda *a, **k: (ends.append(copy.deepcopy(trainer.model.state_dict())), finish(*a, **k))
    trainer.train()
    saved = load_checkpoint(trainer.checkpoint_dir / "swa.pth")
    expected = (ends[2]["0.weight"] + ends[3]["0.weight"]) / 2
    assert torch.allclose(saved["state_dict"]["0.weight"], expected, atol=1e-7)
    assert same(saved["trained_state_dict"], trainer.model.state_dict())
    assert not torch.equal(saved["state_dict"]["1.running_mean"], ends[3]["1.running_mean"])
    assert saved["state_dict"]["1.num_batches_tracked"] == 5
    ordinary = load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch4.pth")
    assert same(ordinary["state_dict"], trainer.model.state_dict())


def test_swa_of_a_run_made_longer_is_that_of_one_go(tmp_path, capsys):
    once = trainer_with(tmp_path / "a", spec("SWA", start="50%"), epochs=6)
    once.train()
    short = trainer_with(tmp_path / "b", spec("SWA", start="50%"), epochs=3)
    short.train()
    longer = trainer_with(tmp_path / "b", spec("SWA", start="50%"), epochs=6, resume=short.saver.newest)
    longer.train()
    assert (
        "SWA: the average began in epoch 2; for a run of this length it begins again in epoch 4"
        in capsys.readouterr().out
    )
    states = [load_checkpoint(trainer.checkpoint_dir / "swa.pth")["state_dict"] for trainer in (once, longer)]
    assert same(*states)


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (spec("EMA", decay=1.0), "callbacks.0.args.decay: got 1.0; it should be above 0 and below 1"),
        (spec("SWA", start="soon"), "callbacks.0.args.start: got 'soon'; a duration is such as"),
        (spec("SWA", start=2), "callbacks.0.args.start: got 2, which is not before the end of training"),
    ],
)
def test_values_that_cannot_be_are_refused_before_there_is_a_run(tmp_path, callback, told):
    with pytest.raises(UserError, match=told):
        trainer_with(tmp_path, callback).train()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_test_py_measures_the_average_that_validation_measured(tmp_path):
    changes = ["trainer.epochs=2", "trainer.len_epoch=20", f"trainer.save_dir={tmp_path}", "name=ema"]
    changes += ['callbacks=[{"type": "EMA", "args": {"decay": 0.9}}]']
    run_here("train.py", "-c", "config.json", *(word for change in changes for word in ("--set", change)))
    (folder,) = (tmp_path / "models/ema").iterdir()
    run_here("test.py", "-r", folder / "model_best.pth", "--split", "valid")
    saved = load_checkpoint(folder / "model_best.pth")["log"]
    measured = read_json(folder / "test_results.json")["model_best.pth"]["valid"]
    assert measured["loss"] == pytest.approx(saved["val_loss"], rel=1e-6)
    assert measured["accuracy"] == saved["val_accuracy"]


def test_a_buffer_that_the_model_replaces_is_the_models_in_the_average_too(tmp_path):
    class Remembers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, features):
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * features.mean(0)
            return self.linear(features - self.mean)

    config = {**tiny_config(tmp_path), "callbacks": ["EMA"]}
    trainer = tiny_trainer(config, model=Remembers())
    trainer.train()
    assert torch.equal(trainer.averaged_model.mean, trainer.model.mean) and trainer.model.mean.any()


class Momentum(torch.nn.Module):
    """A linear layer, and a slowly following copy of it, which the model updates itself, as in MoCo and BYOL."""

    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(4, 3)
        self.key = copy.deepcopy(self.query).requires_grad_(False)

    def forward(self, features):
        if self.training:
            for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                key.data = 0.9 * key.data + 0.1 * query.data
        return self.query(features) + self.key(features)


def test_parameters_that_the_model_updates_itself_are_the_models_in_the_average_too(tmp_path):
    def trained(resume=None):
        model = Momentum()
        optimizer = torch.optim.SGD(model.query.parameters(), lr=0.1)
        config = {**tiny_config(tmp_path), "callbacks": ["EMA"]}
        trainer = tiny_trainer(config, model=model, optimizer=optimizer, resume=resume)
        trainer.train()
        return trainer

    straight = trained()
    saved = load_checkpoint(straight.checkpoint_dir / "checkpoint-epoch2.pth")["state_dict"]
    key, query = straight.model.key.weight, straight.model.query.weight
    assert torch.equal(saved["key.weight"], key) and not torch.equal(key, query)
    assert not torch.equal(saved["query.weight"], query)  # which is averaged
    resumed = trained(resume=straight.checkpoint_dir / "checkpoint-epoch1.pth")
    assert same(resumed.averaged_model.state_dict(), saved)


def test_an_average_that_cannot_be_saved_is_an_error_with_async_save_too(tmp_path, monkeypatch):
    trainer = trainer_with(tmp_path, spec("SWA", start=1), async_save=True)
    save = utils.runs.saver.save_checkpoint

    def full(state, path, *note):
        if path.name == "swa.pth":
            raise CheckpointError("the disk is full")
        save(state, path)

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer.train()


def test_with_nothing_left_to_train_nothing_is_averaged_or_set_aside(tmp_path):
    swa = spec("SWA", start=1)
    trainer = trainer_with(tmp_path, swa, epochs=4)
    trainer.train()
    before = sorted(path.name for path in trainer.checkpoint_dir.iterdir())
    again = trainer_with(tmp_path, swa, epochs=2, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    again.train()
    assert sorted(path.name for path in trainer.checkpoint_dir.iterdir()) == before


def test_swa_takes_part_in_a_run_of_one_epoch_and_keeps_to_its_limits(tmp_path):
    trainer = trainer_with(tmp_path, "SWA", epochs=1, limit_train_batches=2, limit_valid_batches=1)
    trainer.train()
    saved = load_checkpoint(trainer.checkpoint_dir / "swa.pth")["state_dict"]
    assert saved["1.num_batches_tracked"] == 2


def test_a_validation_before_the_first_update_after_a_resume_is_that_of_a_straight_run(tmp_path):
    def run(folder, epochs, resume=None):
        changes = {"accumulate": 3, "validate_every_steps": 2, "epochs": epochs}
        trainer = trainer_with(folder, spec("EMA", decay=0.9), resume=resume, description="", **changes)
        measured, measure = [], trainer._evaluate
        trainer._evaluate = lambda: measured.append(measure()) or measured[-1]
        trainer.train()
        return trainer, measured

    _, straight = run(tmp_path / "a", 3)
    first, before = run(tmp_path / "b", 2)
    _, after = run(tmp_path / "b", 3, resume=first.saver.newest)
    assert straight == before + after
