import shutil

import pytest
import torch

import base.training.precision
from base.training.precision import apply_switches, autocast, fused_option, grad_scaler
from helpers import run, same, tiny_config, tiny_trainer
from utils import UserError
from utils.config.schema import TrainerSettings
from utils.runs.checkpoint import load_checkpoint
from utils.runs.weights import load_optimizer

CPU = torch.device("cpu")


def convolutional():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 2, 2)), torch.nn.Conv2d(1, 4, 2), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )


def trained(tmp_path, name, **switches):
    trainer = tiny_trainer(tiny_config(tmp_path / name, epochs=2, **switches), model=convolutional())
    trainer.train()
    return trainer


def test_channels_last_and_bf16_compute_the_same_up_to_rounding(tmp_path):
    plain = trained(tmp_path, "plain")
    last = trained(tmp_path, "last", channels_last=True)
    half = trained(tmp_path, "half", precision="bf16")
    assert last.model[1].weight.is_contiguous(memory_format=torch.channels_last)
    for left, middle, right in zip(*(t.model.parameters() for t in (plain, last, half)), strict=True):
        assert right.dtype == torch.float32
        assert torch.allclose(left, middle, atol=1e-6) and torch.allclose(left, right, atol=0.05)
    assert not same(plain.model.state_dict(), half.model.state_dict())


def test_bf16_is_used_for_training_and_validation_alike(tmp_path):
    seen = set()
    model = convolutional()

    def note(module, _, output):
        if len(output) > 2:  # not the two samples of the model's summary
            seen.add((module.training, output.dtype))

    model[3].register_forward_hook(note)
    tiny_trainer(tiny_config(tmp_path, epochs=1, precision="bf16"), model=model).train()
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}


@pytest.mark.parametrize(
    "switches", [{"channels_last": True}, {"precision": "bf16"}, {"accumulate": 3, "clip_norm": 1.0}]
)
def test_a_resume_with_switches_equals_a_straight_run(tmp_path, switches):
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=3, **switches), model=convolutional())
    straight.train()
    checkpoint = straight.checkpoint_dir / "checkpoint-epoch1.pth"
    expected = load_checkpoint(straight.checkpoint_dir / "checkpoint-epoch3.pth")
    config = tiny_config(tmp_path / "a", epochs=3, **switches)
    resumed = tiny_trainer(config, resume=checkpoint, model=convolutional())
    resumed.train()
    got = load_checkpoint(resumed.checkpoint_dir / "checkpoint-epoch3.pth")
    assert all(same(got[key], expected[key]) for key in ("state_dict", "optimizer", "attributes"))


def test_fp16_without_a_gpu_is_refused_before_there_is_a_run_folder(tmp_path):
    with pytest.raises(UserError, match=r"trainer.precision: 'fp16' needs a GPU .* on cpu; use 'bf16'"):
        trained(tmp_path, "half", precision="fp16")
    assert not (tmp_path / "half").exists()


def test_fp16_is_refused_where_its_scaler_cannot_do_its_work(monkeypatch):
    model = torch.nn.Linear(2, 2)
    settings = TrainerSettings(epochs=1, precision="fp16")
    for device in ("mps", "xpu", "cuda"):
        monkeypatch.setattr(base.training.precision, "exact_float", lambda device: torch.float64)
        apply_switches(model, settings, torch.device(device))
    monkeypatch.setattr(base.training.precision, "exact_float", lambda device: torch.float32)
    apply_switches(model, settings, torch.device("xpu"))  # which predictions need, too
    with pytest.raises(UserError, match=r"^trainer.precision: .* needs float64, which this device lacks; use 'bf16'$"):
        grad_scaler("fp16", torch.device("xpu"))
    fused, plain = (torch.optim.SGD(model.parameters(), fused=fused) for fused in (True, False))
    with pytest.raises(UserError, match=r"^trainer.fused, optimizer.args.fused: on mps .* ignore the scaler"):
        grad_scaler("fp16", torch.device("mps"), fused)
    assert grad_scaler("bf16", torch.device("mps"), fused) is None
    assert grad_scaler("fp16", torch.device("mps"), plain) is not None


def test_compile_without_a_compiler_is_refused_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr(base.training.precision.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"trainer.compile: no C\+\+ compiler .*--set trainer.compile=false"):
        trained(tmp_path, "compiled", compile=True)
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
def test_a_compiled_run_resumes_before_a_short_batch_to_the_same_bits(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler on this machine")

    def job(name):
        torch._dynamo.reset()  # as a new process begins
        return tiny_config(tmp_path / name, compile=True, save_every_steps=1, epochs=2)

    straight = tiny_trainer(job("a"), model=convolutional(), validation_split=12)  # of 38 samples, 6 in the last batch
    straight.train()
    torch._dynamo.reset()
    first = tiny_trainer(job("b"), model=convolutional(), validation_split=12)
    count = first._count_batch
    first._count_batch = lambda batch_idx: count(batch_idx) or (first.step == 4 and first.stop("before the last"))
    first.train()
    resumed = tiny_trainer(
        job("b") | {"description": "goes on"}, model=convolutional(), validation_split=12, resume=first.saver.newest
    )
    assert (resumed.start_epoch, resumed.batches_done) == (1, 4)
    resumed.train()
    assert same(straight.model.state_dict(), resumed.model.state_dict())


@pytest.mark.slow
def test_a_compiled_model_computes_the_same_and_its_checkpoint_knows_nothing_of_it(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler on this machine")
    compiled, plain = trained(tmp_path, "compiled", compile="default"), trained(tmp_path, "plain")
    assert compiled.model._compiled_call_impl is not None
    left, right = (load_checkpoint(t.checkpoint_dir / "checkpoint-epoch2.pth")["state_dict"] for t in (compiled, plain))
    assert left.keys() == right.keys()
    assert all(torch.allclose(left[name], right[name], atol=1e-5) for name in left)


def test_tf32_and_cudnn_benchmark_are_switched_on_for_torch_as_a_whole(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    trained(tmp_path, "default")
    assert not chosen and not torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.benchmark
    trained(tmp_path, "fast", precision="tf32", cudnn_benchmark=True)
    assert chosen == ["high"] and torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark


_FAULTS = """
import resource, sys, torch
from base.training.precision import apply_switches
from utils.config.schema import TrainerSettings

if "as in a run" in sys.argv:
    apply_switches(torch.nn.Linear(1, 1), TrainerSettings(epochs=1), torch.device("cpu"))

def faults_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        [torch.ones(1_500_000) for _ in range(8)]  # 48 MB, freed together
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_steps()
print(faults_of_steps())
"""


def test_a_step_gets_the_memory_of_the_step_before_without_page_faults():
    assert int(run("-c", _FAULTS, "as in a run").stdout) < 1000  # of 35,000 where glibc gives it back


def test_autocast_is_entered_for_half_precision_only():
    linear, data = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert linear(data).dtype == dtype


@pytest.mark.parametrize(
    "optimizer, trainer_section, expected",
    [
        ({"type": "Adam"}, {}, {"fused": True}),
        ({"type": "torch.optim.SGD", "args": {"lr": 0.1}}, {}, {"fused": True}),
        ({"type": "Adam"}, {"fused": False}, {}),
        ({"type": "Adagrad"}, {}, {}),
        ({"type": "Adagrad"}, {"fused": True}, {"fused": True}),
        ({"type": "RMSprop"}, {}, {}),
        ({"type": "Adam", "args": {"foreach": True}}, {}, {}),
        ({"type": "Adam", "args": {"fused": False}}, {}, {}),
    ],
)
def test_the_fused_kernel_is_chosen_where_it_is_sure_to_fit(optimizer, trainer_section, expected):
    assert fused_option(optimizer, trainer_section.get("fused"), torch.nn.Linear(2, 2)) == expected


def test_the_fused_kernel_is_not_chosen_for_sparse_gradients():
    model = torch.nn.Embedding(3, 2, sparse=True)
    assert fused_option({"type": "SGD"}, None, model) == {}


@pytest.mark.parametrize("name, arguments", [("Adam", {"lr": 0.01}), ("SGD", {"lr": 0.1, "momentum": 0.9})])
@pytest.mark.parametrize("before, after", [(False, True), (True, False)])
def test_channels_last_may_change_on_a_resume(tmp_path, name, arguments, before, after):
    """The fused kernels take the moments to lie in memory as the weights do."""

    def job(epochs, channels_last, resume=None):
        config = tiny_config(tmp_path / str(channels_last), epochs=epochs, channels_last=channels_last)
        config["optimizer"] = {"type": name, "args": {**arguments, "fused": True}}
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 48),
            torch.nn.Unflatten(1, (3, 4, 4)),
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 3),
        )
        trainer = tiny_trainer(config, resume=resume, model=model, schedule=None)
        trainer.train()
        return trainer

    straight = job(2, before)
    resumed = job(2, after, resume=straight.checkpoint_dir / "checkpoint-epoch1.pth")
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)
    for parameter, state in resumed.optimizer.state.items():
        assert all(value.stride() == parameter.stride() for value in state.values() if value.shape == parameter.shape)


@pytest.mark.parametrize("before, after", [(False, True), (True, False)])
def test_the_kernel_is_that_of_this_run_not_of_the_checkpoint(before, after):
    weights = [torch.nn.Parameter(torch.ones(3))]
    old, new = (torch.optim.Adam(weights, fused=fused) for fused in (before, after))
    weights[0].grad = torch.ones(3)
    old.step()
    load_optimizer(new, old.state_dict(), settings_as_built=False)
    assert new.param_groups[0]["fused"] is after
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weights[0].sum()).backward()
    scaler.step(new)  # refuses a kernel that is not the one that the optimizer was built with
    assert new.state[weights[0]]["step"] == 2


def test_what_several_gpus_or_3d_convolutions_cannot_do_is_refused(tmp_path):
    wrapped = torch.nn.DataParallel(convolutional())
    with pytest.raises(UserError, match=r"trainer.compile: a DataParallel model"):
        tiny_trainer(tiny_config(tmp_path / "a", compile=True), model=wrapped)
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"trainer.channels_last: .* 3d convolutions"):
        tiny_trainer(tiny_config(tmp_path / "a", channels_last=True), model=model)
    assert not (tmp_path / "a").exists()


def test_the_compiler_that_cxx_names_is_the_one_that_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(UserError, match=r"no C\+\+ compiler is installed \(looked for /nowhere/g\+\+\)"):
        trained(tmp_path, "compiled", compile=True)
