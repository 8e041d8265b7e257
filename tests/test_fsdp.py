"""A sharded model trains as a whole one does, and its checkpoints fit any number of processes."""

import importlib
import math
import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.fsdp import FSDPModule
from worlds import in_world, results, rows_of, run_of, small_job, train

import utils.distributed.shards
from base.training.nonfinite import NonFiniteError, NonFiniteWatch, finite_state, require_finite
from base.training.optim_step import OptimStep
from helpers import PROJECT, SHARDS, same
from utils import UserError
from utils.distributed.parallel import fsdp, refuse_settings
from utils.distributed.shards import local, require_shardable, whole
from utils.distributed.world import joined, own_samples, part_of, rank, world_size
from utils.files import read_json
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.seed import seed_everything

pytestmark = [pytest.mark.slow, SHARDS]  # slow: they start processes

ADAM = {"type": "Adam", "args": {"lr": 0.01}}


def trained(folder, processes, *flags, parallel="fsdp", **sections):
    """The run folder of a small job that so many processes train."""
    folder.mkdir()
    parallel = {"type": parallel} if isinstance(parallel, str) else parallel
    results(in_world(processes, train, "-c", small_job(folder, parallel=parallel, optimizer=ADAM, **sections), *flags))
    return run_of(folder)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_a_sharded_model_comes_to_the_numbers_of_a_whole_one(tmp_path, size):
    one, several = trained(tmp_path / "one", 1), trained(tmp_path / "several", size)
    for before, after in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "several"), strict=True):
        assert before == pytest.approx(after, rel=1e-5)
    before, after = (load_checkpoint(run / "checkpoint-epoch2.pth") for run in (one, several))
    assert (several / "checkpoint-epoch2.pth").is_file()
    assert_close(before["state_dict"], after["state_dict"])
    assert before["arch"] == after["arch"] == "TableMlp"


def saved_within(folder, processes, **changes):
    """The run folder of a job stopped within its second epoch, in the middle of a window of two batches."""
    changes = {"trainer": {"save_every_steps": 4, "accumulate": 2, "clip_norm": 0.5}, **changes}
    return trained(folder, processes, **changes)


def continued(run, processes, *flags, checkpoint="checkpoint-epoch2-batch1.pth"):
    """What the run's last checkpoint holds after so many processes have gone on from an earlier one."""
    path = run / checkpoint
    results(in_world(processes, train, "-r", path, *flags))
    return load_checkpoint(run / "checkpoint-epoch2.pth")


def test_a_resume_in_the_middle_of_a_window_comes_to_the_same_bits(tmp_path):
    run = saved_within(tmp_path / "run", 2)
    straight = load_checkpoint(run / "checkpoint-epoch2.pth")
    again = continued(run, 2)
    assert same(straight["state_dict"], again["state_dict"])
    assert same(straight["optimizer"], again["optimizer"])
    assert same(straight["rng"], again["rng"])
    assert len(straight["optimizer"]["state"]) == len(straight["state_dict"])


@pytest.mark.parametrize(
    "before, now",
    [("fsdp 2", "fsdp 1"), ("fsdp 2", "fsdp 3"), ("fsdp 3", "ddp 2"), ("ddp 2", "fsdp 2"), ("ddp 1", "fsdp 2")],
)
def test_a_run_goes_on_with_other_processes_from_the_middle_of_a_window(tmp_path, before, now):
    (was, processes), (becomes, more) = before.split(), now.split()
    run = saved_within(tmp_path / "run", int(processes), parallel=was)
    straight = load_checkpoint(run / "checkpoint-epoch2.pth")
    again = continued(run, int(more), "--set", f"parallel.type={becomes}")
    assert again["step"] == straight["step"]
    assert_close(straight["state_dict"], again["state_dict"])
    for number, state in straight["optimizer"]["state"].items():
        assert_close(state, again["optimizer"]["state"][number])
    assert again["log"]["loss"] == pytest.approx(straight["log"]["loss"], rel=1e-5)


def command(script, *arguments):
    """To be called in a world of one: python <script> with these arguments."""
    sys.argv = [script, *map(str, arguments)]
    os.chdir(PROJECT)
    runpy.run_path(script, run_name="__main__")


def test_commands_take_a_sharded_checkpoint_and_the_one_file_made_of_it(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 1})
    sharded, whole, weights = run / "checkpoint-epoch1.pth", tmp_path / "one.pth", tmp_path / "w.safetensors"
    results(in_world(1, command, "utils/runs/export.py", run, whole))
    results(in_world(1, command, "utils/runs/export.py", sharded, weights))
    one = load_checkpoint(whole)
    assert same(one, load_checkpoint(sharded))
    assert "shards" not in one and same(dict(load_checkpoint(weights)["state_dict"]), dict(one["state_dict"]))
    results(in_world(1, command, "test.py", "-r", sharded, "--split", "valid"))
    results(in_world(1, command, "test.py", "-r", whole, "--split", "valid"))
    of_shards = read_json(run / "test_results.json")["checkpoint-epoch1.pth"]["valid"]
    assert of_shards == read_json(tmp_path / "test_results.json")["one.pth"]["valid"]
    logged = rows_of(tmp_path / "run")[-1]
    assert of_shards["loss"] == pytest.approx(logged["val_loss"], rel=1e-5)


def folders_of_shards(run):
    return sorted(path.name for path in run.iterdir() if path.is_dir())


def test_a_damaged_or_missing_shard_makes_the_checkpoint_before_the_newest(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 3, "keep_last": 2, "monitor": "off"})
    before, newest = (run / f"checkpoint-epoch{n}.pth" for n in (2, 3))
    assert len(folders_of_shards(run)) == 2  # the first epoch's went with its file
    (shards,) = (name for name in folders_of_shards(run) if name.startswith("checkpoint-epoch3"))
    assert find_checkpoint(run) == (newest, [])
    shard = next((run / shards).glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found, (reason,) = find_checkpoint(run)
    assert found == before and str(shard) in reason and "damaged" in reason
    shard.unlink()
    found, (reason,) = find_checkpoint(run)
    assert found == before and "no such file" in reason
    shard.write_bytes(content)
    listed = run / shards / "sha256.json"
    listed.write_text(listed.read_text().replace("0", "1"))
    assert find_checkpoint(run)[0] == before


def test_shards_live_as_long_as_a_file_names_them(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 2, "monitor": "min val_loss"})
    assert (run / "model_best.pth").exists() and len(folders_of_shards(run)) == 2  # shared with the best model
    (run / "left-over-0.shards").mkdir()
    (run / ".killed-0.shards.tmp").mkdir()
    results(in_world(2, train, "-r", run / "checkpoint-epoch1.pth"))
    aside = load_checkpoint(run / "overtaken-checkpoint-epoch2.pth")
    assert same(aside["state_dict"], load_checkpoint(run / "checkpoint-epoch2.pth")["state_dict"])
    assert len(folders_of_shards(run)) == 3


def test_a_checkpoint_of_any_name_keeps_its_shards(tmp_path):
    best = {"type": "SaveTopK", "args": {"monitor": "max val_größe", "k": 2}}
    metric, settings = {"type": "accuracy", "name": "größe"}, {"monitor": "off", "save_period": 9, "epochs": 3}
    run = trained(tmp_path / "run", 2, metrics=[metric], callbacks=[best], trainer=settings)
    saved = sorted(run.glob("top-val_größe-epoch*.pth"))
    assert len(saved) == 2 and all(load_checkpoint(path)["state_dict"] for path in saved)


def whole_state(model):
    return {name: whole(value.detach()) for name, value in model.state_dict().items()}


def net():
    seed_everything(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2), torch.nn.Linear(2, 2))


def stepped(model, optimizer, rows, **settings):
    """(the model's state, the norm of the last gradient) after updates with this process's parts of batches."""
    step = OptimStep(optimizer, model=model, **settings)
    for batch in rows.split([5, 5, 3, 5]):
        part = part_of(len(batch)) if world_size() > 1 else None
        step.begin(part)
        own = batch[own_samples(list(range(len(batch))))]
        step.step(model(own).square().mean(), len(own))
    step.finish()
    return whole_state(model), step.norm


KINDS = {
    "Adadelta": {}, "Adagrad": {}, "Adam": {}, "AdamW": {}, "Adamax": {}, "ASGD": {}, "NAdam": {}, "RAdam": {},
    "RMSprop": {"momentum": 0.9}, "SGD": {"momentum": 0.9},
}  # fmt: skip


def optimizers_come_to():
    """{optimizer: what is refused, or the greatest difference to one process}."""
    rows = torch.randn(18, 5, generator=torch.Generator().manual_seed(1))
    found = {}
    with joined({}):
        for name in [*KINDS, "Adafactor", "Muon", "Rprop", "SGD fused"]:
            kind, _, fused = name.partition(" ")
            arguments = {"lr": 0.05, **KINDS.get(kind, {}), **({"fused": True} if fused else {})}
            model = fsdp(net(), torch.device("cpu"))
            parameters = [p for p in model.parameters() if kind != "Muon" or p.dim() == 2]
            optimizer = getattr(torch.optim, kind)(parameters, **arguments)
            try:
                require_shardable(optimizer, "optimizer", kind)
            except UserError as error:
                found[name] = str(error)
                continue
            settings = {"accumulate": 2, "clip_norm": 0.05, "clip_value": 0.03}
            found[name] = stepped(model, optimizer, rows, **settings)
    return found


def test_optimizers_come_to_the_same_or_are_refused_in_one_line():
    rows = torch.randn(18, 5, generator=torch.Generator().manual_seed(1))
    (found, other) = results(in_world(2, optimizers_come_to))
    assert same(found, other)
    for name, arguments in KINDS.items():
        model = net()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05, **arguments)
        expected, norm = stepped(model, optimizer, rows, accumulate=2, clip_norm=0.05, clip_value=0.03)
        assert type(norm) is type(found[name][1]) is torch.Tensor
        torch.testing.assert_close(norm, found[name][1])
        assert_close(expected, found[name][0])
    for name in ("Adafactor", "Muon", "Rprop", "SGD fused"):
        assert found[name].startswith(f"optimizer.type: {name.split()[0]}") and "Adam" in found[name]
        assert len(found[name].splitlines()) == 1


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.layers = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in "ab"])
        self.last.weight = self.first.weight

    def forward(self, rows):
        rows = self.first(rows)
        for layer in self.layers:
            rows = layer(rows)
        return self.last(rows)


def units_of(arguments):
    """(names of the units, names in the state_dict, calls of a layer in a step, its gradients)."""
    with joined({}):
        torch.manual_seed(0)
        model, calls, kinds = Tied(), [], []
        model.layers[1][0].register_forward_hook(lambda *_: calls.append(1))
        model.layers[0][0].register_forward_hook(lambda module, *_: kinds.append(module.weight.dtype))
        try:
            model = fsdp(model, torch.device("cpu"), **arguments)
        except UserError as error:
            return str(error)
        output = model(torch.ones(2, 4))
        output.sum().backward()
        gradients = {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
        units = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
        return units, list(model.state_dict()), len(calls), gradients, kinds, output.dtype


def test_units_are_the_parts_that_share_no_parameter():
    units, names, calls, gradients, kinds, _ = results(in_world(2, units_of, {}))[0]
    assert units == ["", "layers.0", "layers.1"] and calls == 1 and kinds == [torch.float32]
    again = results(in_world(2, units_of, {"units": ["layers.1"], "checkpoint_activations": ["layers.*"]}))[0]
    assert again[0] == ["", "layers.1"] and again[1] == names and again[2] == 2  # computed once more
    assert_close(again[3], gradients)
    low = results(in_world(2, units_of, {"mixed_precision": "bf16", "reshard_after_forward": False}))[0]
    assert low[4] == [torch.bfloat16] and low[5] == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in low[3].values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(low[3][name], gradient, rtol=0.05, atol=0.05)
    (error, _) = results(in_world(2, units_of, {"units": ["first"]}))
    assert error == "units: the rest and first share a parameter; leave out both, which then are the rest"
    (error, _) = results(in_world(2, units_of, {"units": ["layer.1"]}))
    assert error == "units: no module is called 'layer.1'; is 'layers.1' meant?"


def poisoned(where):
    """What a trainer's safeguards say when a number in the second process's shard alone is infinite."""
    with joined({}):
        model = fsdp(net(), torch.device("cpu"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = whole_state(model)
        if where == "parameter":
            if rank() == 1:
                local(model[0].weight.detach()).fill_(math.inf)
            try:
                require_finite(finite_state(model), "now")
            except NonFiniteError as error:
                return str(error)
        step = OptimStep(optimizer, watch=NonFiniteWatch("stop"), skip_nonfinite=True, model=model)
        step.begin(part_of(4))
        handle = model[0].weight.register_post_accumulate_grad_hook(infinite_in_the_second)
        step.step(model(torch.ones(2, 5)).sum(), 2)
        handle.remove()
        skipped = same(before, whole_state(model))
        step.begin(part_of(4))
        step.step(model(torch.ones(2, 5)).sum(), 2)
        return step.watch.state_dict()["found"], skipped, same(before, whole_state(model))


def infinite_in_the_second(parameter):
    if rank() == 1:
        local(parameter.grad).fill_(math.inf)


def test_what_is_not_finite_in_one_shard_counts_in_all_processes():
    assert results(in_world(2, poisoned, "gradient")) == [([True, False], True, False)] * 2
    named = "now: 0.weight of the model hold nan or infinity; not saved"
    assert results(in_world(2, poisoned, "parameter")) == [named] * 2


@pytest.mark.parametrize("on_nonfinite", ["skip", "rollback"])
def test_a_faulty_sample_is_left_out_as_in_one_process(tmp_path, on_nonfinite):
    runs = []
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        config = small_job(
            tmp_path / name, parallel={"type": "fsdp"}, trainer={"on_nonfinite": on_nonfinite, "monitor": "off"}
        )
        data = dict(np.load(tmp_path / name / "small.npz"))
        data["rows"][30] = np.inf
        np.savez(tmp_path / name / "small.npz", **data)
        results(in_world(processes, train, "-c", config))
        runs.append(load_checkpoint(run_of(tmp_path / name) / "checkpoint-epoch2.pth"))
    one, two = runs
    assert_close(one["state_dict"], two["state_dict"])
    assert one["left_out"] == two["left_out"] and bool(one["left_out"]) == (on_nonfinite == "rollback")


def test_callbacks_and_histograms_work_on_shards(tmp_path):
    callbacks = [
        {"type": "Freeze", "args": {"params": ["*.bias"], "until": 1}},
        {"type": "SamplePredictions", "args": {"n": 4}},
        "GradientNorm",
        {"type": "SaveTopK", "args": {"monitor": "min val_loss", "k": 1}},
    ]
    runs = [
        trained(tmp_path / name, processes, callbacks=callbacks, trainer={"tensorboard": True, "epochs": 3})
        for name, processes in (("one", 1), ("two", 2))
    ]
    assert_close(*(load_checkpoint(run / "checkpoint-epoch3.pth")["state_dict"] for run in runs))
    shown = [events(folder) for folder in (tmp_path / "one", tmp_path / "two")]
    assert shown[0] == shown[1] and any("parameters/" in tag for tag in shown[0])
    assert len(list(runs[1].glob("top-*.pth"))) == 1 and len(folders_of_shards(runs[1])) == 3


def events(folder):
    (log,) = (folder / "small" / "log" / "small").iterdir()
    tags = EventAccumulator(str(log)).Reload().Tags()
    return {*tags["histograms"], *tags["scalars"], *tags["tensors"]} - {"steps_per_sec/train", "steps_per_sec/valid"}


@pytest.mark.parametrize("samples, batch_size", [(7, 3), (10, 3), (21, 4)])
def test_uneven_batches_come_to_the_same(tmp_path, samples, batch_size):
    runs = []
    for name, processes in (("one", 1), ("three", 3)):
        (tmp_path / name).mkdir()
        job = small_job(tmp_path / name, samples=samples, batch_size=batch_size, parallel={"type": "fsdp"})
        results(in_world(processes, train, "-c", job))
        runs.append(load_checkpoint(run_of(tmp_path / name) / "checkpoint-epoch2.pth"))
    assert_close(runs[0]["state_dict"], runs[1]["state_dict"])
    assert runs[0]["log"] == pytest.approx(runs[1]["log"], rel=1e-5)


REFUSED = {
    "callbacks.0: EMA needs a whole model": {"callbacks": ["EMA"]},
    "callbacks.0: SWA needs a whole model": {"callbacks": ["SWA"]},
    "trainer.async_save: shards are saved": {"trainer": {"async_save": True}},
    "trainer.channels_last: a sharded model": {"trainer": {"channels_last": True}},
    "parallel.args.units: no module is called": {"parallel": {"type": "fsdp", "args": {"units": ["nothing"]}}},
    "optimizer.type: Adafactor is not known to work on sharded parameters": {
        "optimizer": {"type": "Adafactor", "args": {}}
    },
}


@pytest.mark.parametrize("beginning", REFUSED)
def test_what_shards_cannot_do_is_one_line(tmp_path, beginning):
    job = small_job(tmp_path, **{"parallel": {"type": "fsdp"}, "optimizer": ADAM, **REFUSED[beginning]})
    first, second = in_world(2, train, "-c", job)
    assert (first.status, second.status) == (2, 2)
    (line,) = [line for line in first.output.splitlines() if "error: " in line]
    assert line.startswith(f"error: {beginning}")
    assert not (tmp_path / "small").exists()


MOMENTS = {  # of rank 0, in the second save: what it calls last, and the epoch of the checkpoint that is left
    "shards": ("utils.distributed.sharded_checkpoint", "_write", 1),
    "sums": ("utils.distributed.sharded_checkpoint", "_complete", 1),
    "rename": ("utils.distributed.sharded_checkpoint", "flush_folder", 1),
    "file": ("utils.runs.saver", "save_checkpoint", 1),
    "prune": ("utils.runs.saver", "prune_checkpoints", 2),
    "delete": ("utils.runs.checkpoint", "delete_unnamed", 2),
}


def train_and_die(module, name, config):
    """To be called in a world: train, but the first process dies at the second epoch's call of the function."""
    module = importlib.import_module(module)
    function, calls = getattr(module, name), []

    def dying(*arguments, **keywords):
        calls.append(name)
        if rank() == 0 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    setattr(module, name, dying)
    train("-c", config)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_while_it_saves_can_go_on(tmp_path, moment):
    module, name, epoch = MOMENTS[moment]
    trainer = {"keep_last": 1, "epochs": 2, "monitor": "off"}
    job = small_job(tmp_path, parallel={"type": "fsdp"}, optimizer=ADAM, trainer=trainer)
    first, second = in_world(2, train_and_die, module, name, job)
    assert first.status == -signal.SIGKILL and second.status != 0
    run = run_of(tmp_path)
    assert find_checkpoint(run) == (run / f"checkpoint-epoch{epoch}.pth", [])
    assert load_checkpoint(run / f"checkpoint-epoch{epoch}.pth")["epoch"] == epoch
    results(in_world(2, train, "-r", run, "--set", "trainer.epochs=3"))
    assert find_checkpoint(run) == (run / "checkpoint-epoch3.pth", [])
    assert len(folders_of_shards(run)) == 1 and not list(run.glob(".*.tmp"))


class Uneven(torch.nn.Module):
    """Its parameters and buffers, of several kinds, are those of its process."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5)])
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        for parameter in self.parameters():
            parameter.data.add_(rank())
        self.layers[1].running_mean.fill_(rank())
        self.register_buffer("mask", torch.tensor([True, False]) ^ bool(rank()))
        self.register_buffer("turn", torch.tensor([[1j, 2.0], [3.0, 4.0]]).t() * (rank() + 1))
        self.register_buffer("none", torch.empty(0))


def begins_with():
    with joined({}):
        torch.manual_seed(0)
        return whole_state(fsdp(Uneven(), torch.device("cpu")))


def test_all_processes_begin_with_the_weights_and_buffers_of_the_first():
    torch.manual_seed(0)
    expected = dict(Uneven().state_dict())
    for state in results(in_world(2, begins_with)):
        assert same(expected, state)


class OwnSgd(torch.optim.SGD):
    pass


class DeclaredSgd(torch.optim.SGD):
    works_on_shards = True


def own_optimizers():
    """{class: what is refused}."""
    with joined({}):
        parameters = list(fsdp(net(), torch.device("cpu")).parameters())
        found = {}
        for kind in (OwnSgd, DeclaredSgd):
            try:
                require_shardable(kind(parameters, lr=0.1), "optimizer", kind.__name__)
                found[kind.__name__] = ""
            except UserError as error:
                found[kind.__name__] = str(error)
        require_shardable(OwnSgd(net().parameters(), lr=0.1), "optimizer", "OwnSgd")  # nothing is sharded
        return found


def test_an_optimizer_of_ones_own_has_to_declare_that_it_works_on_shards():
    for found in results(in_world(2, own_optimizers)):
        assert found["OwnSgd"].startswith("optimizer.type: OwnSgd is not known to work on sharded parameters; use Adam")
        assert found["DeclaredSgd"] == ""


def test_scaled_gradients_are_refused_for_shards():
    with pytest.raises(UserError, match=r"trainer\.precision: 'fp16' is not there for sharded models"):
        refuse_settings({"precision": "fp16"})


def threads_left(*arguments):
    """To be called in a world: how many of torch's threads for messages are left after the run."""
    train(*arguments)
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count("pt_gloo_runloop")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list a process's threads")
def test_no_thread_is_left_that_could_abort_a_finished_process(tmp_path):
    """One that lets go of a tensor while Python ends takes the process along."""
    job = small_job(tmp_path, parallel={"type": "fsdp"}, optimizer=ADAM)
    assert results(in_world(2, threads_left, "-c", job)) == [0, 0]


def test_without_the_package_of_its_shards_it_says_so(monkeypatch):
    monkeypatch.setattr(utils.distributed.shards, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install safetensors"):
        fsdp(net(), torch.device("cpu"))
