"""What goes wrong while data are read is told with the sample, and the run is saved first."""

import gc
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import START_METHOD, run_forked
from PIL import Image

from base import BaseDataLoader, InMemoryDataset
from helpers import PROJECT, TinyData, tiny_config, tiny_trainer
from utils import inf_loop
from utils.batches import DataError, Samples, batches_of, collate, file_of, sample_error
from utils.runs.checkpoint import find_checkpoint, load_checkpoint


class Raising(TinyData):
    """Sample 7 cannot be read."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error or ValueError("a broken picture")

    def __getitem__(self, index):
        if index == 7:
            raise self.error
        return super().__getitem__(index)


class WithFiles(Raising):
    def __init__(self):
        super().__init__()
        self.samples = [(f"pictures/{i}.png", 0) for i in range(50)]


def end_workers(loader):
    """End them here: the garbage collector, which would find them in the traceback's frames, waits 5 s for each."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Raising(), r"data_loader: sample 7: ValueError: a broken picture \(.*test_batches.py:\d+\)"),
        (WithFiles(), r"data_loader: sample 7 \(pictures/7.png\): ValueError: a broken picture"),
        (Raising(FileNotFoundError(2, "No such file or directory", "x.png")), r"sample 7 \(x.png\): FileNotFoundError"),
        (Raising(KeyError("label")), r"sample 7: KeyError: 'label'"),
        (torch.utils.data.Subset(Raising(), list(range(5, 20))), r"sample 7: ValueError: a broken picture"),
    ],
)
def test_a_sample_that_cannot_be_read_is_named(dataset, message, num_workers):
    loader = BaseDataLoader(dataset, 4, True, 0, num_workers)
    loader.set_epoch(1)
    with pytest.raises(DataError, match=message) as error:
        list(batches_of(loader))
    end_workers(loader)
    assert "\n" not in str(error.value)


def test_notes_of_an_error_do_not_take_the_place_of_its_message():
    """Python 3.14 adds notes to the errors of pickle, such as "when serializing dict item 'f'"."""
    error = ValueError("a broken picture")
    error.add_note("when reading a picture")
    with pytest.raises(DataError, match=r"^data_loader: sample 7: ValueError: a broken picture \(.*:\d+\)$"):
        list(batches_of(BaseDataLoader(Raising(error), 4, False, 0, 0)))


class Ragged(TinyData):
    def __getitem__(self, index):
        return torch.zeros(index), 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_that_do_not_fit_together_are_one_line(num_workers):
    loader = BaseDataLoader(Ragged(), 4, False, 0, num_workers)
    with pytest.raises(
        DataError, match=r"^data_loader: sample \d+ is tuple of .*, and sample \d+ is .*; give all the same shape"
    ) as error:
        list(batches_of(loader))
    end_workers(loader)
    assert "\n" not in str(error.value)


ROW = torch.zeros(2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(ROW, None), (ROW, 1)], "sample 7 is tuple of tensor (2,) float32, NoneType; return a sample for each index"),
        ([(ROW, 1), None], "sample 9 is NoneType; return a sample for each index, without None"),
        ([(Image.new("L", (4, 4)), 0)], "sample 7 is tuple of Image, int; make tensors of images, as torchvision's"),
        ([{"a": ROW, "b": ROW}, {"a": ROW}], "sample 9 is dict of a: tensor (2,) float32, and sample 7 is dict of a: "),
        ([({"a": ROW}, 0), ({"a": ROW, "b": ROW}, 0)], "; give all the same parts, keys and types, or"),
        ([{"a": ROW}, {"b": ROW}], "; give all the same parts, keys and types, or"),
        ([(ROW, 1), (ROW, "cat")], "sample 9 is tuple of tensor (2,) float32, str, and sample 7 is tuple of tensor "),
        ([(ROW, 1), (ROW, 1, 2)], "; give all the same parts, keys and types, or"),
        ([(ROW, [1, 2]), (ROW, [1])], "; give all the same parts, keys and types, or"),
        ([(ROW, 1), (torch.zeros(3), 1)], "; give all the same shape, or give a collate_fn of your own"),
        ([(object(), 1)], "sample 7 is tuple of object, int; return tensors, arrays, numbers or text, or give"),
    ],
)
def test_samples_that_make_no_batch_are_told_with_what_would_do(samples, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        collate(Samples(samples, [7, 9][: len(samples)]))
    assert str(error.value).startswith("data_loader: sample ") and "\n" not in str(error.value)


def test_samples_that_are_dicts_make_a_batch():
    batch = collate(Samples([({"a": ROW, "b": 1}, "x"), ({"b": 2, "a": ROW}, "y")], [0, 1]))
    assert batch[0]["b"].tolist() == [1, 2] and batch[0]["a"].shape == (2, 2) and list(batch[1]) == ["x", "y"]


def test_the_run_is_saved_before_it_ends_on_bad_data(tmp_path):
    trainer = tiny_trainer(
        tiny_config(tmp_path, epochs=2), loader_class=lambda data, *args: BaseDataLoader(Raising(), *args)
    )
    batches = [trainer.data_loader.batch_indices(1, i) for i in range(5)]
    bad = next((i for i, batch in enumerate(batches) if 7 in batch), None)
    with pytest.raises(DataError, match="sample 7"):
        trainer.train()
    (saved,) = trainer.checkpoint_dir.glob("checkpoint*")
    state = load_checkpoint(saved)
    assert (state["epoch"], state["batch"]) == (0, bad if bad is not None else 5)


START_SECONDS = 2 if START_METHOD == "fork" else 30  # enough for a worker to start: others than forked import torch

_JOB = """
import os, signal, sys, time
sys.path[:0] = [{project!r}, {tests!r}]
from pathlib import Path
from helpers import TinyData, tiny_config, tiny_trainer
from base import BaseDataLoader, InMemoryDataset
from utils.errors import clean_exit

class Faulty(TinyData):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads > 100:
            {fault}
        return super().__getitem__(index)

def loader(data, batch_size, shuffle, split, workers):
    return BaseDataLoader(Faulty(), batch_size, False, split, 2, timeout={timeout})

if __name__ == "__main__":  # spawned workers import this file
    with clean_exit():
        tiny_trainer(tiny_config({folder!r}, epochs=9), loader_class=loader).train()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "timeout", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            1800,
            "data_loader: a worker process ended by SIGKILL; the system may",
        ),
        ("os._exit(3)", 0, "data_loader: a worker process ended with status 3"),
        (
            "time.sleep(1000)",
            START_SECONDS,
            f"data_loader: DataLoader timed out after {START_SECONDS} seconds: a worker hangs",
        ),
    ],
)
def test_a_worker_that_dies_or_hangs_ends_the_run_with_a_checkpoint(tmp_path, fault, timeout, message):
    places = {"project": str(PROJECT), "tests": str(PROJECT / "tests"), "folder": str(tmp_path)}
    (tmp_path / "job.py").write_text(_JOB.format(**places, fault=fault, timeout=timeout))
    done = run_forked(tmp_path / "job.py", status=2)
    assert f"error: {message}" in done.stderr and "Traceback" not in done.stderr, done.stderr
    newest, damaged = find_checkpoint(next(tmp_path.glob("models/*/*")))
    assert load_checkpoint(newest)["epoch"] >= 1 and not damaged


def test_a_worker_that_dies_during_a_step_is_found_when_the_next_batch_is_awaited():
    loader = BaseDataLoader(TinyData(), 8, False, 0, 1)
    batches = batches_of(loader)
    next(batches)
    (worker,) = loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # SIGCHLD comes, and nothing is raised here
    started = time.monotonic()
    with pytest.raises(DataError, match="a worker process ended by SIGKILL"):
        for _ in batches:
            pass
    assert time.monotonic() - started < 5


def test_a_worker_that_dies_between_two_passes_is_told_at_the_next_one():
    """torch would wait for it as long as for a batch, by default half an hour, and end with a traceback."""
    loader = BaseDataLoader(TinyData(), 8, False, 0, 1, timeout=60)
    list(batches_of(loader))
    (worker,) = loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(DataError, match="a worker process ended by SIGKILL"):
        batches_of(loader)


def test_a_worker_that_dies_is_told_when_another_loader_begins_its_pass():
    trains, validates = (BaseDataLoader(TinyData(), 8, False, 0, 1, timeout=60) for _ in range(2))
    next(batches_of(trains))
    (worker,) = trains._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(DataError, match=rf"^data_loader: .*{worker.pid}.* is killed by signal"):
        batches_of(validates)


class Hanging(TinyData):
    def __getitem__(self, index):
        time.sleep(1000)


def test_a_pass_after_one_whose_workers_hung_starts_others():
    """The summary at the start of a run reads a batch before training does, and leaves the report to training."""
    loader = BaseDataLoader(Hanging(), 8, False, 0, 1, timeout=1)
    for _ in range(2):
        with pytest.raises(DataError, match="timed out after 1 seconds: a worker hangs"):
            next(batches_of(loader))


def test_every_pass_over_a_plain_loader_has_an_order_of_its_own():
    loader = torch.utils.data.DataLoader(torch.arange(50), batch_size=50, shuffle=True, num_workers=1)
    batches = inf_loop(loader)
    orders = {tuple(next(batches).tolist()) for _ in range(3)}
    batches.close()
    assert len(orders) == 3


def test_an_end_of_iteration_within_a_sample_is_not_the_end_of_the_data():
    broken = []

    def transform(images):
        if broken:
            raise StopIteration
        return images

    loader = BaseDataLoader(InMemoryDataset(torch.zeros(9, 2), torch.zeros(9), transform=transform), 3, False, 0, 0)
    broken.append(True)
    with pytest.raises(DataError, match="StopIteration"):
        list(batches_of(loader))


def test_workers_end_with_their_loader_and_wait_for_no_garbage_collector():
    loader = BaseDataLoader(TinyData(), 8, True, 0, 2)
    list(batches_of(loader))
    workers = loader._iterator._workers
    gc.disable()  # which would take the queues to the workers apart before it tells the workers to end
    try:
        del loader
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()


class Entry(os.PathLike):
    """A path whose text is another than its path."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


class Listing(torch.utils.data.Dataset):
    """A dataset of two samples with the attributes given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    ("attributes", "file"),
    [
        ({"images": ["a.png", "b.png"]}, "b.png"),
        ({"samples": [("a.png", 0), ("b.png", 1)]}, "b.png"),
        ({"transforms": [1, 2], "pictures": [Path("a.png"), Path("b.png")]}, "b.png"),
        ({"pairs": [(Path("a.png"), Path("a.txt")), (Path("b.png"), Path("b.txt"))]}, "b.png"),
        ({"folders": [Path("x"), Path("y"), Path("z")]}, None),  # not one for each sample
        ({"sentences": ["one", "two"], "images": torch.zeros(2, 3)}, None),
        ({"masks": [Path("m/a.png"), Path("m/b.png")], "pictures": [Path("a.png"), Path("b.png")]}, None),
        ({"masks": [Path("m/a.png"), Path("m/b.png")], "images": [Path("a.png"), Path("b.png")]}, "b.png"),
        ({"files": np.array(["a.png", "b.png"])}, "b.png"),
        ({"files": [Entry("a.png"), Entry("b.png")]}, "b.png"),
    ],
)
def test_the_file_of_a_sample_is_found_in_what_the_dataset_lists(attributes, file):
    assert file_of(Listing(**attributes), 1) == file


class LazyImages(Listing):
    """A dataset whose images are decoded when they are read; one of them is damaged."""

    class Images:
        num_read = 0

        def __len__(self):
            return 2

        def __getitem__(self, index):
            self.num_read += 1
            raise OSError("damaged")

    images = Images()

    def __getitem__(self, index):
        raise ValueError("no such label")


def test_no_image_is_decoded_to_name_its_file():
    dataset = LazyImages(files=["a.png", "b.png"])
    error = sample_error(dataset, 1, ValueError("no such label"))
    assert "sample 1 (b.png): ValueError: no such label" in str(error)
    assert file_of(LazyImages(), 1) is None and dataset.images.num_read == 0
