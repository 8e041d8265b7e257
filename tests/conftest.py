"""Fixtures of all tests."""

import functools
import gc
import itertools
import logging
import os
import signal
import types
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests run side by side, and threads would fight
hypothesis.settings.register_profile("untimed", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("untimed")  # on a busy machine, an example takes any time
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell script; processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
metadata.version = functools.cache(metadata.version)  # each run records the versions, and reading them takes a while


def pytest_collection_finish():
    gc.freeze()  # the objects of the libraries, which the many collections of tests need not look at


@pytest.fixture(autouse=True)
def _no_flush_in_tests_of_training(request, monkeypatch):
    """Save without waiting for the disk in tests/base, whose many short runs no power cut meets; others flush."""
    if request.path.is_relative_to(request.config.rootpath / "tests" / "base"):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session", autouse=True)
def _unpack_mnist_once():
    """Unpack the project's own MNIST once in a process, which a hundred short runs read; again if a file changes."""
    from base.data import mnist_files
    from helpers import PROJECT

    read = mnist_files._read

    @functools.cache
    def unpacked(data_dir, name, path, changed, size):
        return read(data_dir, name)

    def read_or_copy(data_dir, name):
        path = mnist_files._find(data_dir, name)
        if path is None or Path(data_dir).resolve() != PROJECT / "data":
            return read(data_dir, name)
        return unpacked(data_dir, name, path, path.stat().st_mtime_ns, path.stat().st_size).clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist_files, "_read", read_or_copy)
        yield


@pytest.fixture(autouse=True)
def _untouched_logging():
    """Leave no handler behind that writes into a test's folder or holds its output."""
    yield
    for handler in logging.getLogger().handlers[:]:
        if "_pytest" not in type(handler).__module__:
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture
def event_files_in_order(monkeypatch):
    """TensorBoard reads a folder's files by name: second, process, and a count, which sorts only if padded."""
    from tensorboard.summary.writer import event_file_writer

    count = itertools.count()
    padded = types.SimpleNamespace(get=lambda: f"{next(count):06}")
    monkeypatch.setattr(event_file_writer, "_global_uid", padded)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory):
    """The folder of a run of the default job, ten batches long."""
    from helpers import PROJECT
    from parse_config import ConfigParser
    from train import build

    settings = {"epochs": 1, "len_epoch": 10, "limit_valid_batches": 2, "verbosity": 0, "tensorboard": False}
    settings["save_dir"] = str(tmp_path_factory.mktemp("default"))
    given = {f"trainer.{key}": value for key, value in settings.items()}
    trainer = build(ConfigParser.from_file(PROJECT / "config.json", given))
    trainer.train()
    return trainer.checkpoint_dir
