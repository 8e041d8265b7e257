"""Iterate without end."""

from utils.batches import batches_of


def inf_loop(data_loader):
    """Batches of the loader, pass after pass, without end."""
    while True:
        yield from batches_of(data_loader)
