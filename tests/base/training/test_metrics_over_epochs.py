"""Metrics over an epoch in a run: exact, monitored, resumed within an epoch, shown."""

import math
import os
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics import classification

from base import BaseDataLoader
from comparing.same import comparable_state
from helpers import InAList, TinyData, accuracy, copy_project, run_here, same, tiny_config, tiny_trainer
from model.metric import ConfusionMatrix, MacroF1
from trainer import Trainer
from utils import UserError
from utils.files import write_json
from utils.runs.checkpoint import find_checkpoint

BAD = 17  # the sample that is nan


class FaultyData(TinyData):
    def __getitem__(self, index):
        data, target = super().__getitem__(index)
        return (data * math.nan if index == BAD else data), target


def faulty_loader(*args, **kwargs):
    return BaseDataLoader(FaultyData(), *args[1:], **kwargs)


def metrics():
    objects = {
        "f1": classification.MulticlassF1Score(3, average="macro"),
        "auroc": classification.MulticlassAUROC(3),
        "own_f1": MacroF1(3),
        "matrix": ConfusionMatrix(3),
    }
    for name, metric in objects.items():
        metric.__name__ = name
    return [accuracy, *objects.values()]


class Keeping(MacroF1):
    """Keeps the batches it saw, for a reference."""

    seen = None

    def update(self, output, target):
        type(self).seen.append((output.clone(), target))
        super().update(output, target)


def test_values_of_both_parts_are_those_of_the_whole_epoch(tmp_path):
    Keeping.seen = []
    keeping = Keeping(3)
    keeping.__name__ = "f1"
    changes = {"epochs": 1, "validate_every_steps": 2}
    trainer = tiny_trainer(tiny_config(tmp_path, **changes), metrics=[keeping])
    trainer.train()
    rows = trainer.table.rows()
    Keeping.seen.pop(0)  # by a copy, in the look at the first batch
    sizes = [len(target) for _, target in Keeping.seen]
    assert sizes == [8, 8, 8, 2, 8, 8, 8, 2, 8, 8, 2]  # 40 samples in training, 10 in three validations
    parts = [0, 1, 4, 5, 8], [9, 10]
    for name, part in zip(("f1", "val_f1"), parts, strict=True):
        reference = MacroF1(3)
        reference.update(*(torch.cat(column) for column in zip(*(Keeping.seen[i] for i in part), strict=True)))
        assert float(rows[0][name]) == reference.compute().item()


@pytest.mark.parametrize("step", [1, 3, 5, 7])
@pytest.mark.parametrize("changes", [{}, {"on_nonfinite": "skip", "validate_every_steps": 2, "async_save": True}])
def test_stop_after_any_batch(tmp_path, step, changes):
    class Stopped(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    changes = {"epochs": 2, "monitor": "max val_f1", **changes}
    straight = tiny_trainer(tiny_config(tmp_path / "a", **changes), metrics=metrics())
    straight.train()
    first = tiny_trainer(tiny_config(tmp_path / "b", **changes), metrics=metrics(), trainer_class=Stopped)
    with pytest.raises(SystemExit):
        first.train()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    resumed = tiny_trainer(tiny_config(tmp_path / "b", **changes), resume=newest, metrics=metrics())
    resumed.train()
    for name in ("checkpoint-epoch2.pth", "model_best.pth"):
        left, right = (comparable_state(trainer.checkpoint_dir / name) for trainer in (straight, resumed))
        for key in left:
            assert same(left[key], right[key]), key
    for name in ("metrics.csv", "train_matrix.csv", "valid_matrix.csv"):
        assert len({(trainer.config.log_dir / name).read_text() for trainer in (straight, resumed)}) == 1


def test_file_after_an_epoch_holds_no_batches_of_it(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, save_every_steps=3), metrics=metrics())
    states = []
    save = trainer.saver.save
    trainer.saver.save = lambda state, names: states.append((state["batch"], state["attributes"])) or save(state, names)
    trainer.train()
    for batch, attributes in states:
        assert bool(attributes["train_metrics"]["over_epoch"]) is (batch > 0)
        assert not attributes["valid_metrics"]["over_epoch"]


@pytest.mark.parametrize("on_nonfinite", ["skip", "rollback"])
def test_batch_that_is_left_out_counts_nowhere(tmp_path, on_nonfinite):
    changes = {"epochs": 1, "log_step": 2, "on_nonfinite": on_nonfinite}
    config = tiny_config(tmp_path, **changes)
    matrix = ConfusionMatrix(3)
    matrix.__name__ = "matrix"
    trainer = tiny_trainer(config, loader_class=faulty_loader, schedule=None, metrics=[matrix])
    trainer.train()
    batches = [trainer.data_loader.batch_indices(1, i) for i in range(5)]
    counted = [index for batch in batches if BAD not in batch for index in batch]
    rows = [
        list(map(int, line.split(",")))
        for line in (trainer.config.log_dir / "train_matrix.csv").read_text().splitlines()
    ]
    labels = TinyData().labels[counted]
    assert [sum(row) for row in rows] == torch.bincount(labels, minlength=3).tolist()


def test_tables_are_pictures_in_tensorboard(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True), metrics=metrics())
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir))
    events.Reload()
    assert {"matrix/train", "matrix/valid"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Images("matrix/valid")] == [5, 10]


def test_table_cannot_be_monitored(tmp_path):
    config = tiny_config(tmp_path, monitor="max val_matrix")
    with pytest.raises(UserError, match=r"trainer.monitor: 'val_matrix' is a table"):
        tiny_trainer(config, metrics=metrics())
    assert not list(tmp_path.iterdir())


def test_callbacks_monitor_it(tmp_path):
    config = tiny_config(tmp_path, epochs=4)
    stopping = {"type": "EarlyStopping", "args": {"monitor": "max val_own_f1", "patience": 1, "min_delta": 1.0}}
    trainer = tiny_trainer({**config, "callbacks": [stopping]}, metrics=metrics())
    trainer.train()
    assert trainer.stop_reason == "no better val_own_f1 for 1 epoch"


def test_nothing_of_it_stands_at_log_points(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, log_step=1), metrics=metrics())
    shown = set()
    trainer.writer.add_report = lambda values, step: shown.update(values)
    trainer._show_tables = lambda *args, **kwargs: None
    trainer.train()
    assert shown == {"loss", "accuracy", "lr"}


def test_training_without_them_saves_and_restores_what_it_did(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    assert trainer.train_metrics.state_dict().keys() == {"sums", "weights", "window"}
    assert trainer.train_metrics.over_epoch is None


@pytest.mark.slow
def test_commands_train_and_test_with_metrics_of_torchmetrics(tmp_path):
    folder = copy_project(tmp_path / "project")
    f1 = '{"type": "torchmetrics.classification.MulticlassF1Score", "args": {"num_classes": 10}, "name": "f1"}'
    matrix = '{"type": "ConfusionMatrix", "args": {"num_classes": 10}}'
    (folder / "f1.json").write_text(
        f'{{"base": "config.json", "name": "f1", "metrics": ["accuracy", {f1}, {matrix}],'
        '"trainer": {"epochs": 1, "len_epoch": 5, "monitor": "max val_f1"}}'
    )
    run_here("train.py", "-c", "f1.json", cwd=folder)
    (saved,) = (folder / "saved/models/f1").iterdir()
    validated = float((folder / "saved/log/f1" / saved.name / "metrics.csv").read_text().split(",")[-1])
    done = run_here("test.py", "-r", saved / "model_best.pth", "--split", "valid", cwd=folder)
    assert f"    f1: {validated:.6g}\n" in done.stdout and "a row for each target" in done.stdout
    *shown, place, drawn = done.stdout.splitlines()[1:]
    assert drawn.endswith("report.html")
    assert max(map(len, shown)) <= 80 and place == f"written to {saved / 'test_results.json'}"
    results = (saved / "test_results.json").read_text()
    assert f'"f1": {validated}' in results and '"ConfusionMatrix"' in results
    names, *rows = (folder / "saved/log/f1" / saved.name / "valid_ConfusionMatrix.csv").read_text().splitlines()
    assert names.split(",")[1:] == list("0123456789")
    assert sum(int(count) for row in rows for count in row.split(",")[1:]) == 6000
    assert same(sorted(path.name for path in saved.glob("*.pth")), ["checkpoint-epoch1.pth", "model_best.pth"])


def test_the_names_of_the_loaders_classes_stand_at_a_tables_edges(tmp_path):
    rows = "\n".join(f"{i % 7},{'cat' if i % 2 else 'dog'}" for i in range(40))
    (tmp_path / "table.csv").write_text("x,kind\n" + rows)
    data = {"path": str(tmp_path / "table.csv"), "target": "kind", "task": "classification", "batch_size": 8}
    config = {
        "name": "pets",
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 1, "out_features": 2}},
        "data_loader": {"type": "tables.TableDataLoader", "args": {**data, "validation_split": 0.5}},
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.CrossEntropyLoss",
        "metrics": [{"type": "ConfusionMatrix", "args": {"num_classes": 2}, "name": "matrix"}],
        "trainer": {"epochs": 1, "save_dir": str(tmp_path / "saved")},
    }
    write_json(config, tmp_path / "pets.json")
    run_here("train.py", "-c", tmp_path / "pets.json")
    (log,) = (tmp_path / "saved/log/pets").iterdir()
    lines = (log / "valid_matrix.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["", "cat", "dog"] and lines[0] == ",cat,dog"
    events = EventAccumulator(str(log), size_guidance={"images": 0}).Reload()
    assert events.Images("matrix/valid")[0].width == 400
    (best,) = tmp_path.glob("saved/models/pets/*/checkpoint-epoch1.pth")
    for split in ("valid", "train"):
        shown = run_here("test.py", "-r", best, "--split", split).stdout.splitlines()
        head = next(i for i, line in enumerate(shown) if "a row for each target" in line) + 1
        assert [line.split()[0] for line in shown[head : head + 3]] == ["cat", "cat", "dog"]


def test_a_metric_that_a_resumed_run_would_count_in_part_is_refused_before_training(tmp_path):
    metric = InAList()
    metric.__name__ = "share"
    trainer = tiny_trainer(tiny_config(tmp_path), metrics=[accuracy, metric])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items() if "running" not in name}
    with pytest.raises(UserError, match=r"^metrics\.1: InAList: what it has seen is not restored"):
        trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "num_batches" not in name)

    metric.in_training = False  # no checkpoint holds the state of a validation
    tiny_trainer(tiny_config(tmp_path), metrics=[metric]).train()
