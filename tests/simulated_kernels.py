"""Kernels that only GPUs have, computed with tensors of the CPU for the simulated device.

Those of torch.nn.SyncBatchNorm, of inputs (N, C, ...): means and inverse standard deviations (C,), of P processes
(P, C), of counts (P,); and the step of torch.nn.GRU, of gates (N, 3 H) for reset, update and candidate.
"""

import torch


def _others(input):
    """All dimensions but the channels'."""
    return [dimension for dimension in range(input.dim()) if dimension != 1]


def _by_channel(values, input):
    return values.view(1, -1, *[1] * (input.dim() - 2))


def _stats(input, eps):
    return input.mean(_others(input)), (input.var(_others(input), correction=0) + eps).rsqrt()


def _gathered(input, means, inverses, running_mean, running_var, momentum, eps, counts):
    shares, total = (counts / counts.sum()).view(-1, 1), counts.sum()
    mean = (means * shares).sum(0)
    variance = ((inverses**-2 - eps + (means - mean) ** 2) * shares).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def _normalized(input, weight, bias, mean, inverse, eps):
    normal = (input - _by_channel(mean, input)) * _by_channel(inverse, input)
    return normal * _by_channel(weight, input) + _by_channel(bias, input)


def _sums(gradient, input, mean, inverse, weight, *is_wanted):
    products = (gradient * (input - _by_channel(mean, input))).sum(_others(input))
    sums = gradient.sum(_others(input))
    return sums, products, products * inverse, sums


def _gradient(gradient, input, mean, inverse, weight, sums, products, counts):
    total = counts.sum()
    slope = _by_channel(inverse**2 * products / total, input)
    centred = gradient - _by_channel(sums / total, input) - (input - _by_channel(mean, input)) * slope
    return centred * _by_channel(inverse * weight, input)


def _gru_step(input_gates, hidden_gates, hidden, input_bias=None, hidden_bias=None):
    given, kept = input_gates, hidden_gates
    if input_bias is not None:
        given, kept = given + input_bias, kept + hidden_bias
    (reset, update, new), (reset_kept, update_kept, new_kept) = given.chunk(3, 1), kept.chunk(3, 1)
    reset, update = (reset + reset_kept).sigmoid(), (update + update_kept).sigmoid()
    candidate = (new + reset * new_kept).tanh()
    workspace = torch.cat([reset, update, candidate, hidden, new_kept], dim=1)
    return candidate + update * (hidden - candidate), workspace


def _gru_gradients(gradient, workspace, has_bias):
    reset, update, candidate, hidden, new_kept = workspace.chunk(5, 1)
    of_update = gradient * (hidden - candidate) * update * (1 - update)
    of_new = gradient * (1 - update) * (1 - candidate**2)
    of_reset = of_new * new_kept * reset * (1 - reset)
    of_input = torch.cat([of_reset, of_update, of_new], dim=1)
    of_hidden = torch.cat([of_reset, of_update, of_new * reset], dim=1)
    of_biases = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, gradient * update, *of_biases


KERNELS = {
    "aten::_thnn_fused_gru_cell": _gru_step,
    "aten::_thnn_fused_gru_cell_backward": _gru_gradients,
    "aten::batch_norm_stats": _stats,
    "aten::batch_norm_gather_stats_with_counts": _gathered,
    "aten::batch_norm_elemt": _normalized,
    "aten::batch_norm_backward_reduce": _sums,
    "aten::batch_norm_backward_elemt": _gradient,
}
