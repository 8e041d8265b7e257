import os
import pickle
import resource
import stat
from collections import Counter

import numpy as np
import pytest
import torch

from utils.runs import checkpoint
from utils.runs.checkpoint import (
    FORMAT,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    set_aside_overtaken,
)

STATE = {"state_dict": {"w": torch.arange(6.0)}, "epoch": 3, "config": {"name": "x"}, "betas": (0.9, 0.99)}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(STATE, tmp_path / "checkpoint-epoch3.pth")
    return tmp_path / "checkpoint-epoch3.pth"


def test_what_is_saved_is_loaded(path):
    state = load_checkpoint(path)
    assert torch.equal(state["state_dict"]["w"], torch.arange(6.0))
    assert state["betas"] == (0.9, 0.99) and state["config"] == {"name": "x"}


@pytest.mark.old_defect(2)
def test_plain_torch_loads_it_with_weights_only(path):
    assert torch.load(path, weights_only=True)["epoch"] == 3


@pytest.mark.old_defect(3)
def test_tensors_of_another_device_load_on_the_cpu(tmp_path, monkeypatch):
    asked = []
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: asked.append(kwargs) or original(*args, **kwargs))
    save_checkpoint(STATE, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth")
    assert asked == [{"map_location": "cpu", "weights_only": True}]


@pytest.mark.slow
def test_every_flipped_byte_and_every_truncation_is_refused(path, tmp_path):
    content = path.read_bytes()
    broken = tmp_path / "broken.pth"
    damaged = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(len(content))]
    damaged += [content[:length] for length in range(len(content))]
    for bytes_ in damaged:
        broken.write_bytes(bytes_)
        with pytest.raises(CheckpointError, match=str(broken)):
            load_checkpoint(broken)


@pytest.mark.old_defect(13)
def test_failed_save_is_an_error_and_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; the file before it is untouched"):
        save_checkpoint({**STATE, "epoch": 4}, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_write_that_breaks_off_is_one_clear_error(path):
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"epoch3\.pth: cannot save the checkpoint: ") as caught:
            save_checkpoint(STATE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [{1, 2}, object(), np.zeros(2), torch.Size([1]), {(1, 2): 3}, b"x"])
def test_values_that_are_not_plain_are_refused_by_path(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"checkpoint\.extra\.0"):
        save_checkpoint({**STATE, "extra": [value]}, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_numpy_scalars_become_numbers_and_counters_stay(tmp_path):
    save_checkpoint({**STATE, "best": np.float64(0.5), "milestones": Counter([1, 1])}, tmp_path / "a.pth")
    state = load_checkpoint(tmp_path / "a.pth")
    assert type(state["best"]) is float and type(state["milestones"]) is Counter


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    save_checkpoint({**STATE, "format": FORMAT + 1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: a newer version of this project wrote it, in format 2; this"):
        load_checkpoint(tmp_path / "a.pth")


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, 2))])
def test_malicious_file_is_refused_and_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"state_dict": {}, "config": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused: it refers to \w+\.system; only tensors") as caught:
        load_checkpoint(tmp_path / "evil.pth")
    assert len(str(caught.value).splitlines()) == 1 and "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("a.pth", b"", "empty"), ("a.pth", b"hello", "damaged or not"), ("a.json", b"{}", "a config, not a checkpoint")],
)
def test_other_files_are_refused_by_name(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=word):
        load_checkpoint(tmp_path / name)


def test_what_is_no_file_is_refused_and_links_to_nothing_are_passed_over(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        load_checkpoint("/dev/zero")
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint("x" * 5000)
    run = tmp_path / "models" / "job" / "run"
    run.mkdir(parents=True)
    (run / "gone.pth").symlink_to("nowhere")
    save_checkpoint(STATE, run / "checkpoint-epoch1.pth")
    assert find_checkpoint("latest", tmp_path)[0].name == "checkpoint-epoch1.pth"


def test_what_a_killed_save_left_is_removed_after_the_next(tmp_path):
    (tmp_path / ".checkpoint-epoch1.pth.123.tmp").touch()
    prune_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_foreign_content_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"no such checkpoint$"):
        find_checkpoint(tmp_path / "none.pth", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^newest: no such checkpoint; give a checkpoint, the folder of a run, latest or best"
    ):
        find_checkpoint("newest", tmp_path)
    save_checkpoint({"weights": 1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no 'state_dict'"):
        load_checkpoint(tmp_path / "a.pth")


def test_folder_gives_the_newest_that_verifies(tmp_path):
    for epoch in (2, 9, 10):
        save_checkpoint({**STATE, "epoch": epoch}, tmp_path / f"checkpoint-epoch{epoch}.pth")
    save_checkpoint(STATE, tmp_path / "model_best.pth")
    newest = tmp_path / "checkpoint-epoch10.pth"
    assert find_checkpoint(tmp_path) == (newest, [])
    newest.write_bytes(newest.read_bytes()[:-1])
    found, passed_over = find_checkpoint(tmp_path)
    assert found.name == "checkpoint-epoch9.pth" and "checkpoint-epoch10.pth: damaged" in passed_over[0]


def test_a_folder_of_runs_is_refused_with_the_newest_of_them(tmp_path):
    for seconds, run in enumerate(("b", "a", "c")):
        (tmp_path / run).mkdir()
        if run != "c":
            save_checkpoint(STATE, tmp_path / run / "checkpoint-epoch1.pth")
            os.utime(tmp_path / run / "checkpoint-epoch1.pth", (seconds, seconds))
    with pytest.raises(CheckpointError) as told:
        find_checkpoint(tmp_path)
    assert str(told.value) == (
        f"{tmp_path}: holds runs and is not one itself; the newest run in it with a checkpoint is {tmp_path / 'a'}"
    )


def test_latest_is_the_newest_run(tmp_path):
    for age, run in ((300, "b"), (100, "a"), (200, "c")):
        folder = tmp_path / "models" / "job" / run
        folder.mkdir(parents=True)
        save_checkpoint(STATE, folder / "checkpoint-epoch1.pth")
        os.utime(folder / "checkpoint-epoch1.pth", (1e9 - age, 1e9 - age))
    assert find_checkpoint("latest", tmp_path)[0].parent.name == "a"
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        find_checkpoint("latest", tmp_path / "elsewhere")


def test_best_is_the_best_model_of_the_newest_run(tmp_path):
    for age, run in ((300, "b"), (100, "a")):
        folder = tmp_path / "models" / "job" / run
        folder.mkdir(parents=True)
        for name in ("model_best.pth", "checkpoint-epoch1.pth"):
            save_checkpoint(STATE, folder / name)
            os.utime(folder / name, (1e9 - age, 1e9 - age))
    found, notes = find_checkpoint("best", tmp_path)
    assert found == tmp_path / "models" / "job" / "a" / "model_best.pth" and notes == []
    (tmp_path / "models" / "job" / "c").mkdir()
    (tmp_path / "models" / "job" / "c" / ".lock").touch()
    assert "began later, and saved no checkpoint" in find_checkpoint("best", tmp_path)[1][0]
    found.unlink()
    with pytest.raises(CheckpointError, match=r"job/a/model_best\.pth: no such checkpoint$"):
        find_checkpoint("best", tmp_path)


def test_newer_runs_that_saved_nothing_are_named(tmp_path):
    for age, run in ((500, "before"), (300, "saved"), (200, "b"), (100, "a"), (50, "c"), (20, "d")):
        folder = tmp_path / "models" / "job" / run
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        if run == "saved":
            save_checkpoint(STATE, folder / "checkpoint-epoch1.pth")
        for file in folder.iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    found, skipped = find_checkpoint("latest", tmp_path)
    job = tmp_path / "models" / "job"
    assert found.parent == job / "saved"
    assert skipped == [f"{job / 'a'}, {job / 'c'}, {job / 'd'} and 1 more: began later, and saved no checkpoint"]
    for run in "abcd":
        save_checkpoint(STATE, job / run / "checkpoint-epoch1.pth")
    assert find_checkpoint("latest", tmp_path)[1] == []


def test_pruning_keeps_the_newest(tmp_path):
    for epoch in (1, 2, 3, 10):
        (tmp_path / f"checkpoint-epoch{epoch}.pth").touch()
    (tmp_path / "model_best.pth").touch()
    prune_checkpoints(tmp_path, keep_last=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-epoch10.pth", "checkpoint-epoch3.pth", "model_best.pth"]
    prune_checkpoints(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_overtaken_checkpoints_are_kept_but_not_taken_for_the_newest(tmp_path):
    for name in ("checkpoint-epoch1.pth", "checkpoint-epoch2.pth", "model_best.pth"):
        save_checkpoint(STATE, tmp_path / name)
    set_aside_overtaken(tmp_path, 2)
    assert not list(tmp_path.glob("overtaken-*"))
    set_aside_overtaken(tmp_path, 1)
    assert find_checkpoint(tmp_path)[0].name == "checkpoint-epoch1.pth"
    assert load_checkpoint(tmp_path / "overtaken-checkpoint-epoch2.pth")["epoch"] == 3
    assert (tmp_path / "overtaken-model_best.pth").exists() and not (tmp_path / "model_best.pth").exists()
    save_checkpoint(STATE, tmp_path / "checkpoint-epoch4.pth")
    save_checkpoint({**STATE, "epoch": 1}, tmp_path / "model_best.pth")
    save_checkpoint(STATE, tmp_path / "checkpoint-epoch2.pth")
    set_aside_overtaken(tmp_path, 1)
    assert (tmp_path / "overtaken-2-checkpoint-epoch2.pth").exists() and (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "x"},
        {"optimizer": [1]},
        {"config": [1]},
        {"rng": 3},
        {"attributes": []},
        {"log": 1},
        {"state_dict": {1: 2}},
        {"state_dict": None},
        {"monitor_best": "x"},
        {"not_improved_count": None},
        {"format": "1"},
        {"format": -1},
    ],
)
def test_checkpoint_of_the_wrong_shape_is_refused(tmp_path, wrong):
    save_checkpoint({**STATE, **wrong}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: (its|not a checkpoint)"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.old_defect(13)
def test_the_old_file_is_whole_until_a_rename_puts_the_flushed_new_one_in_its_place(path, monkeypatch):
    before, steps = path.read_bytes(), []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor):
        steps.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        sync(descriptor)

    def recorded_replace(source, target):
        assert path.read_bytes() == before and load_checkpoint(source)["epoch"] == 4
        steps.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    save_checkpoint({**STATE, "epoch": 4}, path)
    assert steps == ["flush file", "rename", "flush folder"] and load_checkpoint(path)["epoch"] == 4


def test_a_save_into_a_folder_that_has_gone_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        save_checkpoint({"state_dict": {}}, tmp_path / "gone" / "a.pth")


class Image(torch.Tensor):
    """A tensor of a class of its own, as torchvision has them."""


def nested(depth):
    value = 1.0
    for _ in range(depth):
        value = [value]
    return value


SAVABLE = {
    "many dicts": [{"epoch": i, "loss": 0.5} for i in range(30_000)],
    "many words": [f"word {i}" for i in range(50_000)],
    "many pairs": [[i, i + 1] for i in range(50_000)],
    "keys": {"k" * 500: 1, 7: 2},
    "integers": [2**127, -(2**63)],
    "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
    "stretched": torch.ones(1).expand(1000),
    "of a class of its own": torch.ones(3).as_subclass(Image),
    "sparse": torch.eye(3).to_sparse(),
    "deep": nested(90),
}


@pytest.mark.parametrize("value", SAVABLE.values(), ids=SAVABLE)
def test_what_is_saved_is_read_again(tmp_path, value):
    save_checkpoint({"state_dict": {}, "attributes": {"mine": value}}, tmp_path / "a.pth")
    read = load_checkpoint(tmp_path / "a.pth")["attributes"]["mine"]
    equal = torch.equal(read.to_dense(), value.to_dense()) if hasattr(value, "layout") else read == value
    assert equal


@pytest.mark.parametrize("part", ["attributes", "config", "of_other_processes"])
def test_keys_of_any_text_in_each_other_are_saved_and_read_again(tmp_path, part):
    value = {"\n": {"\t": [{"\x1b": 1}]}}
    own = [{"rng": {}, "attributes": value}] if part == "of_other_processes" else value
    save_checkpoint({"state_dict": {}, part: own}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")[part] == own


@pytest.mark.parametrize("part", ["configX", "attributes_of_a_friend"])
def test_only_the_parts_of_that_very_name_have_keys_of_any_text(tmp_path, part):
    state = {"state_dict": {}, part: {"\n": 1}}
    with pytest.raises(CheckpointError, match=f"checkpoint.{part}: the name .* cannot be saved"):
        save_checkpoint(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"the name .* in {part} holds control characters"):
        load_checkpoint(tmp_path / "a.pth")


UNSAVABLE = {
    "integer": 2**200,
    "key": {"k" * 600: 1},
    "deep": nested(5000),
    "meta": torch.zeros(3, device="meta"),
}


@pytest.mark.parametrize("key", ["a\n", "\x1b[2J", "\u202e", "\ud800"])
@pytest.mark.parametrize("part", ["log", "state_dict"])
def test_a_name_that_could_not_be_shown_is_not_saved(tmp_path, part, key):
    with pytest.raises(CheckpointError, match=f"checkpoint.{part}: the name .* cannot be saved"):
        save_checkpoint({"state_dict": {}} | {part: {key: 1.0}}, tmp_path / "a.pth")


@pytest.mark.parametrize("value", UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_could_not_be_read_again_is_not_saved(tmp_path, value):
    with pytest.raises(CheckpointError, match="cannot be saved"):
        save_checkpoint({"state_dict": {}, "attributes": {"mine": value}}, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_its_run_deletes_while_it_is_read_is_said_to_be_gone(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint-epoch1.pth"
    save_checkpoint({"epoch": 1}, path)
    read = checkpoint.read_torch_file
    monkeypatch.setattr(checkpoint, "read_torch_file", lambda place: (place.unlink(), read(place))[1])
    with pytest.raises(CheckpointError, match=r"checkpoint-epoch1.pth: was deleted while it was read; give a newer"):
        load_checkpoint(path)
