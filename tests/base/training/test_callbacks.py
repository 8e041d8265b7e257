"""Callbacks of the config: called at their moments, saved with the run, and the built-in ones."""

import copy
import itertools
import math
import time

import pytest
import torch

import data_loader.data_loaders
import trainer.callbacks
from base import BaseCallback, BaseDataLoader
from base.base_callback import HOOKS
from helpers import TinyData, changed, metrics_rows, run_here, same, tiny_config, tiny_model, tiny_trainer
from trainer import Trainer
from utils import UserError
from utils.runs.checkpoint import find_checkpoint, load_checkpoint


def config(folder, *callbacks, **changes):
    return {**tiny_config(folder, **changes), "callbacks": list(callbacks)}


def spec(kind, **args):
    return {"type": kind, "args": args}


def scripted(values):
    class Scripted(Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 0.5, "val_loss": values[epoch - 1]}

    return Scripted


def finished(values, folder, *callbacks, **changes):
    job = config(folder, *callbacks, **{"epochs": len(values), "monitor": "off", **changes})
    done = tiny_trainer(job, trainer_class=scripted(values))
    done.train()
    return done


@pytest.fixture
def own(monkeypatch):
    """Let a test's own callback be named in a config."""

    def add(callback):
        callback.__module__ = "trainer.callbacks"
        monkeypatch.setattr(trainer.callbacks, callback.__name__, callback, raising=False)

    return add


class Diary(BaseCallback):
    """Notes when it was called; its state is how often."""

    notes: list = []  # noqa: RUF012

    def __init__(self, name="a"):
        self.name, self.count = name, 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def noting(hook):
    def method(self, trainer, *arguments):
        self.count += 1
        Diary.notes.append((self.name, hook, trainer.epoch, trainer.batches_done))

    return method


for _hook in HOOKS:
    setattr(Diary, _hook, noting(_hook))


@pytest.fixture
def notes(own):
    own(Diary)
    Diary.notes = []
    return Diary


class SecondSet(BaseDataLoader):
    def __init__(self, count):
        super().__init__(TinyData(jitter=0), 7, shuffle=False, validation_split=0, num_workers=0, samples=range(count))


MONITORED = {"monitor": "max few_accuracy", "also_logged": ["few_accuracy"]}


def test_a_second_validation_set_is_logged_by_name_and_may_be_monitored(tmp_path, monkeypatch):
    monkeypatch.setattr(data_loader.data_loaders, "SecondSet", SecondSet, raising=False)
    args = {"name": "few", "data_loader": spec("SecondSet", count=9)}
    trainer = tiny_trainer(config(tmp_path, spec("ValidateOn", **args), **MONITORED))
    trainer.train()
    last, data = metrics_rows(trainer)[-1], TinyData(jitter=0)
    with torch.no_grad():
        output = trainer.model.eval()(data.features[:9])
    assert float(last["few_accuracy"]) == (output.argmax(1) == data.labels[:9]).double().mean()
    assert float(last["few_loss"]) == pytest.approx(torch.nn.functional.cross_entropy(output, data.labels[:9]).item())
    without = tiny_trainer(tiny_config(tmp_path / "without"))
    without.train()
    assert same(without.model.state_dict(), trainer.model.state_dict())

    with pytest.raises(UserError, match=r"^callbacks.0.args.name: got 'few'; it should be another word in each"):
        tiny_trainer(config(tmp_path, *[spec("ValidateOn", **args)] * 2)).train()
    rare = tiny_trainer(config(tmp_path, spec("ValidateOn", **args, every_epochs=2), epochs=3))
    rare.train()
    assert [bool(row["few_loss"]) for row in metrics_rows(rare)] == [False, True, True]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "val"}, r"^callbacks.0.args.name: .* a word such as"),
        (
            {"every_epochs": 2},
            r"^callbacks.0.args.every_epochs: got 2; trainer.monitor needs",
        ),
        ({"data_loader": {"type": "Nothing"}}, r"^callbacks.0.args.data_loader.type: .* has no 'Nothing'"),
        ({"data_loader": spec("SecondSet", cuont=3)}, r"^callbacks.0.args.data_loader.args.cuont: no such"),
    ],
)
def test_a_second_validation_set_that_cannot_be_is_refused_before_the_run(tmp_path, monkeypatch, args, message):
    monkeypatch.setattr(data_loader.data_loaders, "SecondSet", SecondSet, raising=False)
    given = {"name": "few", "data_loader": spec("SecondSet", count=9), **args}
    with pytest.raises(UserError, match=message):
        tiny_trainer(config(tmp_path, spec("ValidateOn", **given), **MONITORED)).train()
    assert not any(tmp_path.iterdir())


def test_hooks_are_called_at_their_moments_in_the_order_of_the_list(tmp_path, notes):
    tiny_trainer(config(tmp_path, spec("Diary", name="a"), spec("Diary", name="b"), epochs=1)).train()
    steps = [("on_step_end", 1, i + 1) for i in range(5)]
    moments = [("on_train_start", 1, 0), *steps, ("on_valid_end", 1, 5), ("on_epoch_end", 1, 0), ("on_train_end", 2, 0)]
    assert notes.notes == [(name, *moment) for moment in moments for name in "ab"]


def test_on_error_comes_before_the_error(tmp_path, notes):
    failing = tiny_trainer(config(tmp_path, "Diary"), criterion=lambda output, target: output)
    with pytest.raises(UserError, match="loss"):
        failing.train()
    assert [note[1] for note in notes.notes] == ["on_train_start", "on_error"]


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_states_survive_a_restart_anywhere(tmp_path, notes, stop_at):
    class Stops(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == stop_at:
                self.stop("enough")

    job = (spec("Diary"), spec("EarlyStopping", monitor="min val_loss"), spec("SaveTopK", monitor="min loss", k=1))
    straight = tiny_trainer(config(tmp_path / "a", *job))
    straight.train()
    first = tiny_trainer(config(tmp_path / "b", *job), trainer_class=Stops)
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(changed(config(tmp_path / "b", *job)), resume=newest)
    resumed.train()
    left, right = (load_checkpoint(t.checkpoint_dir / "checkpoint-epoch2.pth") for t in (straight, resumed))
    for key in ("state_dict", "optimizer", "rng", "log", "monitor_best"):
        assert same(left[key], right[key]), key
    left, right = (state["attributes"]["_callbacks"] for state in (left, right))
    assert left["EarlyStopping"] == right["EarlyStopping"] and left["SaveTopK"] == right["SaveTopK"]
    assert right["Diary"]["count"] == left["Diary"]["count"] + 1  # the second start


def test_a_callback_may_add_to_what_an_epoch_logs(tmp_path, own):
    class Adds(BaseCallback):
        def on_epoch_end(self, trainer, log):
            log["twice"] = 2 * log["val_loss"]

    own(Adds)
    done = finished([1.0, 2.0], tmp_path, "Adds", monitor="max twice")
    assert (done.config.log_dir / "metrics.csv").read_text().splitlines()[-1].endswith("4.0")
    assert load_checkpoint(done.checkpoint_dir / "model_best.pth")["epoch"] == 2


@pytest.mark.parametrize(
    ("values", "args", "epochs"),
    [
        ([3, 2, 2, 2, 1], {"patience": 2}, 4),
        ([3, 2, 1.95, 1.9, 1.0], {"patience": 2, "min_delta": 0.2}, 4),
        ([3, 2.9, 2.8, 0.5, 0.4], {"patience": 3, "baseline": 1.0}, 3),
        ([3, 2, 1, 0.5], {"patience": 3, "target": 1}, 3),
        ([math.nan, math.nan, 1], {"patience": 2}, 2),
        ([1, math.nan, 0.5, 0.4], {"patience": 2}, 4),
    ],
)
def test_early_stopping(tmp_path, values, args, epochs):
    done = finished(values, tmp_path, spec("EarlyStopping", monitor="min val_loss", **args))
    assert len((done.config.log_dir / "metrics.csv").read_text().splitlines()) == 1 + epochs
    assert (done.checkpoint_dir / f"checkpoint-epoch{epochs}.pth").exists()


def test_a_run_that_stopped_early_does_not_go_on(tmp_path, capsys):
    early = spec("EarlyStopping", monitor="max val_loss", patience=2)
    done = finished([3, 2, 1, 5], tmp_path, early)
    again = config(tmp_path, early, epochs=4, monitor="off", verbosity=1)
    newest, _ = find_checkpoint(done.checkpoint_dir)
    tiny_trainer(again, resume=newest, trainer_class=scripted([9] * 9)).train()
    assert "no better val_loss for 2 epochs" in capsys.readouterr().out
    assert newest.name == "checkpoint-epoch3.pth" and find_checkpoint(done.checkpoint_dir)[0] == newest


def test_the_target_is_looked_for_within_epochs_too(tmp_path):
    early = spec("EarlyStopping", monitor="min val_loss", target=1e9)
    done = tiny_trainer(config(tmp_path, early, validate_every_steps=2))
    done.train()
    assert done.step == 2 and [path.name for path in done.checkpoint_dir.glob("checkpoint*")] == [
        "checkpoint-epoch1-batch2.pth"
    ]


def tops(done):
    return sorted(path.name for path in done.checkpoint_dir.glob("top*"))


def test_the_best_k_epochs_are_kept_whatever_else_is(tmp_path):
    top = spec("SaveTopK", monitor="min val_loss", k=2)
    done = finished([5, 3, 4, math.nan, 1, 2, 9], tmp_path, top, save_period=100)
    assert tops(done) == ["top-val_loss-epoch5.pth", "top-val_loss-epoch6.pth"]
    assert load_checkpoint(done.checkpoint_dir / "top-val_loss-epoch5.pth")["epoch"] == 5
    assert [path.name for path in done.checkpoint_dir.glob("checkpoint*")] == ["checkpoint-epoch7.pth"]


def test_the_best_of_overtaken_epochs_are_set_aside(tmp_path):
    top = spec("SaveTopK", monitor="min val_loss", k=1)
    done = finished([3, 2, 1], tmp_path, top)
    assert tops(done) == ["top-val_loss-epoch3.pth"]
    again = config(tmp_path, top, epochs=3, monitor="off")
    tiny_trainer(again, resume=done.checkpoint_dir / "checkpoint-epoch1.pth", trainer_class=scripted([9] * 3)).train()
    assert (done.checkpoint_dir / "overtaken-top-val_loss-epoch3.pth").exists()
    assert tops(done) == ["top-val_loss-epoch1.pth"]


def test_the_best_before_the_epoch_gone_back_to_are_brought_back_or_forgotten(tmp_path, capsys):
    top = spec("SaveTopK", monitor="min val_loss", k=2)
    done = finished([5, 6, 3, 2, 1], tmp_path, top)
    assert tops(done) == ["top-val_loss-epoch4.pth", "top-val_loss-epoch5.pth"]
    (done.checkpoint_dir / "checkpoint-epoch1.pth").unlink()
    again = config(tmp_path, top, epochs=3, monitor="off", verbosity=1)
    back = done.checkpoint_dir / "checkpoint-epoch2.pth"
    tiny_trainer(again, resume=back, trainer_class=scripted([5, 6, 9])).train()
    assert tops(done) == ["top-val_loss-epoch2.pth", "top-val_loss-epoch3.pth"]
    assert load_checkpoint(done.checkpoint_dir / "top-val_loss-epoch2.pth")["epoch"] == 2
    told = capsys.readouterr().out
    assert "top-val_loss: epoch 2: restored\n" in told
    assert "top-val_loss: epoch 1: no longer counted, since its checkpoint is gone\n" in told


def test_a_new_run_keeps_the_best_of_its_own_epochs(tmp_path):
    top = spec("SaveTopK", monitor="min val_loss", k=1)
    done = finished([1, 2], tmp_path, top)
    again = config(tmp_path, top, epochs=3, monitor="off")
    resume = done.checkpoint_dir / "checkpoint-epoch2.pth"
    new = tiny_trainer(again, resume=resume, new_run=True, trainer_class=scripted([0, 0, 9]))
    new.train()
    assert new.checkpoint_dir != done.checkpoint_dir and tops(new) == ["top-val_loss-epoch3.pth"]


def test_the_time_limit_saves_within_the_epoch_and_counts_all_restarts(tmp_path, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            clock[0] += 10

    limit = spec("TimeLimit", max_time="00:01:10")
    job = config(tmp_path, limit, epochs=9, verbosity=1)
    first = tiny_trainer(job, trainer_class=Slow)
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    assert newest.name == "checkpoint-epoch2-batch2.pth"
    told = capsys.readouterr().out
    assert (
        "training stops: the time limit of 00:01:10 is reached\n" in told
        and f"train.py -r {first.checkpoint_dir} --set" in told
    )
    tiny_trainer(job, resume=newest, trainer_class=Slow).train()
    assert find_checkpoint(first.checkpoint_dir)[0] == newest
    job["callbacks"] = [spec("TimeLimit", max_time="00:01:30")]
    tiny_trainer(job, resume=newest, trainer_class=Slow).train()
    assert find_checkpoint(first.checkpoint_dir)[0].name == "checkpoint-epoch2-batch4.pth"


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (spec("EarlyStopping", monitor="min val_loss", patience=-1), r"callbacks.0.args.patience: got -1"),
        (spec("EarlyStopping", monitor="val_loss"), r"callbacks.0.args.monitor: got 'val_loss'"),
        (spec("EarlyStopping", monitor="min val_loss", min_delta=-1.0), "min_delta: got -1.0"),
        (spec("SaveTopK", monitor="min val_loss", k=0), "k: got 0"),
        (spec("TimeLimit", max_time="5 minutes"), "max_time: got '5 minutes'"),
        (spec("TimeLimit", max_time="00:99:00"), "max_time: got '00:99:00'"),
    ],
)
def test_values_that_cannot_be_are_refused_before_there_is_a_run(tmp_path, callback, told):
    with pytest.raises(UserError, match=told):
        tiny_trainer(config(tmp_path, callback))
    assert not list(tmp_path.iterdir())


def test_mistakes_in_the_section_are_found_by_the_check(tmp_path):
    wrong = [
        "--set",
        'callbacks=[{"type":"EarlyStoping"},{"type":"SaveTopK","args":{"monitor":"min val_los"}},{"type":"TimeLimit"}]',
    ]
    told = run_here("train.py", "-c", "config.json", "--check", *wrong, status=2).stderr
    assert "callbacks.0.type: " in told and "did you mean 'EarlyStopping'?" in told
    assert "callbacks.1.args.monitor: nothing called 'val_los' is logged; did you mean 'val_loss'?" in told
    assert "callbacks.2.args.max_time" in told


@pytest.mark.slow
def test_a_real_job_trains_and_resumes_with_callbacks(tmp_path):
    section = """[{"type": "SaveTopK", "args": {"monitor": "max val_accuracy", "k": 1}},
                  {"type": "EarlyStopping", "args": {"monitor": "min val_loss", "target": 100}}]"""
    job = [
        "--set",
        "name=job",
        "--set",
        f"callbacks={section}",
        "--set",
        "trainer.epochs=3",
        "--set",
        "trainer.len_epoch=5",
    ]
    done = run_here("train.py", "-c", "config.json", *job, "--set", f"trainer.save_dir={tmp_path}")
    assert "and 100 was the target" in done.stdout
    (folder,) = (tmp_path / "models/job").iterdir()
    assert (folder / "top-val_accuracy-epoch1.pth").exists() and not (folder / "checkpoint-epoch2.pth").exists()
    resumed = run_here("train.py", "-r", folder, "--set", "callbacks=[]")
    assert "epoch 3/3" in resumed.stdout and "changed since: callbacks" in resumed.stdout


def weights_at_epochs_ends(folder, *callbacks, **changes):
    """[{name: tensor}] before training and after each epoch."""
    done = tiny_trainer(config(folder, *callbacks, **changes))
    seen = [copy.deepcopy(done.model.state_dict())]
    finish = done._finish_epoch
    done._finish_epoch = lambda *a, **k: (seen.append(copy.deepcopy(done.model.state_dict())), finish(*a, **k))
    done.train()
    return done, seen


def moves(seen, name):
    return [not torch.equal(before[name], after[name]) for before, after in itertools.pairwise(seen)]


@pytest.mark.parametrize(
    ("args", "moving"),
    [
        ({"until": 2}, [False, False, True, True]),
        ({"until": "50%"}, [False, False, True, True]),
        ({"start": "5 steps", "until": "3 epochs"}, [True, False, False, True]),
        ({"start": "16 samples"}, [True, False, False, False]),
        ({}, [False, False, False, False]),
    ],
)
def test_parameters_are_frozen_for_their_epochs(tmp_path, args, moving):
    _, seen = weights_at_epochs_ends(tmp_path, spec("Freeze", params=["0.*"], **args), epochs=4)
    assert moves(seen, "0.weight") == moving
    assert moves(seen, "3.weight") == [True] * 4


@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_frozen_run_resumes_to_the_same_bits(tmp_path, step):
    freeze = spec("Freeze", params="0.*", until="1 epoch")
    straight, _ = weights_at_epochs_ends(tmp_path / "a", freeze)

    class Stops(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == step:
                self.stop("enough")

    first = tiny_trainer(config(tmp_path / "b", freeze), trainer_class=Stops)
    first.train()
    resumed = tiny_trainer(changed(config(tmp_path / "b", freeze)), resume=first.saver.newest)
    resumed.train()
    assert same(straight.model.state_dict(), resumed.model.state_dict())


def test_what_the_model_itself_fixes_is_not_thawed(tmp_path):
    model = tiny_model()
    model[3].bias.requires_grad_(False)
    tiny_trainer(config(tmp_path, spec("Freeze", params="3.*", until=1)), model=model).train()
    assert not model[3].bias.requires_grad and model[3].weight.requires_grad


@pytest.mark.parametrize(
    ("callbacks", "told"),
    [
        ([spec("Freeze", params="conv*")], r"callbacks.0.args.params: no parameter is called 'conv\*'"),
        ([spec("Freeze", params="*")], r"callbacks.0.args.params: '\*' freezes all parameters"),
        ([spec("Freeze", params="*", start=1)], r"callbacks.0.args.params: '\*' freezes all parameters"),
        ([spec("Freeze", params="0.*", start=3, until=2)], "callbacks.0.args.until: got 2; it should be later than"),
        ([spec("Freeze", params="0.*", until="x")], "callbacks.0.args.until: got 'x'; a duration is such as"),
    ],
)
def test_freezing_that_cannot_be_is_refused_before_there_is_a_run(tmp_path, callbacks, told):
    with pytest.raises(UserError, match=told):
        tiny_trainer(config(tmp_path, *callbacks)).train()
    assert not list(tmp_path.iterdir())


def test_freezing_the_last_that_trains_is_refused(tmp_path):
    both = [spec("Freeze", params=["0.*", "1.*"]), spec("Freeze", params="3.*")]
    with pytest.raises(UserError, match=r"callbacks.1.args.params: '3.\*' leaves nothing to train in epoch 1"):
        tiny_trainer(config(tmp_path, *both)).train()


def test_freezing_the_last_that_trains_later_on_stops_with_all_saved(tmp_path):
    both = [spec("Freeze", params=["0.*", "1.*"]), spec("Freeze", params="3.*", start=1)]
    stopped = tiny_trainer(config(tmp_path, *both, epochs=3))
    stopped.train()
    assert "leaves nothing to train in epoch 2" in stopped.stop_reason
    assert (stopped.checkpoint_dir / "checkpoint-epoch1.pth").exists()


def test_a_rollback_forgets_what_was_to_be_saved(tmp_path):
    done = tiny_trainer(config(tmp_path, on_nonfinite="rollback", epochs=1))
    count, fell = done._count_batch, []

    def once_nan(batch_idx):
        count(batch_idx)
        if done.step == 3 and not fell:
            fell.append(done.save_as("poisoned.pth"))
            done.train_metrics.update("loss", torch.tensor(math.nan))
            done.nonfinite.batches.append(2)

    done._count_batch = once_nan
    done.train()
    assert fell and not (done.checkpoint_dir / "poisoned.pth").exists()


def test_thawed_parameters_train_with_momentum_that_others_have_already(tmp_path):
    freeze = spec("Freeze", params="0.*", until=1)
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    done = tiny_trainer(config(tmp_path, freeze), model=model, optimizer=optimizer)
    before = model[0].weight.detach().clone()
    done.train()
    assert not torch.equal(model[0].weight, before)


def test_a_rollback_into_an_earlier_epoch_freezes_again(tmp_path):
    frozen = []

    class Falls(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            frozen.append((self.epoch, not self.model[0].weight.requires_grad))
            if self.epoch == 2 and not self.skipped_batches:
                self.train_metrics.update("loss", torch.tensor(math.nan))
                self.nonfinite.batches.append(batch_idx)

    freeze = spec("Freeze", params="0.*", until=1)
    job = config(tmp_path, freeze, on_nonfinite="rollback", save_period=3, epochs=2)
    tiny_trainer(job, trainer_class=Falls).train()
    assert len(frozen) > 10 and all(is_frozen == (epoch == 1) for epoch, is_frozen in frozen)


def test_two_averages_at_once_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"callbacks.1: EMA: another callback averages the weights already"):
        tiny_trainer(config(tmp_path, "EMA", "EMA")).train()
