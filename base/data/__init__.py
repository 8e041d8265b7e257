"""Data sets, loaders that are ready for use, and what splits, shuffles and seeds them."""
