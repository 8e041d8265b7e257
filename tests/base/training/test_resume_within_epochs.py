"""Runs stopped by a signal within an epoch and resumed are equal, bit for bit, to runs that were left alone."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from forked import run_forked, start_forked

import trainer.trainer
import utils.runs.saver
from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from comparing.same import comparable_state, tensorboard_scalars
from helpers import PROJECT, TinyData, copy_project, run_here, same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import UserError
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.runs.run_folder import RunLock

STEPS = 15  # three epochs of five batches


pytestmark = pytest.mark.usefixtures("event_files_in_order")


def settings(**changes):
    return {"epochs": 3, "monitor": "min val_loss", "tensorboard": True, "log_step": 2, **changes}


def stopped_at(step, number=signal.SIGTERM):
    """A Trainer class that gets a signal while it trains on the batch of this number."""

    class Stopped(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == step:
                os.kill(os.getpid(), number)

    return Stopped


def stop_and_resume(folder, step, changes, status=143, second=None, **kwargs):
    """The trainer of a run that was stopped at the step and resumed with -r <run folder>."""
    first = tiny_trainer(tiny_config(folder, **changes), trainer_class=stopped_at(step), **kwargs)
    with pytest.raises(SystemExit) as ended:
        first.train()
    assert ended.value.code == status
    del ended  # with its frames it would keep the workers from being ended before the next ones start
    first.data_loader._iterator = first.valid_data_loader._iterator = None
    torch.rand(5)  # what runs in between must not matter
    np.random.rand(5)
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(tiny_config(folder, **changes), resume=newest, **{**kwargs, **(second or {})})
    resumed.train()
    return resumed


def results(trainer):
    """All that a run leaves: last and best checkpoint, metrics.csv, the scalars in TensorBoard but the rates."""
    saved = [comparable_state(trainer.checkpoint_dir / name) for name in ("checkpoint-epoch3.pth", "model_best.pth")]
    log = trainer.config.log_dir
    return {"saved": saved, "csv": (log / "metrics.csv").read_text(), "scalars": tensorboard_scalars(log)}


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """A function that returns the results of a run with these settings that nothing stops; it trains each once."""
    known = {}

    def results_of(changes, **kwargs):
        key = repr((changes, kwargs))
        if key not in known:
            straight = tiny_trainer(tiny_config(tmp_path_factory.mktemp("straight"), **changes), **kwargs)
            straight.train()
            known[key] = results(straight)
        return known[key]

    return results_of


def assert_same(left, trainer):
    right = results(trainer)
    assert left["csv"] == right["csv"] and left["scalars"] == right["scalars"] and left["scalars"]
    for one, other in zip(left["saved"], right["saved"], strict=True):
        for key in one:
            assert same(one[key], other[key]), key


def by_steps(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS)


def with_schedule_by_steps(config):
    return {**config, "lr_scheduler": {"type": "OneCycleLR", "interval": "step"}}


@pytest.mark.parametrize("step", range(1, STEPS))
def test_stop_after_any_batch(tmp_path, left_alone, step):
    changes = settings(accumulate=3, validate_every_steps=4, async_save=step % 2 == 0)
    assert_same(left_alone(changes), stop_and_resume(tmp_path, step, changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"len_epoch": 7},
        {"len_epoch": 3, "epochs": 3, "accumulate": 2},
        {"precision": "bf16"},
        {"clip_norm": 0.1, "validate_every_steps": 1},
        {"save_every_steps": 2, "keep_last": 1},
        {"on_nonfinite": "skip"},
        {"on_nonfinite": "rollback"},
    ],
)
def test_stop_in_other_settings(tmp_path, left_alone, changes):
    changes = settings(**changes)
    assert_same(left_alone(changes), stop_and_resume(tmp_path, 4, changes))


def test_stop_with_a_schedule_by_steps(tmp_path):
    def job(folder, **kwargs):
        return tiny_trainer(with_schedule_by_steps(tiny_config(folder, **settings())), schedule=by_steps, **kwargs)

    straight = job(tmp_path / "a")
    straight.train()
    first = job(tmp_path / "b", trainer_class=stopped_at(8))
    with pytest.raises(SystemExit):
        first.train()
    second = job(tmp_path / "b", resume=find_checkpoint(first.checkpoint_dir)[0])
    second.train()
    assert_same(results(straight), second)


class AugmentedInBatches(BaseDataLoader):
    """Balanced classes of a stratified fold, augmented a whole batch at a time."""

    def __init__(self, data, batch_size, shuffle, validation_split, num_workers):
        images, classes = data.features.view(50, 1, 2, 2), data.labels % 2
        plain = InMemoryDataset(images, data.labels, batch_transform=torch.nn.Flatten())
        shifted = InMemoryDataset(images, data.labels, batch_transform=[RandomShift(1, flip=True), torch.nn.Flatten()])
        by = {"fold": "2/5", "stratify": classes, "balance_classes": classes}
        super().__init__(shifted, batch_size, shuffle, 0, num_workers, valid_dataset=plain, **by)


@pytest.mark.parametrize("step", [1, 7, 13])
def test_stop_with_balanced_classes_folds_and_whole_batches_augmented(tmp_path, left_alone, step):
    straight = left_alone(settings(), loader_class=AugmentedInBatches)
    assert_same(straight, stop_and_resume(tmp_path, step, settings(), loader_class=AugmentedInBatches))


class Weighted(BaseDataLoader):
    """Single samples, drawn in proportion to weights."""

    def __init__(self, *args):
        super().__init__(*args, sampling_weights=[1.0 + index % 3 for index in range(50)])


def test_stop_with_weighted_samples(tmp_path, left_alone):
    straight = left_alone(settings(), loader_class=Weighted)
    assert_same(straight, stop_and_resume(tmp_path, 7, settings(), loader_class=Weighted))


@pytest.mark.parametrize("workers", [(0, 2), (2, 1), (2, 0)])
def test_number_of_workers_may_change_in_between(tmp_path, left_alone, workers):
    resumed = stop_and_resume(tmp_path, 7, settings(), num_workers=workers[0], second={"num_workers": workers[1]})
    assert_same(left_alone(settings()), resumed)


@pytest.mark.parametrize("during", [1, 2, 4, 5])
def test_stop_in_a_validation(tmp_path, monkeypatch, during):
    """Validations 1, 2, 4 and 5 are those after 3 steps, after the first epoch, after 6 and after 9."""
    changes = settings(validate_every_steps=3)
    evaluate, calls = trainer.trainer.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == during:
            os.kill(os.getpid(), signal.SIGUSR1)
        torch.rand(3)  # a validation that draws random numbers
        return evaluate(*args, **kwargs)

    def drawing(*args, **kwargs):
        torch.rand(3)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(trainer.trainer, "evaluate", drawing)
    straight = tiny_trainer(tiny_config(tmp_path / "c", **changes))
    straight.train()
    monkeypatch.setattr(trainer.trainer, "evaluate", interrupted)
    first = tiny_trainer(tiny_config(tmp_path / "b", **changes))
    with pytest.raises(SystemExit) as ended:
        first.train()
    assert ended.value.code == 138 and len(calls) == during
    second = tiny_trainer(tiny_config(tmp_path / "b", **changes), resume=find_checkpoint(first.checkpoint_dir)[0])
    second.train()
    assert_same(results(straight), second)


def test_first_ctrl_c_saves_and_the_second_ends_at_once(tmp_path):
    once = tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=stopped_at(2, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        once.train()
    assert (once.checkpoint_dir / "checkpoint-epoch1-batch2.pth").exists()

    class Impatient(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            os.kill(os.getpid(), signal.SIGINT)
            if self.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def _save_if_due(self):
            if self.step == 2:
                super()._save_if_due()

    self_asked = tiny_trainer(tiny_config(tmp_path / "b", **settings()), trainer_class=Impatient)
    self_asked.stop_signal.asks()
    with pytest.raises(KeyboardInterrupt):
        self_asked.train()
    assert not list(self_asked.checkpoint_dir.glob("*.pth"))


def test_a_loop_of_the_projects_own_is_stopped_where_it_is(tmp_path):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("not stopped")
            return {"loss": 1.0, "val_loss": 1.0}

    own = tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=Own)
    with pytest.raises(SystemExit) as ended:
        own.train()
    assert ended.value.code == 143
    assert [path.name for path in own.checkpoint_dir.glob("checkpoint*")] == ["checkpoint-epoch1.pth"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loop_of_the_projects_own_saves_nothing_of_a_later_moment_under_an_earlier_name(tmp_path):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            for data, target in self.data_loader:
                self.optim_step.step(self.criterion(self.model(data), target), len(target))
            if epoch == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"loss": 1.0, **{f"val_{k}": v for k, v in self._valid_epoch(epoch).items()}}

    own = tiny_trainer(tiny_config(tmp_path, **settings(epochs=5, save_period=2)), trainer_class=Own)
    with pytest.raises(SystemExit):
        own.train()
    assert [path.name for path in own.checkpoint_dir.glob("checkpoint*")] == ["checkpoint-epoch2.pth"]
    with pytest.raises(UserError, match="validate_every_steps"):

        class OwnValidation(Trainer):
            def _valid_epoch(self, epoch):
                return {}

        tiny_trainer(tiny_config(tmp_path, **settings(validate_every_steps=2)), trainer_class=OwnValidation)


def test_a_second_signal_waits_for_the_background_save(tmp_path, monkeypatch):
    save = utils.runs.saver.save_checkpoint

    def slow(state, path, *note):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        save(state, path)

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", slow)
    one = tiny_trainer(tiny_config(tmp_path, **settings(async_save=True)), trainer_class=stopped_at(3, signal.SIGUSR1))
    with pytest.raises(SystemExit):
        one.train()
    assert [path.name for path in one.checkpoint_dir.glob("*.pth")] == ["checkpoint-epoch1-batch3.pth"]


def test_other_accumulation_may_be_chosen_in_between(tmp_path):
    first = tiny_trainer(tiny_config(tmp_path, **settings(log_step=5)), trainer_class=stopped_at(8))
    with pytest.raises(SystemExit):
        first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    tiny_trainer(tiny_config(tmp_path, **settings(log_step=5, accumulate=4)), resume=newest).train()


def test_own_samplers_repeat_the_epoch(tmp_path, capsys):
    class OwnSampler(BaseDataLoader):
        def _split_sampler(self, split):
            return torch.utils.data.SubsetRandomSampler(range(40)), torch.utils.data.SubsetRandomSampler(range(40, 50))

    one = tiny_trainer(tiny_config(tmp_path, **settings(verbosity=1)), loader_class=OwnSampler)
    one.train()
    assert not one.resumes_within_epochs and "repeats that epoch" in capsys.readouterr().out
    assert one.data_loader.batch_indices(1, 1) == []


def test_best_model_survives_a_kill_between_the_two_files(tmp_path, monkeypatch):
    copies = []

    def killed(source, path):
        copies.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(utils.runs.saver, "copy_checkpoint", killed)
    one = tiny_trainer(tiny_config(tmp_path, **settings(async_save=False)))
    with pytest.raises(KeyboardInterrupt):
        one.train()
    assert copies == ["checkpoint-epoch1.pth"]
    assert [path.name for path in one.checkpoint_dir.glob("*.pth")] == ["model_best.pth"]


def test_resume_from_an_earlier_epoch_takes_nothing_from_the_later_ones(tmp_path):
    one = tiny_trainer(tiny_config(tmp_path, **settings()))
    one.train()
    before = {path.name: path.read_bytes() for path in one.checkpoint_dir.glob("*.pth")}
    for lr in (5.0, 1e-4):
        config = tiny_config(tmp_path, **settings())
        config["optimizer"]["args"]["lr"] = lr
        tiny_trainer(config, resume=one.checkpoint_dir / "checkpoint-epoch1.pth").train()
    after = [path.read_bytes() for path in one.checkpoint_dir.glob("*.pth")]
    assert all(content in after for content in before.values())


@pytest.mark.slow
def test_two_processes_cannot_train_one_run(tmp_path):
    one = tiny_trainer(tiny_config(tmp_path, **settings(epochs=1)))
    one.train()
    program = f"""
import sys
sys.path[:0] = {[str(PROJECT), str(PROJECT / "tests")]!r}
from helpers import *
from utils.errors import clean_exit
with clean_exit():
    tiny_trainer(tiny_config({str(tmp_path)!r}), resume={str(one.checkpoint_dir / "checkpoint-epoch1.pth")!r}).train()
"""
    assert "another process trains this run" in run_forked("-c", program, status=2).stderr


def test_checkpoints_within_epochs_are_made_and_only_the_newest_kept(tmp_path):
    one = tiny_trainer(tiny_config(tmp_path, **settings(save_every_steps=2)), trainer_class=stopped_at(9))
    with pytest.raises(SystemExit):
        one.train()
    names = {path.name for path in one.checkpoint_dir.glob("checkpoint*")}
    assert names == {"checkpoint-epoch1.pth", "checkpoint-epoch2-batch3.pth", "checkpoint-epoch2-batch4.pth"}


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("utils.runs.saver.time.monotonic", lambda: float(30 * next(now)))
    one = tiny_trainer(tiny_config(tmp_path, **settings(save_every_minutes=1, epochs=1)))
    one.train()
    assert [path.name for path in one.checkpoint_dir.glob("*batch*")]


class Stream(torch.utils.data.IterableDataset):
    """An endless stream of samples that knows where it is, if it is told to."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.position)
            self.position += 1
            yield torch.randn(4, generator=generator), torch.randint(3, (), generator=generator)


class StreamWithState(Stream):
    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class LoaderWithState:
    """A loader of a project's own, with a position."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return 5

    def __iter__(self):
        while self.position < 5:
            self.position += 1
            generator = torch.Generator().manual_seed(self.position)
            yield torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


@pytest.mark.parametrize("kind", ["dataset", "loader", "loader by iterations"])
def test_own_loaders_take_part_by_their_state(tmp_path, kind):
    changes = settings(monitor="off", **({} if kind == "loader" else {"len_epoch": 5}))

    def make(*_):
        if kind == "dataset":
            return torch.utils.data.DataLoader(StreamWithState(), batch_size=8)
        return LoaderWithState()

    def train(folder, stop=None):
        first = tiny_trainer(tiny_config(folder, **changes), trainer_class=stopped_at(stop or 99), loader_class=make)
        if not stop:
            first.train()
            return comparable_state(first.checkpoint_dir / "checkpoint-epoch3.pth")
        with pytest.raises(SystemExit):
            first.train()
        newest, _ = find_checkpoint(first.checkpoint_dir)
        second = tiny_trainer(tiny_config(folder, **changes), resume=newest, loader_class=make)
        second.train()
        return comparable_state(second.checkpoint_dir / "checkpoint-epoch3.pth")

    straight = train(tmp_path / "a")
    for stop in (2, 5, 8):
        resumed = train(tmp_path / str(stop), stop)
        for key in ("state_dict", "optimizer", "attributes", "rng"):
            assert same(straight[key], resumed[key]), (stop, key)


def test_loader_without_a_position_repeats_the_epoch_and_the_run_says_so_at_its_start(tmp_path, capsys):
    def make(*_):
        return torch.utils.data.DataLoader(TinyData(), batch_size=8, shuffle=True)

    changes = settings(monitor="off", verbosity=1)
    straight = tiny_trainer(tiny_config(tmp_path / "a", **changes), loader_class=make)
    straight.train()
    assert "repeats that epoch" in capsys.readouterr().out
    first = tiny_trainer(tiny_config(tmp_path / "b", **changes), loader_class=make, trainer_class=stopped_at(9))
    with pytest.raises(SystemExit):
        first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    assert newest.name == "checkpoint-epoch1.pth"
    second = tiny_trainer(tiny_config(tmp_path / "b", **changes), loader_class=make, resume=newest)
    second.train()
    left, right = (load_checkpoint(t.checkpoint_dir / "checkpoint-epoch3.pth") for t in (straight, second))
    assert same(left["state_dict"], right["state_dict"]) and same(left["rng"], right["rng"])
    with pytest.raises(UserError, match="save_every_steps"):
        tiny_trainer(tiny_config(tmp_path / "c", **settings(save_every_steps=2)), loader_class=make).train()


def test_changed_data_start_the_epoch_over(tmp_path, capsys):
    first = tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=stopped_at(7))
    with pytest.raises(SystemExit):
        first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    config = {**tiny_config(tmp_path, **settings(verbosity=1)), "data_loader": {"type": "X", "args": {"batch_size": 4}}}
    second = tiny_trainer(config, resume=newest)
    assert second.start_epoch == 2 and second.batches_done == 0
    second.train()
    assert "epoch 2 starts over" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["samples", "in memory"])
def test_resume_late_in_an_epoch_reads_no_more_than_what_is_left(tmp_path, dataset):
    read = []

    class Counting(TinyData):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    loader = BaseDataLoader(Counting(), 8, True, 0.2, 0)
    loader.set_epoch(1)
    list(loader)  # the first batch ever is read twice, to see whether it draws random numbers
    read.clear()
    loader.set_epoch(3, start_batch=4)
    list(loader)
    assert len(read) == 8
    if dataset == "in memory":
        memory = BaseDataLoader(InMemoryDataset(torch.arange(50.0), torch.arange(50)), 8, True, 0, 0)
        memory.set_epoch(3)
        whole = [batch[1].tolist() for batch in memory]
        memory.set_epoch(3, start_batch=4)
        assert [batch[1].tolist() for batch in memory] == whole[4:]
        assert [memory.batch_indices(3, i) for i in range(len(memory))] == whole


@pytest.mark.slow
def test_auto_starts_a_run_and_then_goes_on_with_it(tmp_path):
    project = copy_project(tmp_path / "project")
    command = ["train.py", "-c", "config.json", "-r", "auto", "--set", "trainer.len_epoch=3", "--set", "name=again"]
    run_here(*command, "--set", "trainer.epochs=1", cwd=project)
    run_here(*command, "--set", "trainer.epochs=2", cwd=project)
    done = run_here(*command, "--set", "trainer.epochs=2", cwd=project)
    assert "nothing left to train" in done.stdout + done.stderr
    (folder,) = project.glob("saved/models/again/*")
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint-epoch1.pth", "checkpoint-epoch2.pth"}
    assert len(json.loads((folder / "environment.json").read_text())) == 3
    run_here(*command, "--set", "name=another", "--set", "trainer.epochs=1", cwd=project)
    assert len(list(project.glob("saved/models/another/*"))) == 1
    done = run_here("train.py", "-r", "auto", cwd=project, status=2)
    assert "-r auto: needs a config" in done.stderr


@pytest.mark.slow
def test_auto_starts_no_second_run_beside_one_that_has_saved_nothing_yet(tmp_path):
    folder = tmp_path / "models/again/first"
    folder.mkdir(parents=True)
    command = ["train.py", "-c", "config.json", "-r", "auto", "--set", "name=again"]
    command += ["--set", f"trainer.save_dir={tmp_path}", "--check"]
    lock = RunLock(folder)
    assert "first: another process trains this run, and has saved nothing yet" in run_forked(*command, status=2).stderr
    del lock
    run_here(*command)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_signal_to_all_processes_of_a_run_with_workers_saves_and_ends_it(tmp_path, number, status):
    project = copy_project(tmp_path / "project")
    command = ["train.py", "-c", "config.json", "--set", "data_loader.args.num_workers=2"]
    command += ["--set", "trainer.log_step=21"]
    printed = tmp_path / "printed"
    with open(printed, "w") as file:
        process = start_forked(*command, cwd=project, output=file, errors=file)
    while "[21/" not in printed.read_text():
        assert process.is_alive(), printed.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    process.join(60)
    output = printed.read_text()
    assert process.exitcode == status, output
    assert "resume with: python train.py -r saved" in output and "Traceback" not in output
    (saved,) = project.glob("saved/models/*/*/checkpoint*")
    assert saved.name.startswith("checkpoint-epoch1-batch") and load_checkpoint(saved)["batch"] >= 21


def test_a_changed_loss_within_an_epoch_is_told(tmp_path, capsys):
    first = tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=stopped_at(7))
    with pytest.raises(SystemExit):
        first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    config = {**tiny_config(tmp_path, **settings(verbosity=1)), "loss": "nll_loss"}
    tiny_trainer(config, resume=newest).train()
    assert "epoch 2: its averages mix the loss and metrics before and after" in capsys.readouterr().out
