"""A job whose batches hold their tensors in dicts and tuples, and the same job of plain tensors."""

import torch

from base import BaseDataLoader
from helpers import tiny_config
from parse_config import ConfigParser
from trainer import Trainer
from utils.distributed.world import joined, parallelize
from utils.seed import seed_everything


class Rows(torch.utils.data.Dataset):
    """Samples of 4 features and one of three classes; nested: a dict with a text in it, and a tuple of two targets."""

    def __init__(self, nested):
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(50, 4, generator=generator)
        self.labels = self.rows[:, :3].argmax(1)
        self.nested = nested

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row, label = self.rows[index], self.labels[index]
        if not self.nested:
            return row, label
        return {"left": row[:2], "right": row[2:], "name": f"row {index}"}, (label, row)


class RowsMlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def forward(self, data):
        return self.layers(torch.cat([data["left"], data["right"]], 1) if isinstance(data, dict) else data)


class LabelLoss(torch.nn.CrossEntropyLoss):
    def forward(self, output, target):
        return super().forward(output, label_of(target))


def label_of(target):
    """The classes (N,) of either kind of target."""
    return target if isinstance(target, torch.Tensor) else target[0]


def label_accuracy(output, target):
    return (output.argmax(1) == label_of(target)).float().mean()


def rows_trainer(folder, nested, resume=None, num_workers=0, **settings):
    """A trainer of the job."""
    config = ConfigParser(tiny_config(folder, epochs=2, monitor="min val_loss", **settings), resume=resume)
    seed_everything(config.settings.seed)
    model = parallelize(RowsMlp(), config, torch.device("cpu"))
    loader = BaseDataLoader(Rows(nested), 12, True, 0.3, num_workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = model, LabelLoss(), [label_accuracy], optimizer, config, torch.device("cpu"), loader
    return Trainer(*parts, valid_data_loader=loader.split_validation())


def trained(*arguments, **keywords):
    """(what the last epoch logged, weights) of the job, in a world of any size."""
    with joined({}):
        trainer = rows_trainer(*arguments, **keywords)
        trainer.train()
        return trainer.saved_log, {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
