"""The config of a job for tests of what is read from configs and from command lines."""

import copy

CONFIG = {
    "name": "job",
    "arch": {"type": "MnistModel", "args": {"num_classes": 3}},
    "data_loader": {"type": "MnistDataLoader", "args": {"data_dir": "data/", "batch_size": 4, "validation_split": 0.1}},
    "optimizer": {"type": "Adam", "args": {"lr": 0.1}},
    "loss": "nll_loss",
    "metrics": ["accuracy", {"type": "top_k_acc", "args": {"k": 2}, "name": "top2"}],
    "trainer": {"epochs": 2, "save_dir": "unused/", "monitor": "min val_loss"},
}


def config(**sections):
    """A copy with some sections replaced or added."""
    return {**copy.deepcopy(CONFIG), **sections}
