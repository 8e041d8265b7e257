"""What sweep.py consists of: the plan and its space, the study that sweeps share, trials as processes, the report."""
