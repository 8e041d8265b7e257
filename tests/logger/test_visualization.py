import logging
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logger import TensorboardWriter
from logger.base_tracker import BaseTracker, TrackerList
from utils import UserError


@pytest.fixture
def writer(tmp_path):
    return TensorboardWriter(tmp_path, logging.getLogger("x"), enabled=True)


def read(writer, path):
    writer.close()
    events = EventAccumulator(str(path))
    events.Reload()
    return events


def test_step_and_mode_are_filled_in(writer, tmp_path):
    writer.set_step(3)
    writer.add_scalar("loss", 0.5)
    writer.set_step(4, "valid")
    writer.add_scalar("loss", torch.tensor(0.25))
    events = read(writer, tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(3, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("loss/valid")] == [(4, 0.25)]


def test_rate_is_logged_between_steps_of_one_mode(writer, tmp_path):
    for step, mode in ((0, "train"), (5, "train"), (5, "train"), (6, "valid")):
        writer.set_step(step, mode)
    rates = read(writer, tmp_path).Scalars("steps_per_sec/train")
    assert [event.step for event in rates] == [5] and rates[0].value > 0


def test_every_kind_of_data_can_be_added(writer, tmp_path):
    writer.set_step(1)
    writer.add_scalars("several", {"a": 1, "b": 2})
    writer.add_image("image", torch.rand(3, 8, 8))
    writer.add_images("images", torch.rand(2, 3, 8, 8))
    writer.add_audio("audio", torch.rand(1, 100), sample_rate=8000)
    writer.add_text("text", "words")
    writer.add_histogram("weights", torch.rand(10), bins="auto")
    writer.add_pr_curve("curve", torch.tensor([0, 1]), torch.tensor([0.2, 0.9]))
    writer.add_embedding("points", torch.rand(4, 3))
    tags = read(writer, tmp_path).Tags()
    assert {"image/train", "images/train"} <= set(tags["images"]) and tags["audio"] == ["audio/train"]
    assert tags["histograms"] == ["weights/train"] and len(tags["tensors"]) >= 2


def test_graph_is_written_once_and_a_model_that_cannot_be_traced_only_warns(writer, tmp_path, caplog):
    class Odd(torch.nn.Module):
        def forward(self, inputs):
            return {"nested": {"value": inputs}, "text": "x"}

    writer.add_graph(torch.nn.Linear(2, 2), torch.rand(1, 2))
    logging.getLogger().addHandler(caplog.handler)
    writer.add_graph(Odd(), torch.rand(1, 2))
    assert "no model graph in TensorBoard" in caplog.text
    assert read(writer, tmp_path).Tags()["graph"] is True


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("method", "data", "kwargs"),
    [
        ("add_histogram", [1.0, NAN], {"bins": "auto"}),
        ("add_histogram", [1.0, INF], {"bins": "auto"}),
        ("add_histogram", [1e30], {}),
        ("add_histogram", [], {}),
        ("add_image", [[[NAN]]], {}),
        ("add_audio", [[NAN]], {}),
        ("add_pr_curve", [0, 1], {"predictions": torch.tensor([NAN, 0.5])}),
        ("add_scalar", [1.0, 2.0], {}),
    ],
)
def test_what_cannot_be_shown_is_told_once_for_each_tag_and_ends_nothing(
    writer, tmp_path, caplog, method, data, kwargs
):
    for step in (1, 2):
        writer.set_step(step)
        getattr(writer, method)("odd", torch.tensor(data), **kwargs)
        writer.add_scalar("loss", NAN)
    assert [record.message.partition(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "odd/train"
    ]
    assert [event.step for event in read(writer, tmp_path).Scalars("loss/train")] == [1, 2]


def test_what_is_no_number_is_left_out_of_a_trackers_row(tmp_path, caplog):
    told = []

    class Diary(BaseTracker):
        def add_rows(self, rows):
            told.extend(rows)

    writer = TensorboardWriter(tmp_path, logging.getLogger("x"), False, TrackerList([Diary()]))
    writer.start()
    with writer:
        writer.set_step(1)
        writer.add_scalars("several", {"a": None, "b": 2})
        writer.add_scalar("none", None)
    assert told == [(1, {"several/train/b": 2.0})]
    assert caplog.text.count("skipped where it cannot be shown") == 2


def test_disabled_writer_does_nothing_and_imports_nothing(tmp_path):
    writer = TensorboardWriter(tmp_path / "none", logging.getLogger("x"), enabled=False)
    writer.set_step(1)
    writer.add_scalar("loss", 1)
    writer.add_embedding("points", None)
    writer.add_graph(None, None)
    writer.close()
    assert not (tmp_path / "none").exists()


def test_files_that_cannot_be_written_are_one_error_and_no_traceback_of_a_thread(writer, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    writer.writer.flush()
    (events,) = tmp_path.iterdir()
    events.unlink()
    events.mkdir()  # as little to be written to as a full disk
    with pytest.raises(UserError, match="cannot write the TensorBoard files: Is a directory"):
        for step in range(1000):
            writer.add_scalar("loss", step)
            writer.flush()
    assert not seen


def test_other_threads_end_as_ever(writer, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    assert writer.writer
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    writer.close()
    assert [ended.exc_type for ended in seen] == [ZeroDivisionError]


@pytest.mark.old_defect(21)
def test_missing_method_is_named_with_its_class(writer):
    with pytest.raises(AttributeError, match="'TensorboardWriter' object has no attribute 'add_scalarr'"):
        writer.add_scalarr("loss", 1)
    writer.close()
