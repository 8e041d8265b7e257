import contextlib
import json
import logging
import re
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from helpers import tiny_config, tiny_trainer
from logger import TensorboardWriter
from logger.base_tracker import BaseTracker, TrackerList
from utils import UserError

NAN, INF = float("nan"), float("inf")


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


def points(folder, tag):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_training_and_validation_are_two_lines_of_one_chart(writer, tmp_path):
    writer.set_step(7, "valid")  # which they do not follow
    writer.add_values({"loss": 0.5, "val_loss": 0.25, "val_gap": NAN}, step=10)
    writer.add_values({"loss": 0.375}, step=20)
    writer.close()
    assert points(tmp_path, "loss") == [(10, 0.5), (20, 0.375)] and points(tmp_path / "val", "loss") == [(10, 0.25)]
    assert EventAccumulator(str(tmp_path / "val")).Reload().Tags()["scalars"] == ["loss", "gap"]


def test_the_numbers_of_a_report_are_one_event(writer, tmp_path):
    for step in (5, 10):
        writer.add_report({"loss": 0.5, "accuracy": torch.tensor(0.25), "odd": "x"}, step)
        writer.add_values({"loss": 0.5, "gap": 1.0, "val_loss": 0.25, "val_gap": 2.0}, step)
    writer.close()
    for folder, numbers in ((tmp_path, [2, 2, 3, 2]), (tmp_path / "val", [2, 2])):
        (path,) = folder.glob("*tfevents*")
        assert [len(event.summary.value) for event in EventFileLoader(str(path)).Load()][1:] == numbers
    assert points(tmp_path, "accuracy/train") == [(5, 0.25), (10, 0.25)]
    assert points(tmp_path, "gap") == [(5, 1.0), (10, 1.0)]


def test_trackers_get_values_by_the_names_of_metrics_csv(tmp_path):
    told = []

    class Diary(BaseTracker):
        def add_rows(self, rows):
            told.extend(rows)

    with TensorboardWriter(tmp_path / "none", logging.getLogger("x"), False, TrackerList([Diary()])) as writer:
        writer.start({"name": "a"})
        writer.set_step(7)
        writer.add_values({"loss": 0.5, "val_loss": 0.25}, step=10)
    assert told == [(10, {"loss": 0.5, "val_loss": 0.25})] and not (tmp_path / "none").exists()


def test_a_resumed_run_takes_later_points_of_validation_back(event_files_in_order, writer, tmp_path):
    writer.add_values({"loss": 4.0, "val_loss": 3.0}, step=1)
    state = writer.state_dict()
    writer.add_values({"loss": 2.0, "val_loss": 1.0}, step=2)
    writer.close()
    again = TensorboardWriter(tmp_path, logging.getLogger("x"), enabled=True)
    again.add_values({"val_loss": 9.0}, step=3)  # in a file that the state does not know
    again.load_state_dict(state)
    again.add_values({"val_loss": 0.5}, step=2)
    again.close()
    assert points(tmp_path, "loss") == [(1, 4.0)] and points(tmp_path / "val", "loss") == [(1, 3.0), (2, 0.5)]


def test_a_linked_folder_of_validation_is_not_written_through(writer, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.out.tfevents.1").write_text("not ours")
    (tmp_path / "val").symlink_to(outside)
    writer.load_state_dict({"files": {}})
    with pytest.raises(UserError, match=r"val: is a link, where the run has a folder; move it away"):
        writer.add_values({"val_loss": 1.0}, step=1)
    assert [path.name for path in outside.iterdir()] == ["events.out.tfevents.1"]


@contextlib.contextmanager
def tensorboard(folder):
    """A function (path, JSON to post or None) that returns the JSON that TensorBoard on this folder answers."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(found[1] for line in server.stderr if (found := re.search(r"at (http://\S+/) ", line)))

            def ask(path, content=None):
                data = None if content is None else json.dumps(content).encode()
                request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)

            yield ask
        finally:
            server.terminate()


def runs_in(ask, number):
    """The runs that TensorBoard has read, once there are so many."""
    for _ in range(300):
        if len(runs := ask("data/runs")) == number:
            return runs
        time.sleep(0.1)
    raise AssertionError(f"TensorBoard has read {runs}")


@pytest.mark.slow
def test_tensorboard_compares_runs_by_the_values_of_their_configs(tmp_path):
    trainers = []
    for lr in (0.1, 0.02):
        config = tiny_config(tmp_path, tensorboard=True, early_stop=3)
        config["optimizer"]["args"] = {"lr": lr, "nesterov": False}
        config["lr_scheduler"] = None  # a value that is not there, and no line in the table
        config["cli"] = [{"flag": "--lr", "target": "optimizer.args.lr"}]  # no value of a run
        trainers.append(tiny_trainer(config))
        trainers[-1].train()
    with tensorboard(tmp_path / "log") as ask:
        names = [f"tiny/{trainer.config.log_dir.name}" for trainer in trainers]
        assert sorted(runs_in(ask, 4)) == sorted([*names, *(f"{name}/val" for name in names)])
        tags = {name: tags.keys() for name, tags in ask("data/plugin/scalars/tags").items()}
        assert all({"loss", "accuracy"} <= tags[f"{name}{run}"] for name in names for run in ("", "/val"))
        assert all("loss/train" in tags[name] for name in names)

        experiment = ask("data/plugin/hparams/experiment", {"experimentName": ""})
        infos = {info["name"]: info for info in experiment["hparamInfos"]}
        assert [name for name, info in infos.items() if info.get("differs")] == ["optimizer.args.lr"]
        assert infos["optimizer.args.nesterov"]["domainDiscrete"] == ["false"]
        assert not any(name.startswith("cli") for name in infos)
        metrics = [{"group": group, "tag": "loss"} for group in ("", "val")]
        wanted = {"colParams": [{"metric": metric} for metric in metrics], "sliceSize": 10, "startIndex": 0}
        wanted["allowedStatuses"] = ["STATUS_SUCCESS"]  # which a run has that came to its end
        groups = {group["name"]: group for group in ask("data/plugin/hparams/session_groups", wanted)["sessionGroups"]}
    for name, trainer in zip(names, trainers, strict=True):
        last = trainer.table.rows()[-1]
        shown = {
            value["name"].get("group", ""): value["value"]
            for value in groups[name]["metricValues"]
            if value["name"]["tag"] == "loss"
        }
        assert groups[name]["hparams"]["optimizer.args.lr"] == trainer.config["optimizer"]["args"]["lr"]
        assert shown == pytest.approx({"": float(last["loss"]), "val": float(last["val_loss"])}, rel=1e-6)


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


def test_graph_leaves_training_modes_and_random_numbers_as_they_are(writer, tmp_path):
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.frozen = torch.nn.BatchNorm1d(3).eval()

        def forward(self, inputs):
            return self.frozen(self.attention(inputs)) + torch.rand_like(inputs)

    model = Noisy()
    state = torch.get_rng_state()
    writer.add_graph(model, torch.ones(2, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.attention.linear1.training and not model.frozen.training
    assert read(writer, tmp_path).Tags()["graph"] is True


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
