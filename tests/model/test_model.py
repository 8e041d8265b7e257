import torch

from model.loss import nll_loss
from model.metric import accuracy, top_k_acc
from model.model import MnistModel


def test_model_gives_log_probabilities():
    output = MnistModel(num_classes=7)(torch.rand(3, 1, 28, 28))
    assert output.shape == (3, 7) and torch.allclose(output.exp().sum(1), torch.ones(3), atol=1e-5)


def test_metrics_are_shares_of_the_batch():
    output = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1]])
    target = torch.tensor([0, 1, 1])
    assert accuracy(output, target).item() == 1 / 3
    assert top_k_acc(output, target, k=2).item() == 2 / 3
    assert top_k_acc(output, target).item() == 1.0
    assert nll_loss(output, target).item() == -(4 + 2 + 3) / 3
