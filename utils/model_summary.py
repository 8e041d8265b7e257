"""A table of a model's layers."""

import torch


def example_input(data_loader, device):
    """Two inputs of the loader's first batch, on the device; None if its batches do not begin with a tensor."""
    batch = next(iter(data_loader))
    first = batch[0] if isinstance(batch, (list, tuple)) else None
    return first[:2].to(device) if isinstance(first, torch.Tensor) else None


def model_summary(model, example):
    """Text of at most 80 columns: each layer's name, type, output shape and parameters, and the sums.

    example: input on the model's device, run through once in evaluation mode and without gradients; None for the
    sums alone.
    """
    try:
        rows = [] if example is None else _layers(model, example)
    except Exception:  # the model may want more than one input; if it is broken, training will say where
        rows = []
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = f", {total - trained:,} of them fixed" if trained < total else ""
    return "\n".join([f"{type(model).__name__}: {total:,} parameters{fixed}", *_table(rows)])


def _layers(model, example):
    """(name, type, output shape, parameters) of each layer, in the order in which they run."""
    rows = []
    hooks = [
        module.register_forward_hook(_recorder(name, rows))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    was_training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.eval()(example)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows


def _table(rows):
    if not rows:
        return []
    rows = [("layer", "type", "output", "parameters"), *rows]
    widths = [min(26, max(len(row[i]) for row in rows)) for i in range(3)]
    cells = [[cell[:width].ljust(width) for cell, width in zip(row, widths, strict=False)] for row in rows]
    return ["  ".join([*left, row[3].rjust(12)]) for left, row in zip(cells, rows, strict=True)]


def _recorder(name, rows):
    def record(module, inputs, output):
        shape = " x ".join(map(str, output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
        own = sum(parameter.numel() for parameter in module.parameters())
        rows.append((name, type(module).__name__, shape, f"{own:,}"))

    return record
