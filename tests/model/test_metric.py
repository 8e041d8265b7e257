import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from base import UserError
from model.metric import ConfusionMatrix, MacroF1, accuracy, top_k_acc


def updated(metric, output, target, size):
    for outputs, targets in zip(output.split(size), target.split(size), strict=True):
        metric.update(outputs, targets)
    return metric.compute()


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_macro_f1_and_confusion_matrix_are_those_of_torchmetrics(size, shape):
    torch.manual_seed(0)
    output, target = torch.randn(40, 5, *shape), torch.randint(4, (40, *shape))
    output[:, 4] -= 9  # a class that occurs nowhere counts for nothing
    matrix = updated(ConfusionMatrix(5), output, target, size)
    assert torch.equal(matrix, multiclass_confusion_matrix(output, target, 5))
    expected = multiclass_f1_score(output, target, 5, average="macro")
    assert updated(MacroF1(5), output, target, size).item() == pytest.approx(expected.item(), rel=1e-6)


def test_reset_begins_anew():
    metric = MacroF1(2)
    updated(metric, torch.eye(2), torch.tensor([1, 0]), 1)
    metric.reset()
    assert updated(metric, torch.eye(2), torch.tensor([0, 1]), 1) == 1


def test_model_with_other_classes_is_refused():
    with pytest.raises(ValueError, match="num_classes is 3, and the model gives 4"):
        MacroF1(3).update(torch.rand(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("metric", [accuracy, top_k_acc, MacroF1(4).update, ConfusionMatrix(4).update])
@pytest.mark.parametrize("target", [torch.zeros(5, 1), torch.zeros(5, 4), torch.zeros(4), torch.zeros(())])
def test_targets_of_a_shape_that_would_be_compared_otherwise_are_refused(metric, target):
    with pytest.raises(UserError, match=r"output is \(5, 4\) and the target"):
        metric(torch.rand(5, 4), target.long())


def test_accuracy_of_one_logit_is_refused():
    with pytest.raises(UserError, match="two or more classes"):
        accuracy(torch.rand(5, 1), torch.zeros(5))


@pytest.mark.parametrize("ignored", [-100, 0, 3, 7])
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_ignored_targets_count_neither_as_hits_nor_as_misses(ignored, shape):
    torch.manual_seed(0)
    output, target = torch.randn(40, 5, *shape), torch.randint(4, (40, *shape))
    target[torch.rand(target.shape) < 0.4] = ignored
    kept = target != ignored
    rows, labels = output.movedim(1, -1)[kept], target[kept]
    given = {} if ignored == -100 else {"ignore_index": ignored}
    assert accuracy(output, target, **given) == (rows.argmax(1) == labels).double().mean()
    assert top_k_acc(output, target, k=2, **given) == top_k_acc(rows, labels, k=2)
    matrix = updated(ConfusionMatrix(5, **given), output, target, 7)
    assert torch.equal(matrix, multiclass_confusion_matrix(rows, labels, 5))
    assert updated(MacroF1(5, **given), output, target, 7) == updated(MacroF1(5), rows, labels, 40)


def test_of_a_batch_in_which_all_is_ignored_nothing_is_known():
    output, target = torch.rand(4, 3), torch.full((4,), -100)
    assert accuracy(output, target).isnan()
    assert not updated(ConfusionMatrix(3), output, target, 2).any()
