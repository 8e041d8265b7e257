"""The contracts: what a model, a data loader and a trainer are."""

if "." in __name__:  # an old project whose framework lies within a package
    from ..utils.old_forms.nested import lead_to_top

    lead_to_top(__name__, __file__)

from base.base_callback import BaseCallback
from base.base_data_loader import BaseDataLoader
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer as _BaseTrainer
from base.data.in_memory import InMemoryDataset, memory_map, whole_batch
from base.trained_model import TrainedModel
from utils.device import exact_float
from utils.errors import UserError
from utils.old_forms.trainer import OldTrainerForms

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


class BaseTrainer(OldTrainerForms, _BaseTrainer):
    """Trains a model epoch by epoch. A subclass writes _train_epoch; train() does the rest.

    model: nn.Module on its device.
    criterion: callable (output, target) -> 0-dim tensor.
    metric_ftns: callables (output, target) -> number, each with a __name__.
    optimizer: of the model's parameters.
    config: ConfigParser; its section "trainer" is read here.
    config_after_resume, train_logger: only for projects of the old template; see OldTrainerForms.

    What is saved, and how to resume within an epoch, is told in base/base_trainer.py.
    """

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        return _BaseTrainer in kind.__mro__ if cls is BaseTrainer else NotImplemented
