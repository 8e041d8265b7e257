"""What torch.nn.SyncBatchNorm calls, and the CPU has not: the simulated device computes it with tensors of the CPU.

Of inputs (N, C, ...): means and inverse standard deviations (C,), of P processes (P, C), of counts (P,).
"""


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


KERNELS = {
    "aten::batch_norm_stats": _stats,
    "aten::batch_norm_gather_stats_with_counts": _gathered,
    "aten::batch_norm_elemt": _normalized,
    "aten::batch_norm_backward_reduce": _sums,
    "aten::batch_norm_backward_elemt": _gradient,
}
