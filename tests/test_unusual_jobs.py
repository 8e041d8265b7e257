"""Correct jobs of unusual shape train, validate and resume without a word of warning, and their numbers are right."""

import functools
import logging
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from base import BaseDataLoader
from helpers import same, tiny_config, tiny_trainer
from model.metric import ConfusionMatrix, accuracy
from trainer import Trainer

N, C = 30, 3


def named(name, function, **arguments):
    """A metric of this name, as a config makes it."""
    metric = functools.partial(function, **arguments) if arguments or not isinstance(function, nn.Module) else function
    metric.__name__ = name
    return metric


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def labels(*shape, classes=C):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))


class Job:
    """What a user brings: samples, model, loss, metrics, and if need be a collate_fn and a Trainer."""

    collate_fn = staticmethod(torch.utils.data.default_collate)
    trainer_class = Trainer
    metrics = ()

    def loss(self, output, target):
        raise NotImplementedError

    def expected(self, model, data, target):
        """{name: value} over the validation samples as one batch."""
        return {"val_loss": self.loss(model(data), target).item()}


class Segmentation(Job):
    """Classes of pixels, of which some are void."""

    def __init__(self):
        masks = labels(N, 6, 5)
        masks[:, 0] = 255
        masks[::3] = 255
        self.samples = list(zip(random(N, 2, 6, 5), masks, strict=True))
        self.loss = nn.CrossEntropyLoss(ignore_index=255)
        self.metrics = [named("accuracy", accuracy, ignore_index=255), named("table", ConfusionMatrix(C, 255))]

    def model(self):
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, C, 1))

    def expected(self, model, data, target):
        hits = (model(data).argmax(1) == target)[target != 255].double().mean().item()
        return super().expected(model, data, target) | {"val_accuracy": hits}


class BoxModel(nn.Module):
    """Images of any size in a list; a dict of a box and a score for each."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, images):
        rows = self.head(torch.stack([image.mean((1, 2)) for image in images]))
        return [{"box": row[:4], "score": row[4]} for row in rows]


class Detection(Job):
    """A list of images of unequal sizes, and a dict of boxes for each, which may be empty."""

    def __init__(self):
        self.samples = [
            (random(3, 4 + i % 3, 5), {"boxes": random(i % 4, 4), "labels": labels(i % 4)}) for i in range(N)
        ]
        self.metrics = [named("boxes", lambda output, target: sum(len(one["boxes"]) for one in target) / len(target))]

    model = BoxModel

    @staticmethod
    def collate_fn(samples):
        return [image for image, _ in samples], [target for _, target in samples]

    def loss(self, output, target):
        errors = [
            F.l1_loss(one["box"].expand_as(its["boxes"]), its["boxes"], reduction="sum")
            + F.binary_cross_entropy_with_logits(one["score"], torch.tensor(float(len(its["boxes"]) > 0)))
            for one, its in zip(output, target, strict=True)
        ]
        return torch.stack(errors).mean()


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classes, self.value = nn.Linear(4, 8), nn.Linear(8, C), nn.Linear(8, 1)

    def forward(self, data):
        hidden = torch.tanh(self.body(torch.cat([data["left"], data["right"]], 1)))
        return {"label": self.classes(hidden), "value": self.value(hidden)}


class Parts(Trainer):
    def compute_loss(self, data, target):
        output = self.model(data)
        label = F.cross_entropy(output["label"], target["label"])
        value = F.mse_loss(output["value"], target["value"])
        return {"loss": label + value, "label_loss": label, "value_loss": value}, output


class MultiTask(Job):
    """Dicts of data, outputs and targets, and a loss of two parts."""

    def __init__(self):
        rows, values, classes = random(N, 4), random(N, 1, 1)[:, 0], labels(N)
        self.samples = [
            ({"left": rows[i, :2], "right": rows[i, 2:]}, {"label": classes[i], "value": values[i]}) for i in range(N)
        ]
        self.metrics = [named("hits", lambda output, target: accuracy(output["label"], target["label"]))]

    model = TwoHeads
    trainer_class = Parts

    def loss(self, output, target):
        return F.cross_entropy(output["label"], target["label"]) + F.mse_loss(output["value"], target["value"])


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=0)
        self.cell, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, C)

    def forward(self, words):
        return self.head(self.cell(self.embedding(words))[0]).transpose(1, 2)


class Sequences(Job):
    """Words of unequal numbers, padded to the longest of their batch; padding is not counted."""

    def __init__(self):
        lengths = [1 + i % 7 for i in range(N)]
        self.samples = [(labels(length, classes=8) + 1, labels(length)) for length in lengths]
        self.loss = nn.CrossEntropyLoss()
        self.metrics = [accuracy]

    model = Tagger

    @staticmethod
    def collate_fn(samples):
        words, tags = zip(*samples, strict=True)
        pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return pad(words), pad(tags, padding_value=-100)

    def expected(self, model, data, target):
        hits = (model(data).argmax(1) == target)[target != -100].double().mean().item()
        return super().expected(model, data, target) | {"val_accuracy": hits}


class MetricLearning(Job):
    """A loss on the distances of all pairs of embeddings in a batch."""

    def __init__(self):
        self.samples = list(zip(random(N, 4), labels(N), strict=True))
        self.metrics = [named("spread", lambda output, target: torch.cdist(output, output).mean())]

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def loss(self, output, target):
        distances = (output.unsqueeze(1) - output.unsqueeze(0)).square().sum(2)
        alike = target.unsqueeze(1) == target.unsqueeze(0)
        return torch.where(alike, distances, (1 - distances).clamp(min=0)).mean()

    def expected(self, model, data, target):
        return {}  # a loss of pairs depends on the batches


class SeveralOutputs(Job):
    def __init__(self):
        self.samples = list(zip(random(N, 4), random(N, 3), strict=True))
        self.loss = nn.HuberLoss()
        self.metrics = [named("last_error", lambda output, target: (output - target)[:, 2].abs().mean())]

    def model(self):
        return nn.Linear(4, 3)

    def expected(self, model, data, target):
        error = (model(data) - target)[:, 2].abs().mean().item()
        return super().expected(model, data, target) | {"val_last_error": error}


class Ordinal(Job):
    """Grades 0 ... 4 of which the model says whether each of four thresholds is passed."""

    def __init__(self):
        self.samples = list(zip(random(N, 4), labels(N, classes=5), strict=True))
        self.metrics = [named("error", lambda output, target: ((output > 0).sum(1) - target).abs().double().mean())]

    def model(self):
        return nn.Linear(4, 4)

    def loss(self, output, target):
        passed = target.unsqueeze(1) > torch.arange(4)
        return F.binary_cross_entropy_with_logits(output, passed.float())


class SoftLabels(Job):
    def __init__(self):
        self.samples = list(zip(random(N, 4), random(N, C).softmax(1), strict=True))
        self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
        self.metrics = [named("agrees", lambda output, target: (output.argmax(1) == target.argmax(1)).double().mean())]

    def model(self):
        return nn.Linear(4, C)


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 3)

    def forward(self, data):
        return self.embed(data[0]), self.embed(data[1])


class Contrastive(Job):
    """Tuples of two inputs and of two outputs, and 1 or -1 as target."""

    def __init__(self):
        left, right = random(2, N, 4)
        self.samples = [((left[i], right[i]), torch.tensor(1.0 if i % 2 else -1.0)) for i in range(N)]
        cosine = functools.partial(F.cosine_similarity, dim=1)
        self.metrics = [named("right", lambda output, target: (cosine(*output) * target > 0).double().mean())]

    model = Pairs

    def loss(self, output, target):
        return F.cosine_embedding_loss(*output, target, margin=0.1)


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, data):
        mean, log_variance = self.encode(data).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else 0
        return self.decode(mean + noise * (log_variance / 2).exp()), mean, log_variance


class AutoEncoder(Job):
    """A VAE: a tuple of outputs, and the input as the target."""

    def __init__(self):
        self.samples = [(row, row) for row in random(N, 6)]
        self.metrics = [named("error", lambda output, target: (output[0] - target).abs().mean())]

    model = Vae

    def loss(self, output, target):
        made, mean, log_variance = output
        surprise = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return F.mse_loss(made, target) + 0.1 * surprise


JOBS = [
    Segmentation,
    Detection,
    MultiTask,
    Sequences,
    MetricLearning,
    SeveralOutputs,
    Ordinal,
    SoftLabels,
    Contrastive,
    AutoEncoder,
]


def trainer_of(job, folder, resume=None):
    torch.manual_seed(2)
    return tiny_trainer(
        tiny_config(folder, monitor="min val_loss", accumulate=2, log_step=1, verbosity=2),
        resume=resume,
        trainer_class=job.trainer_class,
        criterion=job.loss,
        model=job.model(),
        loader_class=lambda *_: BaseDataLoader(job.samples, 7, True, 0.3, 0, job.collate_fn),
        metrics=job.metrics,
    )


@pytest.fixture
def warned():
    """Lines of warnings and errors that are logged."""
    lines, factory = [], logging.getLogRecordFactory()

    def made(*arguments, **keywords):
        record = factory(*arguments, **keywords)
        lines.extend([record.getMessage()] if record.levelno >= logging.WARNING else [])
        return record

    logging.setLogRecordFactory(made)
    yield lines
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize("kind", JOBS)
def test_it_trains_without_a_word_to_the_right_numbers_and_resumes(tmp_path, kind, warned):
    job = kind()
    trainer = trainer_of(job, tmp_path / "straight")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.epochs == 2 and not same(before, trainer.model.state_dict()) and warned == []

    trainer.model.eval()
    data, target = job.collate_fn([job.samples[i] for i in trainer.valid_data_loader.sampler])
    values = {f"val_{name}": value for name, value in trainer._evaluate().items()}
    with torch.no_grad():
        expected = job.expected(trainer.model, data, target)
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)

    stopped = trainer_of(job, tmp_path / "stopped")
    count_batch = stopped._count_batch
    stopped._count_batch = lambda batch_idx: (count_batch(batch_idx), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        stopped.train()
    warned.clear()
    resumed = trainer_of(job, tmp_path / "stopped", stopped.checkpoint_dir / "checkpoint-epoch1-batch1.pth")
    resumed.train()
    assert same(resumed.model.state_dict(), trainer.model.state_dict()) and warned == []
    assert resumed.train_metrics.result() == trainer.train_metrics.result()
    assert resumed.output_shape == trainer.output_shape  # of the first batch, also where others are padded otherwise
