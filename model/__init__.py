"""YOURS: models, losses and metrics."""
