"""BaseModel: a torch module that says how many parameters it trains."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from utils.old_forms.model import OldModelForms


class BaseModel(OldModelForms, nn.Module, ABC):
    """A model. A subclass writes forward."""

    @abstractmethod
    def forward(self, *inputs: Any) -> Any:
        """The model's output for a batch of inputs."""

    def __str__(self) -> str:
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return f"{super().__str__()}\nTrainable parameters: {trainable}"
