"""Measure a model on data without training it; the trainer's validation and test.py both come here."""

import torch

from trainer.speed import autocast


def evaluate(model, criterion, metric_ftns, data_loader, device, tracker, precision="fp32"):
    """{name: average over all samples} of the loss and the metrics. tracker: a MetricTracker of those names."""
    model.eval()
    tracker.reset()
    with torch.no_grad():
        for data, target in data_loader:
            data, target = data.to(device, non_blocking=True), target.to(device, non_blocking=True)
            with autocast(precision, device):
                output = model(data)
                loss = criterion(output, target)
            record(tracker, metric_ftns, loss, output, target, reduction_of(criterion))
    return tracker.result()


def record(tracker, metric_ftns, loss, output, target, reduction="mean"):
    """Count a batch's loss (0-dim) and metrics, weighted by its samples. target: (N, ...)."""
    num_samples = len(target)
    tracker.update("loss", loss / num_samples if reduction == "sum" else loss, n=num_samples)
    with torch.no_grad():
        for metric in metric_ftns:
            tracker.update(metric.__name__, metric(output, target), n=num_samples)


def reduction_of(criterion):
    """ "sum" if the criterion adds up its batch's losses, as torch's do when told to, else "mean"."""
    given = getattr(criterion, "keywords", {}).get("reduction")  # of a function with its arguments bound
    return "sum" if "sum" in (given, getattr(criterion, "reduction", None)) else "mean"
