"""Training, loading, testing and predicting on an accelerator that is not CUDA, simulated in a process of its own."""

import subprocess
import sys

import pytest
import torch.utils.backend_registration

from helpers import PROJECT

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends in Python",
)
@pytest.mark.parametrize("file", ["simulated_device_cases.py", "simulated_device_uses.py"])
def test_all_works_on_another_device_and_waits_for_it_at_reports_alone(file):
    cases = [sys.executable, "-m", "pytest", f"tests/{file}", "-n", "0", "-q", "--tb=short"]
    done = subprocess.run(cases, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
