"""Datasets, ready loaders, and how samples are split, shuffled and seeded."""
