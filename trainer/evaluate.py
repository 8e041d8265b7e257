"""Measure a model on data without training it; the trainer's validation and test.py both come here."""

import torch


def evaluate(model, criterion, metric_ftns, data_loader, device, tracker):
    """{name: average over all samples} of the loss and the metrics. tracker: a MetricTracker of those names."""
    model.eval()
    tracker.reset()
    with torch.no_grad():
        for data, target in data_loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            record(tracker, metric_ftns, criterion(output, target), output, target)
    return tracker.result()


def record(tracker, metric_ftns, loss, output, target):
    """Count a batch's loss (0-dim) and metrics, weighted by its samples. target: (N, ...)."""
    tracker.update("loss", loss, n=len(target))
    with torch.no_grad():
        for metric in metric_ftns:
            tracker.update(metric.__name__, metric(output, target), n=len(target))
