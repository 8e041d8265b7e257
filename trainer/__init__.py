"""YOURS to subclass: the loop over batches."""

from trainer.trainer import Trainer

__all__ = ["Trainer"]
