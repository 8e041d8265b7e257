"""The look at the first batch: what cannot be right is refused in a line before training, and correct jobs pass."""

import contextlib
import functools
import logging
import shutil
import time

import pytest
import torch
import torch.nn.functional as F

from base import BaseDataLoader, InMemoryDataset
from base.data.sampler import EpochSampler
from base.training.first_batch import look_at_data
from helpers import accuracy, run_here, tiny_config, tiny_trainer
from model.metric import accuracy as model_accuracy
from trainer import Trainer
from utils import UserError

N, FEATURES = 24, 4


def job(tmp_path, criterion, target, outputs=1, metrics=(), model=None, data=None, batch_size=8):
    """A trainer of N samples of noise with these targets (N, ...), and a linear model."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(len(target), FEATURES, generator=generator) if data is None else data
    return tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        criterion=criterion,
        model=model or torch.nn.Linear(FEATURES, outputs),
        loader_class=lambda *arguments: BaseDataLoader(
            torch.utils.data.TensorDataset(data, target), batch_size, True, 0, 0
        ),
        metrics=metrics,
    )


LABELS = torch.arange(N) % 3
VALUES = torch.linspace(-1, 1, N)
SHARES = torch.linspace(0, 1, N).unsqueeze(1)


@pytest.mark.parametrize(
    ("criterion", "target", "outputs", "message"),
    [
        (
            torch.nn.MSELoss(),
            VALUES,
            1,
            r"mse_loss: the output is \(8, 1\) and .* \(8,\), .*target.reshape\(8, 1\) .*\"target_as_column\": true",
        ),
        (torch.nn.L1Loss(), VALUES, 1, r"l1_loss: the output is \(8, 1\)"),
        (
            torch.nn.L1Loss(),
            VALUES.unsqueeze(1) * 1j,
            1,
            "complex64, and this loss takes real numbers",
        ),
        (torch.nn.HuberLoss(), VALUES, 8, r"huber_loss: the output is \(8, 8\) and the target \(8,\)"),
        (torch.nn.PoissonNLLLoss(), VALUES.abs(), 1, "poisson_nll_loss: the output is"),
        (F.smooth_l1_loss, VALUES, 1, r"smooth_l1_loss: the output is \(8, 1\)"),
        (functools.partial(F.mse_loss, reduction="sum"), VALUES, 1, r"mse_loss: the output is \(8, 1\)"),
        (torch.nn.HingeEmbeddingLoss(), VALUES.sign(), 1, "hinge_embedding_loss: the output is"),
        (
            torch.nn.HingeEmbeddingLoss(),
            VALUES.unsqueeze(1),
            1,
            "values than -1 and 1, which this loss takes; 2 . target - 1",
        ),
        (torch.nn.CrossEntropyLoss(), LABELS.unsqueeze(1).float(), 1, "one number a sample"),
        (
            torch.nn.CrossEntropyLoss(),
            LABELS + 1,
            3,
            r"from 1 to 3, and the output \(8, 3\) has 3 classes, 0 to 2; give .* 4",
        ),
        (
            torch.nn.CrossEntropyLoss(),
            LABELS - 1,
            3,
            r'; map the labels .*"classes": \[-1, 0, 1\]',
        ),
        (
            torch.nn.CrossEntropyLoss(),
            LABELS.float(),
            3,
            r'are int64; .*long\(\) .*"target_dtype": "int64"',
        ),
        (torch.nn.CrossEntropyLoss(), LABELS.unsqueeze(1), 3, r'squeeze\(-1\) .* "classes": \[0, 1, 2\]'),
        (
            torch.nn.CrossEntropyLoss(),
            F.one_hot(LABELS),
            3,
            r'one-hot: use .*dim=1\) .* "classes": \[0, 1, 2\]',
        ),
        (
            lambda output, target: F.cross_entropy(output.unsqueeze(1).expand(-1, 5, -1), target),
            LABELS.unsqueeze(1).expand(-1, 5),
            3,
            r"the output \(8, 5, 3\) wants \(8, 3\) .*has the classes last: end the model with .movedim\(-1, 1\)",
        ),
        (torch.nn.CrossEntropyLoss(), LABELS > 0, 3, "tensor .* bool, and class numbers are int64"),
        (torch.nn.NLLLoss(), LABELS, 3, "not log-probabilities.*; use torch.nn.CrossEntropyLoss"),
        (F.nll_loss, LABELS, 3, "nll_loss: the model's outputs are not log-probabilities"),
        (
            torch.nn.BCEWithLogitsLoss(),
            LABELS.unsqueeze(1) % 2,
            1,
            r'this loss takes floats; use target.float\(\) in .*, or give ArrayDataLoader "target_dtype": "float32"',
        ),
        (torch.nn.BCEWithLogitsLoss(), VALUES.unsqueeze(1), 1, "from -1 to 1, and this loss takes them from 0 to 1"),
        (torch.nn.BCEWithLogitsLoss(), SHARES.squeeze(1), 1, r"the output is \(8, 1\) and the target \(8,\)"),
        (torch.nn.BCELoss(), SHARES, 1, "takes probabilities from 0 to 1; use torch.nn.BCEWithLogitsLoss"),
    ],
)
def test_an_output_and_a_target_that_do_not_fit_the_loss(tmp_path, criterion, target, outputs, message):
    trainer = job(tmp_path, criterion, target, outputs)
    weights = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(UserError, match=f"^loss: .*{message}") as refused:
        trainer.train()
    assert "\n" not in str(refused.value)
    assert all(map(torch.equal, weights, trainer.model.parameters())), "no update came before the refusal"


def test_a_compiled_model_is_no_excuse(tmp_path, monkeypatch):
    trainer = job(tmp_path, torch.nn.CrossEntropyLoss(weight=torch.ones(4)), LABELS, 3)
    monkeypatch.setattr(trainer, "settings", trainer.settings.model_copy(update={"compile": True}))
    monkeypatch.setattr("trainer.trainer.compile_as_set", lambda model, settings: None)
    with pytest.raises(
        UserError, match=r"^loss: cross_entropy: weight tensor should be .* all 3 classes .*: \[4\]; the"
    ):
        trainer.train()


INTEGER_TARGETS = pytest.mark.skipif(torch.__version__ < "2.9", reason="torch 2.8 has no gradient for them")
LOG_SOFTMAX = torch.nn.Sequential(torch.nn.Linear(FEATURES, 3), torch.nn.LogSoftmax(dim=1))
SIGMOID = torch.nn.Sequential(torch.nn.Linear(FEATURES, 1), torch.nn.Sigmoid())


@pytest.mark.parametrize(
    ("criterion", "target", "outputs", "model"),
    [
        (torch.nn.MSELoss(), VALUES.unsqueeze(1), 1, None),
        pytest.param(torch.nn.MSELoss(), torch.arange(N).unsqueeze(1), 1, None, marks=INTEGER_TARGETS),
        (lambda output, target: F.cross_entropy(output[0], target[0]), LABELS, 3, None),
        (lambda output, target: output.sum() + F.l1_loss(output[:0], output[:0]).nan_to_num(), LABELS, 3, None),
        (torch.nn.CrossEntropyLoss(), LABELS, 5, None),
        (torch.nn.CrossEntropyLoss(ignore_index=-1), LABELS - 1, 3, None),
        (torch.nn.CrossEntropyLoss(), F.one_hot(LABELS).float(), 3, None),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, 3, None),
        (torch.nn.NLLLoss(), LABELS, 3, LOG_SOFTMAX),
        (F.nll_loss, LABELS, 3, LOG_SOFTMAX),
        (torch.nn.BCELoss(), SHARES, 1, SIGMOID),
        (torch.nn.BCEWithLogitsLoss(), SHARES, 1, None),
        (torch.nn.MultiMarginLoss(), LABELS, 3, None),
        (torch.nn.KLDivLoss(reduction="batchmean"), F.one_hot(LABELS).float(), 3, LOG_SOFTMAX),
        (torch.nn.SoftMarginLoss(), VALUES.sign().unsqueeze(1), 1, None),
        (lambda output, target: ((output.squeeze(1) - target) ** 2).mean(), VALUES, 1, None),
    ],
)
def test_a_correct_job_trains_without_a_word(tmp_path, criterion, target, outputs, model, capsys):
    trainer = job(tmp_path, criterion, target, outputs, model=model)
    trainer.train()
    assert trainer.step == 3 and "broadcast" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own, which suffices
@pytest.mark.parametrize("shape", [(), (1,), (8, 1)])
def test_a_number_may_stand_for_all_targets(tmp_path, shape):
    trainer = job(tmp_path, lambda output, target: F.mse_loss(output, torch.ones(shape)), LABELS, 3)
    trainer.train()
    assert trainer.step == 3


def test_a_loss_of_ones_own_that_broadcasts_is_warned_of_once(tmp_path, capsys):
    def squared(output, target):
        return ((output - target) ** 2).mean()

    job(tmp_path, squared, VALUES).train()
    told = capsys.readouterr().out
    assert told.count("loss: squared: the output (8, 1) and the target (8,) broadcast to (8, 8)") == 1
    squared.expects = "anything"
    job(tmp_path / "b", squared, VALUES).train()
    assert "broadcast" not in capsys.readouterr().out
    squared.expects = "values"
    with pytest.raises(UserError, match="squared: the output is"):
        job(tmp_path / "c", squared, VALUES).train()
    squared.expects = "vlaues"
    with pytest.raises(UserError, match="expects is 'vlaues'; it should be one of classes"):
        job(tmp_path / "d", squared, VALUES).train()


def test_an_output_that_is_no_tensor(tmp_path):
    class Named(torch.nn.Linear):
        def forward(self, data):
            return {"logits": super().forward(data)}

    trainer = job(tmp_path, torch.nn.CrossEntropyLoss(), LABELS, model=Named(FEATURES, 3))
    with pytest.raises(UserError, match=r"the model's output is a dict of logits: tensor .*; write a loss"):
        trainer.train()


def test_a_library_s_own_refusal_comes_in_one_line(tmp_path):
    weights = torch.nn.CrossEntropyLoss(weight=torch.ones(4))
    with pytest.raises(UserError, match=r"loss: cross_entropy: weight tensor should be .*; the output is tensor"):
        job(tmp_path, weights, LABELS, 3).train()


@pytest.mark.parametrize(("samples", "refused"), [(25, True), (26, False), (24, False)])
def test_a_last_batch_of_one_sample_with_batch_norm(tmp_path, samples, refused):
    target = torch.arange(samples) % 3
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    trainer = job(tmp_path, torch.nn.CrossEntropyLoss(), target, model=model)
    if refused:
        with pytest.raises(UserError, match="got 8; the last batch of 25 samples has 1 sample: batch norm needs two"):
            trainer.train()
    else:
        trainer.train()


def test_a_last_batch_that_is_never_reached_is_not_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    data = torch.utils.data.TensorDataset(torch.randn(25, FEATURES), torch.arange(25) % 3)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1, limit_train_batches=2),
        model=model,
        loader_class=lambda *arguments: BaseDataLoader(data, 8, True, 0, 0),
        metrics=(),
    )
    trainer.train()
    assert trainer.step == 2


def test_batch_norm_over_a_sequence_takes_a_batch_of_one(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, FEATURES)), torch.nn.BatchNorm1d(1), torch.nn.Flatten(), torch.nn.Linear(FEATURES, 3)
    )
    job(tmp_path, torch.nn.CrossEntropyLoss(), torch.arange(25) % 3, model=model).train()


@pytest.mark.parametrize("place", [3, 20])  # in a training sample and in one set aside, both after the first batch
def test_a_label_outside_the_classes_is_found_anywhere_in_the_data(tmp_path, place):
    labels = torch.arange(N) % 3
    labels[place] = 7
    dataset = InMemoryDataset(torch.randn(N, FEATURES), labels)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        model=torch.nn.Linear(FEATURES, 3),
        loader_class=lambda *arguments: BaseDataLoader(dataset, 4, False, 0.25, 0),
    )
    assert place not in trainer.stream.samples(1, 0)
    with pytest.raises(UserError, match=r"^loss: among .* from [01] to 7, and the output \(4, 3\) has 3 classes, .* 8"):
        trainer.train()
    assert trainer.step == 0


def test_a_label_outside_the_classes_is_found_in_validation_data_of_their_own(tmp_path):
    rows = torch.randn(N, FEATURES)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        model=torch.nn.Linear(FEATURES, 3),
        loader_class=lambda *arguments: BaseDataLoader(InMemoryDataset(rows, LABELS), 4, False, 0, 0),
        valid_data_loader=BaseDataLoader(InMemoryDataset(rows, LABELS + 1), 4, False, 0, 0).as_validation(),
    )
    with pytest.raises(UserError, match=r"^loss: among the validation samples, .* from 1 to 3, and the output"):
        trainer.train()


@pytest.mark.parametrize("start", [look_at_data, Trainer.train])
def test_a_validation_batch_that_the_loss_would_broadcast_is_refused(tmp_path, start):
    rows, values = torch.randn(N, FEATURES), VALUES.unsqueeze(1)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        model=torch.nn.Linear(FEATURES, 1),
        criterion=torch.nn.MSELoss(),
        metrics=(),
        loader_class=lambda *arguments: BaseDataLoader(InMemoryDataset(rows, values), 4, False, 0, 0),
        valid_data_loader=BaseDataLoader(InMemoryDataset(rows, VALUES), 4, False, 0, 0).as_validation(),
    )
    with pytest.raises(UserError, match=r"^validation: mse_loss: the output is \(4, 1\) and the target \(4,\)"):
        start(trainer)


@pytest.mark.parametrize("start", [look_at_data, Trainer.train])
def test_a_loss_that_returns_a_dict_is_refused_before_the_first_update(tmp_path, start):
    def in_parts(output, target):
        error = F.cross_entropy(output, target)
        return {"loss": error, "error": error}

    trainer = job(tmp_path, in_parts, LABELS, 3)
    with pytest.raises(
        UserError, match=r"^loss: in_parts returned a dict; .* name each as a metric: docs/trainers\.md"
    ):
        start(trainer)
    assert trainer.step == 0


def test_samples_that_are_never_drawn_may_have_any_label(tmp_path):
    labels = torch.arange(N) % 3
    labels[::4] = -1
    labelled = EpochSampler((labels >= 0).nonzero().flatten(), shuffle=True)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        model=torch.nn.Linear(FEATURES, 3),
        loader_class=lambda *arguments: Sampled(InMemoryDataset(torch.randn(N, FEATURES), labels), labelled),
    )
    trainer.train()
    assert trainer.step == 5


class Sampled(BaseDataLoader):
    def __init__(self, dataset, sampler):
        self.own_sampler = sampler
        super().__init__(dataset, 4, True, 0, 0)

    def _split_sampler(self, split):
        return self.own_sampler, None


def test_labels_that_the_trainer_maps_to_others_are_not_held_against_the_classes(tmp_path):
    class Mapping(Trainer):
        def compute_loss(self, data, target):
            return super().compute_loss(data, target // 10)

    dataset = InMemoryDataset(torch.randn(N, FEATURES), torch.arange(N) % 3 * 10)
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=1),
        trainer_class=Mapping,
        model=torch.nn.Linear(FEATURES, 3),
        metrics=(),
        valid_data_loader=None,
        loader_class=lambda *arguments: BaseDataLoader(dataset, 4, True, 0, 0),
    )
    trainer.train()
    assert trainer.step == 6


# ---- --check --data


def test_the_look_says_what_came_and_leaves_nothing(tmp_path, capsys):
    trainer = job(tmp_path / "saved", torch.nn.CrossEntropyLoss(), LABELS, 3)
    trainer.config.keeps_nothing = True
    look_at_data(trainer)
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("the first batch fits: data (8, 4) float32, target (8,) int64, output (8, 3) float32, loss: ")
    )
    assert not (tmp_path / "saved").exists()


def test_the_look_tries_the_last_batch(tmp_path):
    class Squeezing(torch.nn.Linear):
        def forward(self, data):
            return super().forward(data).squeeze()

    loss, target = torch.nn.CrossEntropyLoss(), torch.arange(25) % 3
    trainer = job(tmp_path, loss, target, model=Squeezing(FEATURES, 3), metrics=[accuracy])
    trainer.config.keeps_nothing = True
    with pytest.raises(UserError, match=r"size: got 8; the last batch of 25 samples has 1 sample: .*drop_last: true"):
        look_at_data(trainer)


def test_a_dev_run_finds_a_last_batch_that_batch_norm_refuses_unless_the_config_never_reaches_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    for own_limit, refused in ((None, True), (2, False)):
        trainer = job(tmp_path, torch.nn.CrossEntropyLoss(), torch.arange(25) % 3, model=model)
        trainer.settings.limit_train_batches = 1
        trainer.config.keeps_nothing, trainer.config.own_limit = True, own_limit
        with pytest.raises(UserError, match="1 sample: batch norm needs") if refused else contextlib.nullcontext():
            look_at_data(trainer)


def test_check_of_the_data_ends_with_one_line(tmp_path):
    job = ("-c", "config.json", "--set", f"trainer.save_dir={tmp_path / 'saved'}", "--check")
    told = run_here("train.py", *job).stdout
    assert told == "no errors found in the config; --check --data looks at the data and the first batch too\n"
    told = run_here("train.py", *job, "--data").stdout.splitlines()
    assert "54,000 samples to train on, 6,000 to validate on; an epoch is 422 batches of 128" in told
    assert told[-1].startswith("the first batch fits: data (128, 1, 28, 28) float32, target (128,) int64, output (128,")
    wrong = run_here("train.py", *job, "--data", "--set", "arch.args.num_classes=5", status=2)
    assert wrong.stderr == "error: arch.args.num_classes: got 5, but the data have 10 classes\n"
    assert not list(tmp_path.iterdir())
    assert run_here("train.py", "-c", "config.json", "--data", status=2).stderr == (
        "error: --data: goes with --check, as in --check --data\n"
    )


# ---- what a refused run leaves


def refused_run(tmp_path):
    """A trainer whose first batch is refused, after train()."""
    trainer = job(tmp_path, torch.nn.CrossEntropyLoss(), LABELS + 1, 3)
    with pytest.raises(UserError):
        trainer.train()
    return trainer


def test_a_refused_run_leaves_no_folder(tmp_path):
    (tmp_path / "models").mkdir()
    trainer = refused_run(tmp_path)
    assert not list(tmp_path.rglob("*tiny*")) and not trainer.checkpoint_dir.exists()
    assert not [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


def test_of_two_runs_only_the_refused_one_goes(tmp_path):
    kept = job(tmp_path, torch.nn.CrossEntropyLoss(), LABELS, 3)
    kept.train()
    refused_run(tmp_path)
    assert list((tmp_path / "models" / "tiny").iterdir()) == [kept.checkpoint_dir]
    assert list((tmp_path / "log" / "tiny").iterdir()) == [kept.config.log_dir]


@pytest.mark.parametrize("change", ["a file", "progress", "time", "checkpoint", "own loop"])
def test_a_run_that_holds_something_stays(tmp_path, monkeypatch, change):
    class Failing(Trainer):
        def _begin_epoch(self, epoch):
            super()._begin_epoch(epoch)
            if change == "a file":
                (self.config.log_dir / "mine.txt").touch()
            if change == "progress":
                self.step = self.log_step + 1
            if change == "time":
                now = time.monotonic()
                monkeypatch.setattr(time, "monotonic", lambda: now + 61)
            if change == "checkpoint":
                self.save_now(["checkpoint-epoch0.pth"], 0)
            raise RuntimeError("failed")

    class OwnLoop(Trainer):
        def _train_epoch(self, epoch):
            raise RuntimeError("failed")

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=OwnLoop if change == "own loop" else Failing)
    with pytest.raises(RuntimeError, match="failed"):
        trainer.train()
    assert (trainer.checkpoint_dir / "config.json").exists() and (trainer.config.log_dir / "info.log").exists()


def test_a_resumed_run_stays_whatever_happens(tmp_path):
    trainer = job(tmp_path, torch.nn.CrossEntropyLoss(), LABELS, 3)
    trainer.train()
    (checkpoint,) = trainer.checkpoint_dir.glob("checkpoint-epoch1.pth")
    checkpoint.rename(elsewhere := tmp_path / "one.pth")
    for resume in (shutil.copy(elsewhere, checkpoint), elsewhere):
        again = tiny_trainer(
            tiny_config(tmp_path, epochs=2),
            resume=resume,
            model=torch.nn.Linear(FEATURES, 3),
            metrics=(),
            loader_class=lambda *arguments: BaseDataLoader(
                torch.utils.data.TensorDataset(torch.randn(N, FEATURES), LABELS + 1), 8, True, 0, 0
            ),
        )
        with pytest.raises(UserError):
            again.train()
        assert (again.checkpoint_dir / "config.json").exists()


def own_loss(output, target):
    return (output.mean(dim=1) - target).square().mean()


def test_a_metric_that_counts_class_numbers_is_refused_for_other_numbers(tmp_path):
    metrics = [functools.update_wrapper(functools.partial(model_accuracy), model_accuracy)]
    with pytest.raises(UserError, match=r"^metrics: accuracy: counts hits of class numbers, and the target holds"):
        job(tmp_path, own_loss, VALUES, 3, metrics).train()
    job(tmp_path, own_loss, LABELS.float(), 3, metrics).train()


def ignoring(output, target):
    return F.cross_entropy(output, target, ignore_index=1)


def weighting(output, target, weight):
    return F.cross_entropy(output, target, weight=weight)


@pytest.mark.parametrize(
    "criterion", [ignoring, functools.partial(weighting, weight=torch.tensor([1.0, 2.0, 1.0])), F.cross_entropy]
)
@pytest.mark.parametrize("declared", [None, "targets"])
def test_a_loss_or_metric_of_ones_own_that_counts_some_targets_and_does_not_say_so_is_warned_of(
    tmp_path, capsys, criterion, declared, monkeypatch
):
    inner = getattr(criterion, "func", criterion)
    if inner is not F.cross_entropy:
        monkeypatch.setattr(inner, "counted", declared, raising=False)
    metric = functools.partial(criterion)
    metric.__name__ = "own"
    job(tmp_path, criterion, LABELS, 3, metrics=[metric]).train()
    warned = [line for line in capsys.readouterr().out.splitlines() if "depends on batch_size" in line]
    expected = [] if declared or inner is F.cross_entropy else ["loss", "metrics"]
    assert [line.partition(":")[0] for line in warned] == expected
