"""What utils.device finds out about a device."""

import pytest
import torch

from utils import device as devices
from utils.device import exact_float

CUDA = [torch.device(f"cuda:{i}") for i in range(4)]


@pytest.fixture
def probed(monkeypatch):
    """The probed devices. zeros raises the error that is set for a device."""
    seen, errors, zeros = [], {}, torch.zeros

    def raising(*size, dtype, device):
        seen.append(device)
        if device in errors:
            raise errors[device]
        return zeros(*size, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", raising)
    devices._has_doubles.cache_clear()
    yield seen, errors
    devices._has_doubles.cache_clear()


def test_each_device_is_asked_once_whether_it_has_doubles(probed):
    seen, errors = probed
    errors[CUDA[2]] = RuntimeError("Required aspect fp64 is not supported on the device")
    errors[CUDA[3]] = TypeError(
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
    )
    found = [exact_float(device) for device in [*CUDA, *CUDA]]
    assert found == 2 * [torch.float64, torch.float64, torch.float32, torch.float32] and seen == CUDA


def test_a_lack_of_memory_does_not_make_sums_less_exact(probed):
    seen, errors = probed
    errors[CUDA[0]] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
    assert exact_float(CUDA[1]) is torch.float64 and seen == [CUDA[1]]
    with pytest.raises(torch.OutOfMemoryError):
        exact_float(CUDA[0])
    errors.clear()
    assert exact_float(CUDA[0]) is torch.float64
