"""What no optimizer step can do: rules that the loop asks, and the check of a config before torch is there."""


def optimizer_error(name):
    """What is wrong with an optimizer of the class of that name; None if nothing is."""
    if name == "LBFGS":
        return "LBFGS wants to compute the loss itself, several times a step; use another"
    return None


def precision_error(precision, device):
    """What is wrong with a precision on a kind of device, "cpu", "cuda" or "mps"; None if nothing is."""
    if precision == "fp16" and device != "cuda":
        return f"'fp16' needs a CUDA GPU, and this run is on {device}; use 'bf16' or 'fp32'"
    return None
