"""Iterate without end."""


def inf_loop(data_loader):
    """Batches of the loader, pass after pass, without end."""
    while True:
        yield from data_loader
