import pytest
import torch

from base import BaseModel


class Doubling(BaseModel):
    def __init__(self):
        super().__init__()
        self.fixed = torch.nn.Linear(3, 2).requires_grad_(False)
        self.trained = torch.nn.Linear(2, 5)

    def forward(self, inputs):
        return self.trained(self.fixed(inputs))


def test_str_counts_trainable_parameters():
    assert str(Doubling()).endswith("Trainable parameters: 15")


@pytest.mark.old_defect(19)
def test_model_without_forward_cannot_be_made():
    class Empty(BaseModel):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()
