"""Training, loading, testing and predicting on an accelerator that is not CUDA, simulated in a process of its own."""

import pytest
import torch.utils.backend_registration
from forked import run_forked

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends in Python",
)
@pytest.mark.parametrize("file", ["cases", "commands", "features", "uses"])
def test_all_works_on_another_device_and_waits_for_it_at_reports_alone(file):
    run_forked("-m", "pytest", f"tests/simulated_device_{file}.py", "-n", "0", "-q", "--tb=short", timeout=900)
