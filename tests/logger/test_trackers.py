"""Trackers of the config: they get what TensorBoard gets, go on after a restart, and do not end training by failing."""

import json
import logging
import resource
import signal
import struct

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import logger.trackers
from base import BaseCallback
from helpers import PROJECT, SHORT, changed, run_here, same, tiny_config, tiny_trainer
from logger import BaseTracker, TrackerList
from logger.base_tracker import as_picture
from logger.trackers import JsonLines
from parse_config import PARTS, ConfigParser
from trainer import Trainer
from utils import UserError
from utils.config.check import check_types
from utils.config.files import read_config
from utils.runs.checkpoint import find_checkpoint, load_checkpoint


def job(folder, *trackers, **changes):
    return {**tiny_config(folder, log_step=1, **changes), "trackers": list(trackers)}


def rows_of(trainer):
    """The rows of metrics.jsonl, without what a clock says."""
    lines = (trainer.config.log_dir / "metrics.jsonl").read_text().splitlines()
    return [{tag: v for tag, v in json.loads(line).items() if "per_sec" not in tag} for line in lines]


def points_of(trainer):
    """(step, tag, number) of each; a signal within a validation leaves two rows of its step."""
    return [(row["step"], tag, value) for row in rows_of(trainer) for tag, value in row.items() if tag != "step"]


def stopping_at(step):
    class Stops(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == step:
                self.stop("enough")

    return Stops


class Diary(BaseTracker):
    """Notes what it gets; fails on what the test says. Its state is how often it was started."""

    notes: list = []  # noqa: RUF012
    fails_on = frozenset()
    hand_overs = 0

    def __init__(self):
        self.starts = 0

    def start(self, log_dir, config):
        self.starts += 1
        self.note("start", log_dir.name, config["name"], self.starts)

    def add_rows(self, rows):
        for step, row in rows:
            self.note("row", step, row)
        type(self).hand_overs += 1

    def add_image(self, tag, image, step):
        self.note("image", step, tag, image)

    def close(self, outcome):
        self.note("close", outcome)

    def note(self, what, *rest):
        if what in self.fails_on or rest[0] in self.fails_on:
            raise ConnectionError("the server is gone\nand more")
        self.notes.append((what, *rest))

    def state_dict(self):
        return {"starts": self.starts}

    def load_state_dict(self, state):
        self.starts = state["starts"]


@pytest.fixture
def diary(monkeypatch):
    """A tracker of a project's own, named in a config as "Diary"."""
    Diary.__module__ = "logger.trackers"
    monkeypatch.setattr(logger.trackers, "Diary", Diary, raising=False)
    Diary.notes, Diary.fails_on, Diary.hand_overs = [], frozenset(), 0
    return Diary


def steps_of(diary):
    return [note[1] for note in diary.notes if note[0] == "row"]


def test_trackers_get_what_tensorboard_gets(tmp_path):
    trainer = tiny_trainer(job(tmp_path, "JsonLines", tensorboard=True, monitor="min val_loss"))
    trainer.train()
    shown = set()
    for folder, prefix in ((trainer.config.log_dir, ""), (trainer.config.log_dir / "val", "val_")):
        events = EventAccumulator(str(folder)).Reload()
        shown |= {(prefix + tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    rows = rows_of(trainer)
    given = {(tag, row["step"], float(np.float32(v))) for row in rows for tag, v in row.items() if tag != "step"}
    assert given == {point for point in shown if "per_sec" not in point[0]} and len(given) > 30
    assert [row["step"] for row in rows] == list(range(1, 11))


def test_trackers_get_numbers_and_the_input_images_without_tensorboard_and_the_outcome(tmp_path, diary):
    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.full((1, 2, 3), float(index)), index % 3

    from base import BaseDataLoader

    trainer = tiny_trainer(
        job(tmp_path, "Diary", epochs=1),
        model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)),
        loader_class=lambda data, *args: BaseDataLoader(Pictures(), *args),
    )
    trainer.train()
    assert diary.notes[0] == ("start", trainer.config.log_dir.name, "tiny", 1)
    assert diary.notes[-1] == ("close", "finished") and steps_of(diary) == [1, 2]
    (image,) = [note for note in diary.notes if note[0] == "image"]
    assert image[1:3] == (1, "input/train") and image[3].shape == (2, 24, 3)
    assert not list(trainer.config.log_dir.glob("*tfevents*"))


def test_without_trackers_nothing_is_done_or_saved_for_them(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    assert not trainer.writer.enabled and trainer.writer.state_dict() == {"files": {}}


@pytest.mark.parametrize(("seconds", "hand_overs"), [(0, 10), (1000, 2)])
def test_rows_are_handed_over_now_and_then_and_before_checkpoints(tmp_path, diary, monkeypatch, seconds, hand_overs):
    monkeypatch.setattr("logger.base_tracker._SECONDS_BETWEEN", seconds)
    tiny_trainer(job(tmp_path, "Diary")).train()
    assert steps_of(diary) == list(range(1, 11)) and diary.hand_overs == hand_overs


@pytest.mark.parametrize("stop_at", [1, 3, 5, 7])
def test_json_lines_of_a_resumed_run_are_those_of_a_straight_one(tmp_path, stop_at):
    changes = {"validate_every_steps": 3, "clip_norm": 1.0}
    straight = tiny_trainer(job(tmp_path / "a", "JsonLines", **changes))
    straight.train()
    first = tiny_trainer(job(tmp_path / "b", "JsonLines", **changes), trainer_class=stopping_at(stop_at))
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(changed(job(tmp_path / "b", "JsonLines", **changes)), resume=newest)
    resumed.train()
    assert points_of(resumed) == points_of(straight)


def test_going_back_takes_lines_back_also_half_ones(tmp_path):
    first = tiny_trainer(job(tmp_path, "JsonLines"))
    first.train()
    rows = rows_of(first)
    with open(first.config.log_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')  # as a kill within a write leaves it
    resumed = tiny_trainer(job(tmp_path, "JsonLines"), resume=first.checkpoint_dir / "checkpoint-epoch1.pth")
    resumed.train()
    assert rows_of(resumed) == rows


def test_a_tracker_that_is_new_on_a_resume_begins_there(tmp_path):
    first = tiny_trainer(job(tmp_path))
    first.train()
    job_with = job(tmp_path, "JsonLines")
    resumed = tiny_trainer(job_with, resume=first.checkpoint_dir / "checkpoint-epoch1.pth")
    resumed.train()
    assert [row["step"] for row in rows_of(resumed)] == [6, 7, 8, 9, 10]


def test_state_goes_on_in_the_run_but_not_in_a_new_run_from_it(tmp_path, diary):
    first = tiny_trainer(job(tmp_path, "Diary"), trainer_class=stopping_at(3))
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    tiny_trainer(changed(job(tmp_path, "Diary")), resume=newest).train()
    after_epoch = first.checkpoint_dir / "checkpoint-epoch1.pth"
    tiny_trainer(job(tmp_path, "Diary"), resume=after_epoch, new_run=True).train()
    assert [note[-1] for note in diary.notes if note[0] == "start"] == [1, 2, 1]


def test_a_start_that_does_nothing_is_not_told(tmp_path, diary):
    first = tiny_trainer(job(tmp_path, "Diary", "JsonLines"))
    first.train()
    told, rows = list(diary.notes), rows_of(first)
    tiny_trainer(job(tmp_path, "Diary", "JsonLines"), resume=first.checkpoint_dir / "checkpoint-epoch2.pth").train()
    assert diary.notes == told and rows_of(first) == rows


@pytest.mark.parametrize(("raised", "outcome"), [(KeyboardInterrupt, "stopped"), (RuntimeError, "failed")])
def test_the_outcome_is_told(tmp_path, diary, raised, outcome):
    def broken(output, target):
        raise raised

    with pytest.raises(raised):
        tiny_trainer(job(tmp_path, "Diary"), criterion=broken).train()
    assert diary.notes[-1] == ("close", outcome)


def test_rollback_shows_no_line_twice(tmp_path):
    class Faulty(Trainer):
        def _log_batch(self, *args):
            super()._log_batch(*args)
            if self.step == 3 and not self.skipped_batches:
                from base.training.nonfinite import NonFiniteError

                raise NonFiniteError("nan", [2])

    trainer = tiny_trainer(job(tmp_path, "JsonLines", epochs=1, on_nonfinite="rollback"), trainer_class=Faulty)
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [1, 2, 4, 5]


def test_a_tracker_that_fails_for_a_while_loses_nothing_and_changes_nothing(tmp_path, diary, capsys):
    class Mends(BaseCallback):
        def on_step_end(self, trainer):
            diary.fails_on = {"row"} if 2 <= trainer.step < 8 else frozenset()

    trainer = tiny_trainer(job(tmp_path / "a", "Diary", verbosity=1))
    trainer._callbacks.add(Mends())
    trainer.train()
    alone = tiny_trainer(tiny_config(tmp_path / "b", log_step=1))
    alone.train()
    told = capsys.readouterr().out
    assert told.count("trackers.0: Diary: ConnectionError: the server is gone; training continues") == 1
    assert told.count("Diary: works again") == 1
    assert steps_of(diary) == list(range(1, 11))
    assert same(trainer.model.state_dict(), alone.model.state_dict())


def test_what_a_tracker_never_took_is_an_error_once_all_is_saved(tmp_path, diary):
    diary.fails_on = {1, "close"}
    trainer = tiny_trainer(job(tmp_path, "Diary", "JsonLines"))
    with pytest.raises(UserError) as error:
        trainer.train()
    lines = str(error.value).splitlines()
    assert lines[0] == "trackers.0: Diary did not take 10 steps: ConnectionError: the server is gone"
    assert lines[1].startswith("trackers.0: Diary did not end well")
    assert len(rows_of(trainer)) == 10 and (trainer.checkpoint_dir / "checkpoint-epoch2.pth").exists()


def test_what_waits_survives_a_restart(tmp_path, diary):
    diary.fails_on = {"row"}
    first = tiny_trainer(job(tmp_path, "Diary"), trainer_class=stopping_at(7))
    with pytest.raises(UserError, match="did not take 7 steps"):
        first.train()
    diary.fails_on = frozenset()
    tiny_trainer(changed(job(tmp_path, "Diary")), resume=find_checkpoint(first.checkpoint_dir)[0]).train()
    assert steps_of(diary) == list(range(1, 11))


def test_an_error_of_the_run_is_not_hidden_by_one_of_a_tracker(tmp_path, diary, capsys):
    diary.fails_on = {"close"}
    with pytest.raises(UserError, match="one number per batch"):
        tiny_trainer(job(tmp_path, "Diary"), criterion=lambda output, target: output).train()
    assert "Diary did not end well: ConnectionError: the server is gone" in capsys.readouterr().out


def test_a_tracker_that_cannot_start_ends_the_run_before_training(tmp_path, diary):
    diary.fails_on = {"start"}
    trainer = tiny_trainer(job(tmp_path, "JsonLines", "Diary"))
    with pytest.raises(UserError, match=r"^trackers.1: Diary cannot start: ConnectionError: the server is gone$"):
        trainer.train()
    assert trainer.step == 0


def test_a_tracker_that_has_started_hears_that_another_cannot(tmp_path, diary):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"trackers.1: JsonLines cannot start: IsADirectoryError"):
        TrackerList([Diary(), JsonLines()], {"name": "x"}).start(tmp_path)
    assert diary.notes[-1] == ("close", "failed")


def test_numbers_from_before_the_start_wait_for_it(tmp_path, capsys):
    trainer = tiny_trainer(job(tmp_path, "JsonLines"))
    trainer.writer.add_scalar("before", 1.0)
    trainer.writer.add_scalar("before", 2.0)
    trainer.train()
    assert rows_of(trainer)[:2] == [{"step": 0, "before": 1.0}, {"step": 0, "before": 2.0}]
    assert "training continues" not in capsys.readouterr().out


def test_a_full_disk_leaves_no_half_line(tmp_path):
    tracker = JsonLines()
    tracker.start(tmp_path, {})
    tracker.add_rows([(1, {"a": 1.0})])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            tracker.add_rows([(2, {"a": 2.0})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 1.0}\n'
    tracker.add_rows([(2, {"a": 2.0})])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n'


def test_a_linked_file_is_not_written_through(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        TrackerList([JsonLines()]).start(tmp_path)


def test_a_second_number_of_a_tag_begins_a_row_and_what_is_no_number_is_null(tmp_path):
    trackers = TrackerList([JsonLines()], {}, logging.getLogger("x"))
    trackers.start(tmp_path)
    for tag, value, step in (("a", 1, 1), ("b", torch.tensor(2.0), 1), ("a", np.float32(3), 1), ("a", float("nan"), 2)):
        trackers.add_scalar(tag, value, step)
    trackers.close("finished")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "a": 1.0, "b": 2.0}', '{"step": 1, "a": 3.0}', '{"step": 2, "a": null}']


def test_arrays_of_one_number_are_sent(tmp_path):
    trackers = TrackerList([JsonLines()], {}, logging.getLogger("x"))
    trackers.start(tmp_path)
    for tag, value in (("a", np.array([0.5])), ("b", torch.tensor([[2.0]])), ("c", np.int64(3)), ("d", True)):
        trackers.add_scalar(tag, value, 1)
    trackers.close("finished")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 0.5, "b": 2.0, "c": 3.0, "d": 1.0}\n'


@pytest.mark.parametrize(
    ("images", "formats", "shape"),
    [
        (torch.rand(3, 4, 5), "CHW", (4, 5, 3)),
        (torch.rand(1, 4, 5, dtype=torch.bfloat16), "CHW", (4, 5, 3)),
        (np.zeros((4, 5)), "HW", (4, 5, 3)),
        (np.zeros((4, 5, 3), dtype=np.uint8), "HWC", (4, 5, 3)),
        (torch.rand(10, 3, 4, 5), "NCHW", (8, 40, 3)),
    ],
)
def test_pictures_of_all_forms_become_rgb(images, formats, shape):
    picture = as_picture(images, formats)
    assert picture.shape == shape and picture.dtype == np.uint8


def test_pictures_stand_in_rows_of_eight():
    picture = as_picture(torch.arange(9.0).view(9, 1, 1, 1) / 255, "NCHW")
    assert picture[..., 0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("tracker", "mistake"),
    [
        ("JsonLine", r"trackers.0.type: logger.trackers has no 'JsonLine'; did you mean 'JsonLines'\?"),
        ({"type": "Wandb"}, "trackers.0.args.project: missing"),
        ({"type": "Wandb", "args": {"project": "p", "mode": "of"}}, r"trackers.0.args.mode: got 'of'; .*'offline'"),
        ({"type": "Mlflow", "args": {"uri": "x"}}, "trackers.0.args.uri: no such argument"),
        ("csv_log.CsvLog", r"trackers.0"),
        ("torch.nn.Linear", "trackers.0.type: 'torch.nn.Linear' is not allowed"),
    ],
)
def test_mistakes_are_refused_with_their_path(tracker, mistake):
    with pytest.raises(UserError, match=mistake):
        ConfigParser({**read_config(PROJECT / "config.json"), "trackers": [tracker]}, parts=PARTS)


def test_a_missing_package_is_named_before_training(tmp_path, diary, monkeypatch):
    monkeypatch.setattr(diary, "needs_package", "no_such_package")
    told = "'Diary' needs the package no_such_package; install it: pip install no_such_package"
    with pytest.raises(UserError, match=f"trackers.0.type: {told}"):
        check_types({"trackers": ["Diary"]}, PARTS)
    with pytest.raises(UserError, match=f"trackers.0.type: {told}"):
        tiny_trainer(job(tmp_path, "Diary"))


@pytest.mark.slow
def test_a_test_asks_for_no_tracker(tmp_path):
    run_here("train.py", "-c", "config.json", *SHORT, "--set", f"trainer.save_dir={tmp_path}")
    (tmp_path / "own.json").write_text('{"trackers": [{"type": "Wandb", "args": {"project": "p"}}]}')
    (best,) = tmp_path.glob("models/*/*/model_best.pth")
    told = run_here("test.py", "-r", best, "-c", tmp_path / "own.json").stdout
    assert "10,000 test samples" in told and "wandb" not in told


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format, in blocks of 32768 bytes, behind 7 bytes of header."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_wandb_offline_goes_on_in_the_same_run(tmp_path):
    pytest.importorskip("wandb")
    offline = {"type": "Wandb", "args": {"project": "tiny", "mode": "offline"}}
    first = tiny_trainer(job(tmp_path, offline, "JsonLines"), trainer_class=stopping_at(7))
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(changed(job(tmp_path, offline, "JsonLines")), resume=newest)
    resumed.train()
    alone = tiny_trainer(tiny_config(tmp_path / "alone", log_step=1))
    alone.train()
    assert same(resumed.model.state_dict(), alone.model.state_dict())
    records = [list(wandb_records(path)) for path in sorted(tmp_path.glob("log/*/*/wandb/offline-run-*/*.wandb"))]
    starts = [record.run for part in records for record in part if record.WhichOneof("record_type") == "run"]
    assert {(start.run_id, start.project, start.display_name) for start in starts} == {
        (
            resumed.writer.trackers.state_dict()["Wandb"]["state"]["run_id"],
            "tiny",
            resumed.config.log_dir.name,
        )
    }
    history = [
        {
            item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for part in records
        for record in part
        if record.WhichOneof("record_type") == "history"
    ]
    assert len(records) == 2
    rows = [{tag: v for tag, v in row.items() if tag[0] != "_" and "per_sec" not in tag} for row in history]
    assert rows == rows_of(resumed)


@pytest.mark.filterwarnings("ignore")  # of trackio's own imports
def test_trackio_continues_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    tracker = {"type": "Trackio", "args": {"project": "tiny"}}
    first = tiny_trainer(job(tmp_path, tracker, "JsonLines"), trainer_class=stopping_at(7))
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(changed(job(tmp_path, tracker, "JsonLines")), resume=newest)
    resumed.train()
    name = resumed.config.log_dir.name
    assert SQLiteStorage.get_runs("tiny") == [name]
    points = [(row["step"], row["loss/train"]) for row in SQLiteStorage.get_logs("tiny", name) if "loss/train" in row]
    assert points == [(row["step"], row["loss/train"]) for row in rows_of(resumed)]


@pytest.mark.filterwarnings("ignore")  # of MLflow's about what it uses of SQLAlchemy
def test_mlflow_goes_on_in_the_same_run(tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = {"type": "Mlflow", "args": {"tracking_uri": store, "experiment": "tiny"}}
    client = MlflowClient(store)
    client.create_experiment("tiny", artifact_location=(tmp_path / "artifacts").as_uri())
    first = tiny_trainer(job(tmp_path, tracker, "JsonLines"), trainer_class=stopping_at(7))
    first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(job(tmp_path, tracker, "JsonLines", clip_norm=9.0), resume=newest)
    resumed.train()
    (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == resumed.config.log_dir.name
    assert found.data.params["trainer.epochs"] == "2" and found.data.params["optimizer.type"] == "SGD"
    points = [(p.step, p.value) for p in client.get_metric_history(found.info.run_id, "loss/train")]
    assert points == [(row["step"], row["loss/train"]) for row in rows_of(resumed)]
    assert load_checkpoint(newest)["attributes"]["writer"]["trackers"]["Mlflow"]["state"] == {
        "run_id": found.info.run_id
    }
    assert "clip_norm" in next(tmp_path.glob("artifacts/*/artifacts/config.json")).read_text()
