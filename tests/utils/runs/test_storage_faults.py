"""Saves that are killed, fail, or lose their power at any of their file operations leave a checkpoint that verifies."""

import builtins
import errno
import itertools
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from forked import run_forked
from killed import FileWrapper

import utils.files
import utils.runs.checkpoint as checkpoints
from helpers import PROJECT, copy_project
from logger import CsvLog
from utils.files import write_json
from utils.runs.checkpoint import CheckpointError, find_checkpoint, load_checkpoint


def save_epoch(folder, epoch):
    """What a trainer does after an epoch that is the best so far, with keep_last 1."""
    state = {"epoch": epoch, "state_dict": {"w": torch.full((20,), float(epoch))}}
    checkpoints.set_aside_overtaken(folder, epoch)
    checkpoints.save_checkpoint(state, folder / "model_best.pth")
    checkpoints.copy_checkpoint(folder / "model_best.pth", folder / f"checkpoint-epoch{epoch}.pth")
    checkpoints.prune_checkpoints(folder, keep_last=1)


def newest(folder):
    """The epoch of the checkpoint that a resume would take; its weights must be those of that epoch."""
    state = load_checkpoint(find_checkpoint(folder)[0])
    assert torch.equal(state["state_dict"]["w"], torch.full((20,), float(state["epoch"])))
    return state["epoch"]


# Killed

_SAVE_AND_DIE = """
import itertools, os, shutil, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3] + [sys.argv[3]]
import torch, killed, utils.files, utils.runs.checkpoint
from test_storage_faults import save_epoch, newest
root = Path(sys.argv[4])
save_epoch(root / "before", 1)
for count in itertools.count(1):
    folder = root / str(count)
    shutil.copytree(root / "before", folder)
    child = os.fork()
    if child == 0:
        killed.count_operations(count, utils.runs.checkpoint, utils.files)
        save_epoch(folder, 2)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    epoch = newest(folder)
    if status == 0:
        assert epoch == 2
        break
    assert os.WTERMSIG(status) == 9 and epoch in (1, 2)
    save_epoch(folder, 3)
    assert newest(folder) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-epoch3.pth", "model_best.pth"]
print(count - 1, "operations")
"""


@pytest.mark.slow
def test_a_save_killed_at_any_of_its_operations_leaves_a_checkpoint(tmp_path):
    (tmp_path / "before").mkdir()
    places = [PROJECT, PROJECT / "tests" / "utils" / "runs", PROJECT / "tests"]
    done = run_forked("-c", _SAVE_AND_DIE, *places, tmp_path)
    assert int(done.stdout.split()[0]) > 40


# Refused by the system, at any operation


class Faults:
    """The file operations of a save; the one of the given number fails, as on a full or broken disk."""

    def __init__(self, monkeypatch, failing):
        self.left = failing
        self.seen = 0
        for name in ("fsync", "replace", "open"):
            self._wrap(monkeypatch, os, name)
        monkeypatch.setattr(utils.files, "open", self.open, raising=False)

    def count(self):
        self.seen += 1
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _wrap(self, monkeypatch, module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            self.count()
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    def open(self, path, mode="r", **kwargs):
        if "x" not in mode:
            return builtins.open(path, mode, **kwargs)
        self.count()
        return FailingFile(builtins.open(path, mode, **kwargs), self)


class FailingFile:
    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def write(self, data):
        self._file.write(data[: len(data) // 2])  # a full disk takes a part
        self._faults.count()
        return self._file.write(data[len(data) // 2 :])

    def flush(self):
        self._faults.count()
        self._file.flush()

    def fileno(self):
        return self._file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@pytest.mark.slow
def test_a_save_refused_at_any_of_its_operations_says_so_and_leaves_a_checkpoint(tmp_path):
    for failing in itertools.count(1):
        folder = tmp_path / str(failing)
        folder.mkdir()
        save_epoch(folder, 1)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, failing)
            try:
                save_epoch(folder, 2)
                break
            except CheckpointError as error:
                assert re.search("cannot (save|be flushed)", str(error)) and "No space left" in str(error)
        assert newest(folder) in (1, 2)
        assert not list(folder.glob(".*"))
        save_epoch(folder, 3)
        assert newest(folder) == 3
    assert failing > 40


# Power lost: only what was flushed is sure to be there


class Disk:
    """Records what a save asks of a folder, and builds the states that a loss of power may leave of it."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        self.operations = []  # ("write", inode, bytes), ("sync", inode), ("link", name, inode), ("unlink", name), ...
        self.names = {}  # as the running program sees them
        self.inodes = itertools.count()
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, getattr(self, name)(getattr(os, name)))
        monkeypatch.setattr(utils.files, "open", self.open, raising=False)
        self._descriptors = {}

    def open(self, path, mode="r", **kwargs):
        file = builtins.open(path, mode, **kwargs)  # noqa: SIM115
        if "x" not in mode:
            return file
        inode, name = next(self.inodes), Path(path).name
        self.names[name] = inode
        self.operations.append(("link", name, inode))
        self._descriptors[file.fileno()] = inode
        return RecordingFile(file, inode, self.operations)

    def fsync(self, original):
        def fsync(descriptor):
            original(descriptor)
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                self.operations.append(("sync folder",))
            else:
                self.operations.append(("sync", self._descriptors[descriptor]))

        return fsync

    def replace(self, original):
        def replace(source, target):
            original(source, target)
            source, target = Path(source).name, Path(target).name
            self.names[target] = self.names.pop(source)
            self.operations.append(("rename", source, target, self.names[target]))

        return replace

    def unlink(self, original):
        def unlink(path, **kwargs):
            original(path, **kwargs)
            self.names.pop(Path(path).name, None)
            self.operations.append(("unlink", Path(path).name))

        return unlink

    def after_power_loss(self, number, chance):
        """{name: bytes} after a loss of power behind the first operations: unflushed ones are kept, cut or lost."""
        contents, synced, names, waiting = {}, {}, {}, []
        for operation in self.operations[:number]:
            kind, *what = operation
            if kind == "write":
                contents.setdefault(what[0], []).append(what[1])
            elif kind == "sync":
                synced[what[0]] = len(contents.get(what[0], []))
            elif kind == "sync folder":
                for change in waiting:
                    _apply(names, change)
                waiting = []
            else:
                waiting.append(operation)
        in_order = chance.random() < 0.5  # a journal keeps the order of a folder's changes; not every system has one
        kept = waiting[: chance.randint(0, len(waiting))] if in_order else [w for w in waiting if chance.random() < 0.5]
        if not in_order:
            chance.shuffle(kept)
        for change in kept:
            _apply(names, change)
        return {name: _content(contents.get(inode, []), synced.get(inode, 0), chance) for name, inode in names.items()}


def _apply(names, change):
    kind, *what = change
    if kind == "link":
        names[what[0]] = what[1]
    elif kind == "rename":
        names.pop(what[0], None)
        names[what[1]] = what[2]
    else:
        names.pop(what[0], None)


def _content(writes, num_synced, chance):
    """What is left of a file's writes: all flushed ones, and of the others any, in whole, in part or as zeros."""
    left = bytearray(b"".join(writes[:num_synced]))
    for data in writes[num_synced:]:
        fate = chance.choice(["kept", "lost", "cut", "zeros"])
        if fate == "lost":
            break
        left += {"kept": data, "cut": data[: len(data) // 2], "zeros": bytes(len(data))}[fate]
        if fate == "cut":
            break
    return bytes(left)


class RecordingFile(FileWrapper):
    def __init__(self, file, inode, operations):
        super().__init__(file)
        self._inode, self._operations = inode, operations

    def write(self, data):
        self._operations.append(("write", self._inode, bytes(data)))
        return self._file.write(data)


@pytest.mark.slow
def test_power_lost_at_any_moment_leaves_a_checkpoint_that_is_as_new_as_was_promised(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    done = []  # (number of operations, epoch): from there on the epoch's save had returned
    with monkeypatch.context() as patch:
        disk = Disk(patch, folder)
        for epoch in (1, 2, 3):
            save_epoch(folder, epoch)
            done.append((len(disk.operations), epoch))
    first_safe = done[0][0]
    chance, bad, states = random.Random(0), [], 0
    for number in range(first_safe, len(disk.operations) + 1):
        promised = max(epoch for operations, epoch in done if operations <= number)
        for _ in range(12):
            after = tmp_path / "after"
            after.mkdir()
            for name, content in disk.after_power_loss(number, chance).items():
                (after / name).write_bytes(content)
            states += 1
            try:
                if newest(after) < promised:
                    bad.append((number, "older than promised"))
            except (CheckpointError, AssertionError) as error:
                bad.append((number, str(error)))
            shutil.rmtree(after)
    assert not bad and states >= 1000


def test_power_lost_at_any_moment_leaves_the_files_beside_checkpoints_whole(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch, tmp_path)
        for epoch in (1, 2, 3):
            write_json({"epoch": epoch}, tmp_path / "config.json")
            CsvLog(tmp_path / "metrics.csv").append({"epoch": epoch, "loss": 0.5})
    chance = random.Random(0)
    for number in range(len(disk.operations) + 1):
        for _ in range(12):
            left = disk.after_power_loss(number, chance)
            if "config.json" in left:
                assert json.loads(left["config.json"])["epoch"] in (1, 2, 3)
            if "metrics.csv" in left:
                rows = left["metrics.csv"].decode().splitlines()
                assert rows == ["epoch,loss", "1,0.5", "2,0.5", "3,0.5"][: len(rows)] and len(rows) > 1


def test_the_simulated_loss_of_power_finds_a_missing_flush(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with monkeypatch.context() as patch:
        disk = Disk(patch, folder)
        disk.operations = Unflushed()
        save_epoch(folder, 1)
    chance = random.Random(0)
    states = [disk.after_power_loss(len(disk.operations), chance) for _ in range(50)]
    whole = (folder / "checkpoint-epoch1.pth").read_bytes()
    assert any(state.get("checkpoint-epoch1.pth", whole) != whole for state in states)


class Unflushed(list):
    """A record without the flushes of files."""

    def append(self, operation):
        if operation[0] != "sync":
            super().append(operation)


# A real full disk

JOB = ("train.py", "-c", "config.json", "--set", "trainer.len_epoch=2", "--set", "trainer.epochs=30")


@pytest.mark.slow
def test_run_on_a_full_disk_says_so_fails_and_goes_on_where_there_is_room(tmp_path):
    project, disk = copy_project(tmp_path / "project"), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        job = (*JOB, "--set", f"trainer.save_dir={disk}", "--set", "trainer.verbosity=1")
        done = run_forked(*job, cwd=project, status=2)
        assert "No space left" in done.stderr and "Traceback" not in done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        (folder,) = disk.glob("models/*/*")
        path, damaged = find_checkpoint(folder)
        assert not damaged and not list(folder.glob(".*.tmp"))
        for old in sorted(folder.glob("checkpoint-epoch*.pth"))[:2]:
            if old != path:
                old.unlink()
        epoch = load_checkpoint(path)["epoch"]
        run_forked(
            "train.py",
            "-r",
            folder,
            "--set",
            f"trainer.epochs={epoch + 1}",
            "--set",
            "trainer.verbosity=1",
            cwd=project,
        )
        assert (folder / f"checkpoint-epoch{epoch + 1}.pth").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
