"""Several processes train as one does: the same samples in the same steps, the same numbers, one run folder."""

import itertools
import time
import types

import pytest
import torch
import torchmetrics
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from worlds import in_world, lines_of, results, rows_of, run_of, small_job, statuses, train

import base.training.saving as saving
import data_loader.data_loaders as data_module
import model.model as model_module
import utils.runs.saver as checkpoint_saver
from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.training.batch_stream import BatchStream
from base.training.evaluate import evaluate
from base.training.optim_step import OptimStep
from base.training.saving import SavePoints
from helpers import SHARDS
from model.metric import ConfusionMatrix, MacroF1
from trainer import Trainer
from utils import MetricTracker
from utils.distributed import messages
from utils.distributed.parallel import average_gradients, ddp
from utils.distributed.world import gather, joined, parallelize, part_of, part_of_batch, rank, world_size
from utils.runs.checkpoint import load_checkpoint
from utils.seed import seed_everything

pytestmark = pytest.mark.slow  # they start processes


def assert_same_run(folder, other, bit_for_bit=False):
    """The two runs logged the same numbers and came to the same weights, to float tolerance or bit for bit."""
    for row, expected in zip(rows_of(folder), rows_of(other), strict=True):
        assert row == (expected if bit_for_bit else pytest.approx(expected, rel=1e-5))
    files = [run_of(place) / f"checkpoint-epoch{len(rows_of(folder))}.pth" for place in (folder, other)]
    states = [load_checkpoint(file)["state_dict"] for file in files]
    for name, weight in states[0].items():
        tolerance = {"rtol": 0, "atol": 0} if bit_for_bit else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(weight, states[1][name], **tolerance)


def in_folders(*names):
    for path in names:
        path.mkdir()


JOBS = {
    "plain": {},
    "with windows and clipping": {"trainer": {"accumulate": 2, "clip_norm": 0.5}},
    "of a sum": {
        "loss": {"type": "torch.nn.CrossEntropyLoss", "args": {"reduction": "sum"}},
        "optimizer": {"args": {"lr": 0.01}},
    },
    "that ignores a class": {
        "samples": 37,
        "batch_size": 5,
        "loss": {"type": "torch.nn.CrossEntropyLoss", "args": {"ignore_index": 1}},
        "metrics": [{"type": "accuracy", "args": {"ignore_index": 1}}],
        "trainer": {"accumulate": 2},
    },
    "by iterations": {"trainer": {"len_epoch": 4}},
    "of a last batch smaller than the world": {"samples": 37, "batch_size": 5},
    "that skip what is not finite, of such a batch": {
        "samples": 37,
        "batch_size": 5,
        "trainer": {"on_nonfinite": "skip"},
    },
    "with frozen layers": {
        "callbacks": [{"type": "Freeze", "args": {"params": "layers.0*", "until": 1}}],
        "parallel": {"args": {"find_unused_parameters": True}},
    },
    "of weighted averages": {"callbacks": [{"type": "EMA", "args": {"decay": 0.9}}]},
}


@pytest.mark.parametrize("job", JOBS)
def test_worlds_of_all_sizes_come_to_the_same_numbers(tmp_path, job):
    folders = [tmp_path / str(size) for size in (1, 2, 3)]
    in_folders(*folders)
    for size, folder in enumerate(folders, start=1):
        results(in_world(size, train, "-c", small_job(folder, **JOBS[job])))
    assert_same_run(folders[1], folders[0])
    assert_same_run(folders[2], folders[0])


class Recorded(torch.utils.data.Dataset):
    """Samples that are their own indices."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor(index % 3)


def samples_read(num_workers):
    """[[samples of a step that are this process's], ...] of two epochs."""
    with joined({}):
        torch.manual_seed(3)
        loader = BaseDataLoader(Recorded(17), 5, True, 0.0, num_workers)
        steps = []
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            for batch_idx, (data, _) in enumerate(loader):
                part = part_of_batch(loader, batch_idx)
                steps.append(data[: len(data) if part is None else part.own, 0].tolist())
        return steps


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_step_has_the_same_samples_in_the_same_order_in_every_world(num_workers):
    (alone,) = results(in_world(1, samples_read, 0))
    assert sorted(itertools.chain(*alone[:4])) == list(range(17))
    for size in (2, 3):
        steps = zip(*results(in_world(size, samples_read, num_workers)), strict=True)
        assert [list(itertools.chain(*parts)) for parts in steps] == alone


def evaluated(sizes):
    """{size: (values, confusion matrix, samples seen)} of validations over as many samples, in batches of 7."""
    values = {}
    with joined({}):
        model = torch.nn.Linear(1, 3)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.5], [-0.1], [0.1]]))
            model.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
        for size in sizes:
            seen = MacroF1(3), ConfusionMatrix(3)
            seen[0].__name__, seen[1].__name__ = "f1", "table"
            metrics = [*seen, index_sum]
            tracker = MetricTracker.of(metrics)
            loader = BaseDataLoader(Recorded(size), 7, False, 0.0, 0)
            result = evaluate(model, torch.nn.functional.cross_entropy, metrics, loader, torch.device("cpu"), tracker)
            values[size] = result, tracker.tables["table"]
    return values


def index_sum(output, target):
    return target.double().mean()


def test_validation_counts_every_sample_once_whatever_the_world():
    sizes = range(1, 41)
    (alone,) = results(in_world(1, evaluated, sizes))
    for size in (2, 3):
        for of_rank in results(in_world(size, evaluated, sizes)):
            for samples in sizes:
                values, table = of_rank[samples]
                assert table == alone[samples][1] and sum(map(sum, table)) == samples
                assert values["f1"] == alone[samples][0]["f1"]
                assert values == pytest.approx(alone[samples][0], rel=1e-6)


def merged_by_torchmetrics():
    """What a metric of torchmetrics that keeps counts comes to, one process of three having seen nothing."""
    from torchmetrics.classification import MulticlassF1Score

    with joined({}):
        metric = MulticlassF1Score(num_classes=3, average="macro")
        metric.__name__ = "f1"
        tracker = MetricTracker.of([metric])
        generator = torch.Generator().manual_seed(1)
        output, target = torch.randn(20, 3, generator=generator), torch.randint(3, (20,), generator=generator)
        mine = slice(None) if world_size() == 1 else (slice(0, 13), slice(13, 20), slice(0, 0))[rank()]
        if len(target[mine]):
            tracker.over_epoch.update(output[mine], target[mine])
        return tracker.result()["f1"]


def test_metrics_of_torchmetrics_are_merged_exactly():
    pytest.importorskip("torchmetrics")
    (alone,) = results(in_world(1, merged_by_torchmetrics))
    assert results(in_world(3, merged_by_torchmetrics)) == [alone] * 3


def gradients_sent(accumulate):
    """(bytes that this process sent in 12 batches, its gradient in the end)."""
    with joined({}):
        torch.manual_seed(0)
        model = ddp(torch.nn.Linear(50, 20), torch.device("cpu"))
        sent = []

        def count(state, bucket):
            sent.append(bucket.buffer().nbytes)
            return allreduce_hook(None, bucket)

        model.register_comm_hook(None, count)
        step = OptimStep(torch.optim.SGD(model.parameters(), lr=0.1), accumulate=accumulate, model=model)
        data = torch.randn(12, 8, 50, generator=torch.Generator().manual_seed(rank()))
        for batch_idx, batch in enumerate(data):
            step.begin(part_of(16), last=batch_idx == 11)
            step.step(model(batch).square().mean(), 8, last=batch_idx == 11)
        return sum(sent), gather(model.module.weight)


def test_gradients_travel_once_a_window():
    every, windows = (results(in_world(2, gradients_sent, accumulate)) for accumulate in (1, 4))
    assert every[0][0] == 4 * windows[0][0] > 0
    weights = windows[0][1]
    assert torch.equal(weights[0], weights[1])


def without_last_batch(*arguments):
    """python train.py, in which every epoch's last batch is left out as a rollback does it."""
    batches = Trainer._batches

    def but_the_last(trainer, epoch):
        trainer.skipped_batches.add((epoch, trainer.len_epoch - 1))
        return batches(trainer, epoch)

    Trainer._batches = but_the_last
    train(*arguments)


def test_a_window_that_ends_early_has_the_gradients_of_all_processes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    in_folders(*folders)
    for size, folder in enumerate(folders, start=1):
        results(in_world(size, without_last_batch, "-c", small_job(folder, trainer={"accumulate": 3})))
    assert_same_run(folders[1], folders[0])


def by_own_gradients(averages, *arguments):
    """python train.py with a step that writes the gradients itself, and may average them over the processes."""

    def train_batch(trainer, batch_idx, data, target):
        output = trainer.model(data)
        loss = trainer.criterion(output, target)
        parameters = list(trainer.model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        if averages:
            average_gradients(parameters)
        trainer.optimizer.step()
        trainer._after_update(batch_idx)
        return loss, output

    Trainer._train_batch = train_batch
    train(*arguments)


def test_gradients_that_a_step_writes_itself_are_averaged_or_refused(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "apart"]
    in_folders(*folders)
    jobs = [small_job(folder, samples=40, batch_size=14) for folder in folders]  # in equal parts
    for size, job in enumerate(jobs[:2], start=1):
        results(in_world(size, by_own_gradients, True, "-c", job))
    assert_same_run(folders[1], folders[0])
    ends = in_world(2, by_own_gradients, False, "-c", jobs[2])
    assert statuses(ends) == [2, 2]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert line.startswith("error: parallel: the processes' weights differ, as 'layers.0.0.weight', so they no")


STOPPED = {"trainer": {"epochs": 3, "save_every_steps": 1, "accumulate": 2, "log_step": 3}}


def until(step, *arguments):
    """python train.py, in which the last process asks for the end after so many steps."""
    count_batch = Trainer._count_batch

    def count(trainer, batch_idx):
        count_batch(trainer, batch_idx)
        if trainer.step == step and rank() == world_size() - 1:
            trainer.stop("a test wants it")

    Trainer._count_batch = count
    train(*arguments)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, 3), (2, 1), (2, 3), (1, 2)])
def test_a_run_stopped_within_an_epoch_goes_on_in_the_same_world_or_another(tmp_path, before, after):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    in_folders(whole, parts)
    results(in_world(before, train, "-c", small_job(whole, **STOPPED)))
    results(in_world(before, until, 4, "-c", small_job(parts, **STOPPED)))
    checkpoints = sorted(path.name for path in run_of(parts).glob("checkpoint-epoch2-*.pth"))
    assert checkpoints, list(run_of(parts).iterdir())
    results(in_world(after, train, "-r", run_of(parts), "--set", "description=goes on"))
    assert_same_run(parts, whole, bit_for_bit=before == after)


class Carried(torch.nn.Module):
    """A sum of the data that its process has trained on."""

    def __init__(self, own_by_process):
        super().__init__()
        self.own_by_process = own_by_process
        self.register_buffer("total", torch.zeros(()))


def carrying(own_by_process, *arguments):
    """python train.py, in which each process carries a sum of its own from batch to batch; returns it."""
    construct, compute_loss, made = Trainer.__init__, Trainer.compute_loss, []

    def with_sum(trainer, *args, **kwargs):
        construct(trainer, *args, **kwargs)
        trainer.carried = Carried(own_by_process)
        made.append(trainer.carried)

    def add(trainer, data, target):
        trainer.carried.total += data.sum()
        return compute_loss(trainer, data, target)

    Trainer.__init__, Trainer.compute_loss = with_sum, add
    train(*arguments)
    return made[0].total.item()


@pytest.mark.parametrize("own_by_process", [True, False])
def test_a_module_that_differs_between_the_processes_is_saved_by_each_or_told_of(tmp_path, own_by_process):
    job = small_job(tmp_path, trainer={"save_every_steps": 2})
    ends = in_world(2, carrying, own_by_process, "-c", job)
    straight = results(ends)
    within = min(run_of(tmp_path).glob("checkpoint-epoch2-*.pth"))
    resumed = results(in_world(2, carrying, own_by_process, "-r", within))
    assert resumed[0] == straight[0]
    assert (resumed[1] == straight[1]) is own_by_process
    assert ("self.carried: differs between the processes" in "".join(end.output for end in ends)) is not own_by_process


class OwnLoop(Trainer):
    def _train_epoch(self, epoch):
        self.model.train()
        self.train_metrics.reset()
        for data, target in self.data_loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(data), target)
            loss.backward()
            self.optimizer.step()
            self.train_metrics.update("loss", loss.item(), n=len(target))
            self.writer.add_scalar("loss", loss.item())
        return {"loss": self.train_metrics.avg("loss"), "rank": rank()}


def own_loop(config):
    """What the trainer of a project with a loop of its own logged, and who wrote."""
    from parse_config import PARTS, ConfigParser
    from utils.files import read_json

    config = ConfigParser(read_json(config), parts=PARTS)
    with joined(config.config):
        seed_everything(5)
        model = parallelize(config.init_obj("arch", model_module), config, torch.device("cpu"))
        loader = config.init_obj("data_loader", data_module)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = OwnLoop(model, torch.nn.CrossEntropyLoss(), [], optimizer, config, torch.device("cpu"), loader)
        if rank() == world_size() - 1:
            trainer.logger.warning("only one of the processes says this")
        trainer.logger.warning("all of them say this")
        trainer.train()
    return trainer.saved_log


def test_a_loop_of_a_project_s_own_trains_in_several_processes_too(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    in_folders(*folders)
    trainer = {"monitor": "off"}
    (alone,) = results(in_world(1, own_loop, small_job(folders[0], samples=80, batch_size=14, trainer=trainer)))
    first, second = results(in_world(2, own_loop, small_job(folders[1], samples=80, batch_size=14, trainer=trainer)))
    assert first == second and first["rank"] == 0
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert_same_run(folders[1], folders[0])


def test_there_is_one_log_with_what_other_processes_warn_of(tmp_path):
    config = small_job(tmp_path, trainer={"monitor": "off", "tensorboard": True, "epochs": 1})
    ends = in_world(2, own_loop, config)
    results(ends)
    (log,) = (tmp_path / "small" / "log" / "small").iterdir()
    lines = (log / "info.log").read_text().splitlines()
    assert [line.partition(": ")[2] for line in lines if "only one" in line] == [
        "rank 1: only one of the processes says this"
    ]
    assert [line.partition(": ")[2] for line in lines if "all of them" in line] == ["all of them say this"]
    assert sum("done: 1 epoch" in line for line in lines) == 1
    assert len(list(log.glob("*tfevents*"))) == 1
    assert "epoch 1/1" in ends[0].output and "epoch 1/1" not in ends[1].output


def forward_of_its_own():
    """What a model that assigns its forward gives before and after it is wrapped."""
    with joined({}):
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 2)
        model.forward = lambda data: data * 0 + 7
        return model(torch.ones(1, 2)).tolist(), ddp(model, torch.device("cpu"))(torch.ones(1, 2)).tolist()


def test_a_model_keeps_a_forward_that_it_has_assigned():
    for before, after in results(in_world(2, forward_of_its_own)):
        assert before == after == [[7.0, 7.0]]


def sparse_embedding():
    with joined({}):
        model = ddp(torch.nn.Embedding(5, 2, sparse=True), torch.device("cpu"))
        model(torch.tensor([rank()])).sum().backward()
        return model.module.weight.grad.to_dense().tolist()


def test_sparse_gradients_are_exchanged_too():
    first, second = results(in_world(2, sparse_embedding))
    assert first == second and first[:2] == [[0.5, 0.5], [0.5, 0.5]]


def shifted_images():
    """[this process's images of each step] of two epochs, shifted at random a whole batch at a time."""
    with joined({}):
        torch.manual_seed(3)
        images = torch.arange(17 * 36, dtype=torch.float32).view(17, 1, 6, 6)
        dataset = InMemoryDataset(images, torch.arange(17), batch_transform=RandomShift(2, flip=True))
        loader = BaseDataLoader(dataset, 5, True, 0.0, 0)
        steps = []
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            for batch_idx, (data, _) in enumerate(loader):
                part = part_of_batch(loader, batch_idx)
                steps.append(data[: len(data) if part is None else part.own])
        return steps


@pytest.mark.parametrize("size", [2, 3])
def test_augmentation_of_whole_batches_is_that_of_one_process(size):
    (alone,) = results(in_world(1, shifted_images))
    for whole, *parts in zip(alone, *results(in_world(size, shifted_images)), strict=True):
        assert torch.equal(torch.cat(parts), whole)


class WithOldSampler(BaseDataLoader):
    """The sampler that a subclass of the old template's form returns."""

    def _train_sampler(self, indices):
        return torch.utils.data.SubsetRandomSampler(indices)


def with_old_sampler():
    with joined({}):
        BatchStream(WithOldSampler(Recorded(17), 5, True, 0.0, 0))


def test_a_sampler_that_would_draw_another_order_in_each_process_is_refused():
    ends = in_world(2, with_old_sampler)
    assert [end.status for end in ends] == [2, 2]
    assert "data_loader: its SubsetRandomSampler draws another order in each of the 2 processes" in ends[0].output


def test_what_batch_norm_cannot_do_with_a_part_is_refused_and_what_it_does_is_told(tmp_path):
    arch = {"type": "mlp.ShrinkingMlp", "args": {"in_features": 4, "num_classes": 3, "n_layers": 2}}
    ends = in_world(2, train, "-c", small_job(tmp_path, arch=arch, samples=50, batch_size=16))  # 35 leave 3
    assert [end.status for end in ends] == [2, 2]
    told = "the last batch has 3 samples for 2 processes, and batch norm needs two in each"
    assert told in ends[0].output
    ends = in_world(2, train, "-c", small_job(tmp_path, name="wide", arch=arch, samples=50, batch_size=12))
    results(ends)
    assert ends[0].output.count("batch norm: each process computes statistics of its own part") == 1


@SHARDS
def test_what_batch_norm_cannot_do_with_a_part_is_refused_with_shards(tmp_path):
    arch = {"type": "mlp.ShrinkingMlp", "args": {"in_features": 4, "num_classes": 3, "n_layers": 2}}
    ends = in_world(
        2, train, "-c", small_job(tmp_path, arch=arch, samples=50, batch_size=16, parallel={"type": "fsdp"})
    )
    assert "the last batch has 3 samples for 2 processes, and batch norm needs two in each" in ends[0].output


def plateaus(*arguments):
    """python train.py, in which each process validates with a number of its own; returns its learning rate."""
    trainers, init = [], Trainer.__init__
    Trainer.__init__ = lambda self, *args, **kwargs: (init(self, *args, **kwargs), trainers.append(self))[0]
    Trainer._valid_epoch = lambda self, epoch: {"loss": float(epoch) * (1 - 2 * rank())}
    train(*arguments)
    return trainers[0].optimizer.param_groups[0]["lr"]


def test_a_schedule_follows_the_first_process_s_value_in_all(tmp_path):
    schedule = {"type": "ReduceLROnPlateau", "args": {"patience": 0}}
    trainer = {"monitor": "min val_loss", "epochs": 3}
    first, second = results(in_world(2, plateaus, "-c", small_job(tmp_path, lr_scheduler=schedule, trainer=trainer)))
    assert first == second < 0.1


def counted_saves(*arguments):
    """How often python train.py has saved within epochs, because the time for it had come."""
    saves, save = [], SavePoints.save_within_epoch
    SavePoints.save_within_epoch = lambda self: (saves.append(self.trainer.step), save(self))[0]
    seconds, a_step = [0.0], 0.02 + 0.005 * rank()  # by a clock that goes on by steps, and faster in one process
    saving.time = checkpoint_saver.time = types.SimpleNamespace(
        monotonic=lambda: seconds[0], perf_counter=time.perf_counter
    )
    messages._ROUND_SECONDS = 0.0  # so that they agree after each step
    count = Trainer._count_batch
    Trainer._count_batch = lambda self, i: (seconds.append(seconds.pop() + a_step), count(self, i))[1]
    train(*arguments)
    return saves


def test_a_save_that_is_due_by_the_clock_is_done_once(tmp_path):
    trainer = {"save_every_minutes": 0.3 / 60, "epochs": 40, "save_period": 100, "monitor": "off"}
    first, second = results(in_world(2, counted_saves, "-c", small_job(tmp_path, trainer=trainer)))
    assert first == second and len(first) >= 2
    assert all(later - earlier > 5 for earlier, later in itertools.pairwise(first)), first


def test_a_run_goes_back_to_an_earlier_checkpoint_and_its_points_are_set_aside_once(tmp_path):
    config = small_job(tmp_path, trainer={"tensorboard": True, "epochs": 3})
    results(in_world(2, train, "-c", config))
    first, second = in_world(2, train, "-r", run_of(tmp_path) / "checkpoint-epoch1.pth")
    assert (first.status, second.status) == (0, 0), [first, second]
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3]


def with_nan(*arguments):
    """python train.py, in which one training sample is nan."""
    getitems = InMemoryDataset.__getitems__

    def getitem(dataset, indices, seeder=None):
        data, target = getitems(dataset, indices, seeder)
        data[[i for i, index in enumerate(indices) if index == 7]] = float("nan")
        return data, target

    InMemoryDataset.__getitems__ = getitem
    train(*arguments)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_leave_a_bad_batch_out_in_all_processes(tmp_path, accumulate):
    metrics = ["accuracy", {"type": "MacroF1", "args": {"num_classes": 3}}]
    trainer = {"on_nonfinite": "skip", "monitor": "off", "accumulate": accumulate}
    folders = [tmp_path / str(size) for size in (1, 2, 3)]
    in_folders(*folders)
    for size, folder in enumerate(folders, start=1):
        results(in_world(size, with_nan, "-c", small_job(folder, metrics=metrics, trainer=trainer)))
    assert_same_run(folders[1], folders[0])
    assert_same_run(folders[2], folders[0])


class Lonely:
    """A metric over the epoch that cannot add what another process has seen."""

    __name__ = "lonely"

    def update(self, output, target):
        self.number = len(target)

    def compute(self):
        return self.number

    def reset(self):
        self.number = 0

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def with_lonely_metric():
    with joined({}):
        MetricTracker.of([Lonely()])


class MeanOfBatches(torchmetrics.Metric):
    """A state that torchmetrics merges as if each side had seen one batch."""

    full_state_update = False

    def __init__(self, how="mean"):
        super().__init__()
        self.add_state("share", torch.tensor(0.0), dist_reduce_fx=how)

    def update(self, output, target):
        self.share += target.float().mean()

    def compute(self):
        return self.share


UNMERGEABLE = {
    "for want of all at once": (torchmetrics.PearsonCorrCoef, "full_state_update"),
    "of two": (lambda: torchmetrics.MinMaxMetric(torchmetrics.MeanSquaredError()), "it holds further metrics"),
    "of a mean": (MeanOfBatches, "its 'share' is a mean"),
    "of a pile": (lambda: MeanOfBatches(None), "its 'share' has no dist_reduce_fx"),
}


def with_metric_of_torchmetrics(kind):
    metric = UNMERGEABLE[kind][0]()
    metric.__name__ = "it"
    with joined({}):
        MetricTracker.of([metric])


@pytest.mark.parametrize("kind", UNMERGEABLE)
def test_what_torchmetrics_cannot_merge_is_refused_before_training(kind):
    ends = in_world(2, with_metric_of_torchmetrics, kind)
    assert [end.status for end in ends] == [2, 2]
    assert UNMERGEABLE[kind][1] in "".join(end.output for end in ends)


def test_a_metric_that_cannot_be_merged_is_refused_before_training():
    ends = in_world(2, with_lonely_metric)
    assert [end.status for end in ends] == [2, 2]
    assert "metrics.0: Lonely has no merge_state(other)" in ends[0].output
