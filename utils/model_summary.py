"""A table of a model's layers."""

import torch


def model_summary(model, batch):
    """Text of at most 80 columns: each layer's name, type, output shape and parameters, for a batch run through.

    batch: input on the model's device. The model is run once, in evaluation mode and without gradients.
    """
    rows = []
    hooks = [
        module.register_forward_hook(_recorder(name, rows))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    was_training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.eval()(batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    table = [("layer", "type", "output", "parameters"), *rows]
    widths = [min(26, max(len(row[i]) for row in table)) for i in range(3)]
    lines = [
        "  ".join([*(cell[:width].ljust(width) for cell, width in zip(row, widths, strict=False)), row[3].rjust(12)])
        for row in table
    ]
    fixed = f", {total - trained:,} of them fixed" if trained < total else ""
    return "\n".join([f"{type(model).__name__}: {total:,} parameters{fixed}", *lines])


def _recorder(name, rows):
    def record(module, inputs, output):
        shape = " x ".join(map(str, output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
        own = sum(parameter.numel() for parameter in module.parameters())
        rows.append((name, type(module).__name__, shape, f"{own:,}"))

    return record
