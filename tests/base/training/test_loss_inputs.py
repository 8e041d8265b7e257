"""What torch's losses take beyond shapes is looked at in the first batch: refused where certain, else a warning."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from base import BaseDataLoader
from helpers import tiny_config, tiny_trainer
from model.metric import top_k_acc
from trainer import Trainer
from utils import UserError

N = 24
GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(N, 4, generator=GENERATOR)
VALUES = torch.randn(N, 1, generator=GENERATOR)
LABELS = torch.arange(N) % 3
BITS = (torch.arange(N) % 2).float()
SHARES = torch.randn(N, 3, generator=GENERATOR).softmax(1)
MULTI_HOT = (torch.rand(N, 3, generator=GENERATOR) > 0.5).float()
LISTS = torch.tensor([[0, 2, -1], [1, -1, -1], [-1, -1, -1], [2, 1, 0]] * 6)
LOG_SOFTMAX = nn.LogSoftmax(1)
SEQUENCES = LABELS.unsqueeze(1).expand(N, 3)
SEQUENCE_HEAD = (nn.Unflatten(1, (3, 1)), nn.Linear(1, 3))  # (N, 3) to (N, 3 places, 3 classes)


def job(folder, criterion, target, *last_layers, outputs=3, metrics=(), trainer_class=Trainer):
    """A trainer of rows and these targets; the model is a linear layer and the last layers."""
    samples = list(zip(ROWS, target, strict=True))
    return tiny_trainer(
        tiny_config(folder, epochs=1, verbosity=1),
        criterion=criterion,
        model=nn.Sequential(nn.Linear(4, outputs), *last_layers),
        loader_class=lambda *_: BaseDataLoader(samples, 8, True, 0.3, 0),
        metrics=metrics,
        trainer_class=trainer_class,
    )


def of_parts(function, *parts, **arguments):
    """A loss (output, target) that calls a function with columns of the output, and the target."""
    return lambda output, target: function(*(output[:, part] for part in parts), target, **arguments)


def ctc(target, lengths, blank=0, logs=True):
    """A CTC loss of (8, 3) outputs as one sequence of 8 steps."""

    def loss(output, _):
        scores = output.log_softmax(1) if logs else output
        return F.ctc_loss(scores.unsqueeze(1), target, torch.tensor([len(output)]), torch.tensor(lengths), blank)

    return loss


REFUSED = {
    "logits for kl_div": (
        nn.KLDivLoss(reduction="batchmean"),
        SHARES,
        (),
        "kl_div: .*; end the model with log_softmax",
    ),
    "probabilities for it": (nn.KLDivLoss(reduction="batchmean"), SHARES, (nn.Softmax(1),), "takes the logarithms"),
    "its target's logarithms": (nn.KLDivLoss(reduction="sum"), SHARES.log(), (LOG_SOFTMAX,), '"log_target": true'),
    "no logarithms": (nn.KLDivLoss(reduction="sum", log_target=True), SHARES, (LOG_SOFTMAX,), "without log_target"),
    "its keywords": (lambda o, t: F.kl_div(input=o, target=t, reduction="sum"), SHARES, (), "kl_div: the model's out"),
    "negative shares": (nn.CrossEntropyLoss(), SHARES - 0.5, (), "shares of classes are from 0 to 1"),
    "negative counts": (nn.PoissonNLLLoss(), torch.randn(N, 3), (), "takes counts, from 0 on"),
    "multi-hot": (nn.MultiLabelMarginLoss(), MULTI_HOT.long(), (), "names a class twice.*MultiLabelSoftMarginLoss"),
    "multi-hot floats": (nn.MultiLabelMarginLoss(), MULTI_HOT, (), "the target is float32, .*int64"),
    "labels too large": (nn.MultiLabelMarginLoss(), LISTS + 1, (), "up to 3, and the output has 3 classes"),
    "0 and 1 for pairs": (of_parts(F.cosine_embedding_loss, [0, 1], [1, 2]), BITS, (), r"than -1 and 1.*; 2 \* target"),
    "0 and 1 for ranks": (
        of_parts(F.margin_ranking_loss, 0, 1),
        BITS,
        (),
        "margin_ranking_loss: the target holds other",
    ),
    "broadcast by a normal": (
        lambda o, t: F.gaussian_nll_loss(o[:, :1], t[:, 0], o[:, 1:2].exp()),
        VALUES,
        (),
        r"gaussian_nll_loss: the output is \(8, 1\) and the target \(8,\)",
    ),
    "negative variance": (lambda o, t: F.gaussian_nll_loss(o[:, :1], t, o[:, 1:2]), VALUES, (), "pass its exp"),
    "logits for ctc": (ctc(torch.tensor([[1, 2]]), [2], logs=False), LABELS, (), "ctc_loss: .* not log-probabilities"),
    "blanks for ctc": (ctc(torch.tensor([[0, 2]]), [2]), LABELS, (), "holds 0, the number of the blank"),
    "another blank": (ctc(torch.tensor([1, 2]), [2], blank=2), LABELS, (), "holds 2, the number of the blank"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_loss_cannot_take_is_refused(tmp_path, name):
    criterion, target, layers, message = REFUSED[name]
    trainer = job(tmp_path, criterion, target, *layers)
    with pytest.raises(UserError, match=f"^loss: .*{message}") as refused:
        trainer.train()
    assert "\n" not in str(refused.value) and trainer.step == 0


DOUBTFUL = {
    "softmax": (nn.CrossEntropyLoss(), LABELS, (nn.Softmax(1),), "come from a softmax, .*takes logits"),
    "softmax of its own": (lambda o, t: F.cross_entropy(o.exp() / o.exp().sum(1, True), t), LABELS, (), "a softmax"),
    "sigmoid": (nn.CrossEntropyLoss(), LABELS, (nn.Sigmoid(),), "come from a sigmoid, .*leave the sigmoid out"),
    "sigmoid of two classes": (
        nn.BCEWithLogitsLoss(),
        BITS,
        (nn.Linear(3, 1), nn.Sigmoid(), nn.Flatten(0)),
        "binary_cross_entropy_with_logits: the model's outputs come from a sigmoid",
    ),
    "several classes": (nn.CrossEntropyLoss(), MULTI_HOT, (), "sum to [023], and not to 1; .*BCEWithLogitsLoss"),
    "classes last": (
        nn.CrossEntropyLoss(),
        SEQUENCES,
        SEQUENCE_HEAD,
        r"output \(\d+, 3, 3\), .*output.transpose\(1, 2\)",
    ),
    "weighted shares": (nn.CrossEntropyLoss(), SHARES * 7, (), "sum to 7, and not to 1"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_may_be_meant_is_warned_of_once(tmp_path, name, capsys):
    criterion, target, layers, message = DOUBTFUL[name]
    trainer = job(tmp_path, criterion, target, *layers)
    trainer.train()
    (told,) = (line for line in capsys.readouterr().out.splitlines() if "loss: " in line)
    assert re.search(message, told) and trainer.step == 3


RIGHT = {
    "logarithms": (nn.KLDivLoss(reduction="batchmean"), SHARES, (LOG_SOFTMAX,)),
    "logarithms of both": (nn.KLDivLoss(reduction="batchmean", log_target=True), SHARES.log(), (LOG_SOFTMAX,)),
    "lists of classes": (nn.MultiLabelMarginLoss(), LISTS, ()),
    "pairs": (of_parts(F.cosine_embedding_loss, [0, 1], [1, 2]), 2 * BITS - 1, ()),
    "ranks": (of_parts(F.margin_ranking_loss, 0, 1), 2 * BITS - 1, ()),
    "a normal": (lambda o, t: F.gaussian_nll_loss(o[:, :1], t, o[:, 1:2].exp()), VALUES, ()),
    "a normal of one variance": (lambda o, t: F.gaussian_nll_loss(o[:, :1], t, torch.ones_like(t)), VALUES, ()),
    "ctc": (ctc(torch.tensor([[2, 0, 0]]), [1]), LABELS, ()),
    "counts": (nn.PoissonNLLLoss(), LABELS.unsqueeze(1).expand(N, 3).float(), ()),
    "log-probabilities": (nn.CrossEntropyLoss(), LABELS, (LOG_SOFTMAX,)),
    "shares": (nn.CrossEntropyLoss(), SHARES, ()),
    "classes first": (lambda o, t: F.cross_entropy(o.transpose(1, 2), t), SEQUENCES, SEQUENCE_HEAD),
    "bounded logits": (nn.CrossEntropyLoss(), LABELS, (nn.Sigmoid(), nn.Linear(3, 3))),
    "probabilities": (nn.BCELoss(), MULTI_HOT, (nn.Sigmoid(),)),
    "triplets": (lambda o, t: F.triplet_margin_loss(o, o.roll(1, 0), o.roll(2, 0)), LABELS, ()),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_without_a_word(tmp_path, name, capsys):
    criterion, target, layers = RIGHT[name]
    trainer = job(tmp_path, criterion, target, *layers)
    trainer.train()
    assert trainer.step == 3 and "loss:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("criterion", "takes"),
    [
        (nn.TripletMarginLoss(), "TripletMarginLoss takes anchor, positive, negative, and is called as"),
        (nn.CTCLoss(), "CTCLoss takes log_probs, targets, input_lengths, target_lengths, and"),
        (F.cosine_embedding_loss, "cosine_embedding_loss takes input1, input2, target, and"),
    ],
)
def test_a_loss_of_three_tensors_is_refused_before_the_data_are_read(tmp_path, criterion, takes):
    with pytest.raises(UserError, match=rf"^loss: {takes} .*write a function of these two in model/loss.py"):
        job(tmp_path, criterion, LABELS)


class Triplets(Trainer):
    def compute_loss(self, data, target):
        output = self.model(data)
        return self.criterion(output, output.roll(1, 0), output.roll(2, 0)), output

    def _valid_epoch(self, epoch):
        return {}


def test_a_trainer_of_ones_own_may_give_it_three(tmp_path):
    trainer = job(tmp_path, nn.TripletMarginLoss(), LABELS, trainer_class=Triplets)
    trainer.train()
    assert trainer.step == 3


class PerSample(Trainer):
    """Takes a gradient for each sample, as torch.func's tutorial does, and a loss of batches within vmap."""

    def compute_loss(self, data, target):
        parameters = dict(self.model.named_parameters())

        def loss_of(parameters, row, label):
            output = torch.func.functional_call(self.model, parameters, (row[None],))
            return F.cross_entropy(output, label[None]) + F.cross_entropy(output[0], label)

        of_one = torch.func.grad(loss_of)(parameters, data[0], target[0])
        of_each = torch.func.vmap(torch.func.grad(loss_of), (None, 0, 0))(parameters, data, target)
        assert all(torch.allclose(of_each[name][0], value, atol=1e-6) for name, value in of_one.items())
        output = self.model(data)
        return F.cross_entropy(output, target), output


def test_a_loss_within_vmap_of_which_no_number_can_be_read_is_let_through(tmp_path):
    trainer = job(tmp_path, nn.CrossEntropyLoss(), LABELS, trainer_class=PerSample)
    trainer.train()
    assert trainer.step == 3


class OwnLoss(Trainer):
    def compute_loss(self, data, target):
        output = self.model(data)
        return (output - target).square().mean(), output


def test_without_a_loss_in_the_config_a_doubt_names_compute_loss(tmp_path, capsys):
    def without_loss(model, criterion, *parts, **others):
        return OwnLoss(model, None, *parts, **others)

    job(tmp_path, None, VALUES[:, 0], outputs=1, trainer_class=without_loss).train()
    assert "loss: compute_loss: the output (8, 1) and the target (8,) broadcast" in capsys.readouterr().out


def hits_of(output, target):
    return (output.argmax(1) == target).double().mean()


def test_a_column_of_targets_that_broadcasts_against_what_a_metric_made_is_warned_of(tmp_path, capsys):
    criterion = lambda output, target: F.cross_entropy(output, target[:, 0])  # noqa: E731
    job(tmp_path / "a", criterion, LABELS.unsqueeze(1), metrics=[hits_of]).train()
    assert "metrics: hits_of: the output (8, 3) and the target (8, 1) broadcast to (8, 8)" in capsys.readouterr().out
    right = functools.partial(lambda output, target: hits_of(output, target[:, 0]))
    right.__name__ = "right"
    job(tmp_path / "b", criterion, LABELS.unsqueeze(1), metrics=[right]).train()
    assert "broadcast" not in capsys.readouterr().out


@pytest.mark.parametrize("k", [0, 4])
def test_hits_among_more_classes_than_there_are(k):
    with pytest.raises(UserError, match=f"^metrics: top_k_acc: k is {k}, and the model gives 3 classes"):
        top_k_acc(torch.rand(8, 3), LABELS[:8], k=k)


def test_weights_of_another_number_of_outputs_are_named(tmp_path):
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))
    given = (
        r"the output is tensor \(8, 3\) float32, the target tensor \(8, 3\) float32, pos_weight tensor \(2,\) float32"
    )
    with pytest.raises(UserError, match=rf"^loss: binary_cross_entropy_with_logits: .*; {given}"):
        job(tmp_path, loss, MULTI_HOT).train()
