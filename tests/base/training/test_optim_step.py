import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base.training.optim_step import OptimStep
from helpers import Recorder
from utils.errors import UserError


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2).double()


def data(count=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator).double(), torch.randn(count, 2, generator=generator).double()


def loss_of(model, inputs, targets, reduction):
    squares = ((model(inputs) - targets) ** 2).sum(dim=1)
    return squares.sum() if reduction == "sum" else squares.mean()


def gradient(model, inputs, targets, reduction):
    model.zero_grad()
    loss_of(model, inputs, targets, reduction).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9),
    accumulate=st.integers(1, 10),
    reduction=st.sampled_from(["sum", "mean"]),
)
def test_the_gradient_of_a_window_is_that_of_its_samples_as_one_batch(sizes, accumulate, reduction):
    model = linear()
    inputs, targets = data(sum(sizes))
    optimizer = Recorder(model.parameters())
    optim_step = OptimStep(optimizer, accumulate, reduction)
    batches = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
    updated = [optim_step.step(loss_of(model, x, y, reduction), len(x)) for x, y in batches]
    windows = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    assert updated == [(i + 1) % accumulate == 0 for i in range(len(batches))]
    assert optim_step.finish() == (len(batches) % accumulate != 0) and not optim_step.finish()
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for seen, window in zip(optimizer.seen, windows, strict=True):
        x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
        for got, expected in zip(seen, gradient(model, x, y, reduction), strict=True):
            assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12)
        for sums, got in zip(total, seen, strict=True):
            sums += got * (len(x) if reduction == "mean" else 1)
    for sums, full in zip(total, gradient(model, inputs, targets, "sum"), strict=True):
        assert torch.allclose(sums, full, rtol=1e-10, atol=1e-12)


def test_without_accumulation_the_steps_are_torchs_own_bit_for_bit():
    ours, theirs = linear(), linear()
    inputs, targets = data()
    optim_step = OptimStep(torch.optim.Adam(ours.parameters(), lr=0.1))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    for x, y in zip(inputs.split(5), targets.split(5), strict=True):
        assert optim_step.step(loss_of(ours, x, y, "mean"), len(x))
        optimizer.zero_grad()
        loss_of(theirs, x, y, "mean").backward()
        optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradients_of_a_backward_pass_in_compute_loss_count(accumulate):
    model = linear()
    inputs, targets = data()
    halves = list(zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True))
    optimizer = Recorder(model.parameters())
    optim_step = OptimStep(optimizer, accumulate)
    loss_of(model, inputs, targets, "mean").backward()  # before begin: of nothing that is trained on
    for x, y in halves:
        optim_step.begin(None)
        loss_of(model, x, y, "mean").backward()
        optim_step.step(2 * loss_of(model, x, y, "mean"), len(x))
    for got, expected in zip(optimizer.seen[0], gradient(model, inputs, targets, "mean"), strict=True):
        assert torch.allclose(got, 3 * expected, rtol=1e-10)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_a_window_that_zero_grad_has_cleared_are_missed(accumulate):
    model = linear()
    inputs, targets = data()
    optim_step = OptimStep(Recorder(model.parameters()), accumulate)
    for _ in range(2):
        optim_step.begin(None)
        loss = loss_of(model, inputs, targets, "mean")
        model.zero_grad()
        if optim_step.num_batches:
            with pytest.raises(UserError, match=r"^trainer\.accumulate: zero_grad\(\) has cleared the gradients of"):
                optim_step.step(loss, len(inputs))
        else:
            assert optim_step.step(loss, len(inputs)) == (accumulate == 1)


def test_settings_that_a_step_of_a_trainers_own_does_not_follow_are_named_once(caplog):
    model = linear()
    inputs, targets = data()
    for own in (False, True):
        optim_step = OptimStep(Recorder(model.parameters()), accumulate=2, clip_norm=1.0)
        for _ in range(3):
            optim_step.begin(None)
            loss = loss_of(model, inputs, targets, "mean")
            loss.backward() if own else optim_step.step(loss, len(inputs))
        expected = ["trainer.accumulate, trainer.clip_norm: not followed"] if own else []
        assert [record.getMessage()[:51] for record in caplog.records] == expected


def test_gradients_of_a_step_that_is_taken_back_do_not_count():
    model = linear()
    inputs, targets = data()
    optimizer = Recorder(model.parameters())
    optim_step = OptimStep(optimizer)
    state = optim_step.state_dict()
    for _ in range(2):  # the first time before a rollback
        optim_step.begin(None)
        optim_step.step(loss_of(model, inputs, targets, "mean"), len(inputs))
        optim_step.load_state_dict(state)
    assert all(map(torch.equal, *optimizer.seen))


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_gradients_that_a_step_of_a_trainers_own_accumulates_survive(stop_at):
    def train(optim_step, model, start, end):
        for batch_idx, (x, y) in list(enumerate(zip(inputs.chunk(4), targets.chunk(4), strict=True)))[start:end]:
            optim_step.begin(None)
            loss_of(model, x, y, "mean").backward()
            if batch_idx % 2:
                optim_step.optimizer.step()
                optim_step.optimizer.zero_grad()

    def made():
        model = linear()
        return OptimStep(torch.optim.SGD(model.parameters(), lr=0.1)), model

    inputs, targets = data()
    (straight, expected), (stopped, before), (resumed, model) = made(), made(), made()
    train(straight, expected, 0, 4)
    train(stopped, before, 0, stop_at)
    assert ("gradients" in stopped.state_dict()) == (stop_at != 2)  # only those of an open window are saved
    model.load_state_dict(before.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    train(resumed, model, stop_at, 4)
    assert all(map(torch.equal, expected.parameters(), model.parameters()))


def test_gradients_that_fp16_has_not_scaled_are_refused():
    model = linear().float()
    inputs, targets = (part.float() for part in data())
    optim_step = OptimStep(Recorder(model.parameters()), scaler=torch.amp.GradScaler("cpu"))
    optim_step.begin(None)
    loss_of(model, inputs, targets, "mean").backward()
    with pytest.raises(
        UserError, match=r"^trainer\.precision: compute_loss has called backward\(\) itself, .*sum of the"
    ):
        optim_step.step(loss_of(model, inputs, targets, "mean"), len(inputs))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_clipping_takes_the_windows_gradient_to_the_given_size(accumulate):
    model = linear()
    inputs, targets = data()
    expected = gradient(model, inputs, targets, "mean")
    norm = torch.stack([g.norm() for g in expected]).norm()
    for clip, wanted in (
        ({"clip_norm": 0.1}, [g * (0.1 / norm) for g in expected]),
        ({"clip_norm": 1e9}, expected),
        ({"clip_value": 0.2}, [g.clamp(-0.2, 0.2) for g in expected]),
    ):
        optimizer = Recorder(model.parameters())
        optim_step = OptimStep(optimizer, accumulate, **clip)
        for x, y in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
            optim_step.step(loss_of(model, x, y, "mean"), len(x))
        assert all(torch.allclose(g, w, rtol=1e-4) for g, w in zip(optimizer.seen[0], wanted, strict=True))


def test_the_sparse_gradients_of_an_embedding_are_clipped_like_dense_ones():
    torch.manual_seed(0)
    weight, factors, rows = torch.randn(6, 2), torch.randn(5, 2), torch.tensor([1, 1, 4, 1, 0])  # one comes three times

    def clipped(sparse, **clips):
        model = torch.nn.Embedding(6, 2, _weight=weight.clone(), sparse=sparse)
        step = OptimStep(torch.optim.SGD(model.parameters(), lr=1.0), **clips)
        step.step((model(rows) * factors).sum(), 5)
        return weight - model.weight.detach()

    assert torch.allclose(clipped(True, clip_value=0.2), clipped(False, clip_value=0.2), atol=1e-7)
    try:
        torch._foreach_norm([torch.eye(2).to_sparse()])
    except NotImplementedError:  # as in torch 2.8
        with pytest.raises(UserError, match=r"^trainer\.clip_norm: torch \S+ has no norm of sparse gradients; set"):
            clipped(True, clip_norm=0.3)
    else:
        for clips in ({"clip_norm": 0.3}, {"clip_norm": 1.0, "clip_value": 0.1}):
            assert torch.allclose(clipped(True, **clips), clipped(False, **clips), atol=1e-7)
    assert clipped(True, clip_value=0.2).abs().max() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("kind", "sparse", "wanted"),
    [("Adam", True, "sparse"), ("RMSprop", True, "sparse"), ("Adamax", True, "sparse"), ("SparseAdam", False, "dense")],
)
def test_an_optimizer_that_does_not_take_the_gradients_of_an_embedding_is_named(kind, sparse, wanted):
    model = torch.nn.Embedding(6, 2, sparse=sparse)
    step = OptimStep(getattr(torch.optim, kind)(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match=f"^optimizer: {kind} does not .*{wanted} gradients.*; .*optimizers.md"):
        step.step(model(torch.tensor([1, 2])).sum(), 2)


def test_scaled_gradients_are_unscaled_before_clipping_and_an_overflow_skips_the_update():
    model = linear().float()
    inputs, targets = (part.float() for part in data())
    expected = gradient(model, inputs, targets, "mean")
    optimizer = Recorder(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optim_step = OptimStep(optimizer, accumulate=2, clip_value=1e9, scaler=scaler)
    for x, y in zip(inputs.split(13), targets.split(13), strict=True):
        optim_step.step(loss_of(model, x, y, "mean"), len(x))
    assert all(torch.allclose(g, w, rtol=1e-5) for g, w in zip(optimizer.seen[0], expected, strict=True))

    before, steps = copy.deepcopy(scaler.state_dict()), len(optimizer.seen)
    for _ in range(2):
        optim_step.step(loss_of(model, inputs, targets, "mean") * float("inf"), len(inputs))
    assert len(optimizer.seen) == steps and scaler.get_scale() == 512.0
    state = optim_step.state_dict()
    optim_step.load_state_dict({"scaler": before})
    assert optim_step.state_dict() != state and scaler.get_scale() == 1024.0
    OptimStep(optimizer).load_state_dict(state)  # fp32 after fp16: nothing to restore
    optim_step.load_state_dict({})  # fp16 after fp32: starts as new


def test_of_several_processes_a_parameter_without_a_gradient_in_some_has_the_mean_after_a_restart():
    weight, bias = torch.ones(1, 2), torch.ones(1)
    optim_step = OptimStep(torch.optim.SGD([weight, bias], lr=0.1), accumulate=2)
    states = [{"window": [1, 2, 2], "gradients": gradients} for gradients in ([weight, None], [weight * 3, bias])]
    for of_processes in (states, states[::-1]):
        of_weight, of_bias = optim_step.merged(of_processes)["gradients"]
        assert torch.equal(of_weight, weight * 2) and torch.equal(of_bias, bias / 2)
    assert optim_step.merged([{**states[0], "gradients": [weight, None]}])["gradients"][1] is None


def test_a_window_restored_after_an_optimizer_step_keeps_its_gradients():
    model, (inputs, targets) = linear(), data(4)
    step = OptimStep(torch.optim.SGD(model.parameters(), lr=0.1), accumulate=2)

    def train(rows):
        step.begin(None)
        step.step(loss_of(model, inputs[rows], targets[rows], "mean"), 2)

    train(slice(2))
    within_window, weights = copy.deepcopy(step.state_dict()), copy.deepcopy(model.state_dict())
    train(slice(2, 4))
    expected = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)  # as a run that goes back to a checkpoint does
    step.load_state_dict(within_window)
    train(slice(2, 4))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())


def test_a_loss_that_no_parameter_has_a_part_in_is_refused_in_words():
    model = linear()
    loss = loss_of(model, *data(), "mean")
    with pytest.raises(UserError, match=r"^loss: does not depend on any parameter that is trained: it was detached or"):
        OptimStep(Recorder(model.parameters())).step(loss.detach(), 24)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        OptimStep(Recorder(model.parameters())).step(loss, 24)
