"""The contracts: what a model, a data loader and a trainer are."""

from base.base_callback import BaseCallback
from base.base_data_loader import BaseDataLoader
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.data.in_memory import InMemoryDataset, memory_map, whole_batch
from base.trained_model import TrainedModel
from utils.device import exact_float
from utils.errors import UserError

__all__ = [
    "BaseCallback",
    "BaseDataLoader",
    "BaseModel",
    "BaseTrainer",
    "InMemoryDataset",
    "TrainedModel",
    "UserError",
    "exact_float",
    "memory_map",
    "whole_batch",
]
