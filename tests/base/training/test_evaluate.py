import pytest
import torch

from base.training.evaluate import evaluate
from helpers import accuracy
from utils import MetricTracker


@pytest.mark.old_defect(5)
@pytest.mark.parametrize("batch_size", [1, 7, 16, 50])
def test_result_is_the_same_for_any_batch_size(batch_size):
    torch.manual_seed(0)
    data, target = torch.randn(50, 4), torch.randint(3, (50,))
    model = torch.nn.Linear(4, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, target), batch_size)
    criterion = torch.nn.functional.cross_entropy
    values = evaluate(model, criterion, [accuracy], loader, torch.device("cpu"), MetricTracker("loss", "accuracy"))
    assert values["accuracy"] == pytest.approx(accuracy(model(data), target).item(), abs=1e-15)
    assert values["loss"] == pytest.approx(criterion(model(data), target).item(), rel=1e-6)


def test_nothing_is_recorded_for_gradients_and_the_model_is_in_evaluation_mode():
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, inputs):
            seen.append((torch.is_grad_enabled(), self.training))
            return inputs * self.weight

    batches = [(torch.rand(2, 3), torch.tensor([0, 1]))]
    criterion = torch.nn.functional.cross_entropy
    evaluate(Watching(), criterion, [], batches, torch.device("cpu"), MetricTracker("loss"))
    assert seen == [(False, False)]
