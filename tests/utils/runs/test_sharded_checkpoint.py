"""The folder of a checkpoint's shards is read only if it holds what was written, and nothing else."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import checkpoint

from helpers import SHARDS
from utils.distributed.sharded_checkpoint import read_shards, verify_shards
from utils.distributed.shards import require_shard_files
from utils.errors import UserError
from utils.runs.checkpoint import CheckpointError, load_checkpoint, prune_checkpoints, save_checkpoint
from utils.runs.run_folder import RunLock

SHARD = "shard-00001-model.safetensors"
CONTENT = b"weights"
SUM = hashlib.sha256(CONTENT).hexdigest()


def folder_of(tmp_path, listed):
    """(a folder with one shard, the checksum of its list)."""
    folder = tmp_path / "a.shards"
    folder.mkdir()
    (folder / SHARD).write_bytes(CONTENT)
    (folder / "sha256.json").write_bytes(listed)
    return folder, hashlib.sha256(listed).hexdigest()


def refusal(folder, digest):
    with pytest.raises(CheckpointError) as raised:
        verify_shards(folder, digest)
    (line,) = str(raised.value).splitlines()
    return line


def test_what_was_written_is_accepted(tmp_path):
    verify_shards(*folder_of(tmp_path, json.dumps({SHARD: SUM}).encode()))


@pytest.mark.parametrize(
    "listed",
    [
        [SHARD],
        {SHARD: 1},
        {SHARD: SUM.upper()},
        {"../../secret": SUM},
        {"/etc/hostname": SUM},
        {"..": SUM},
        "text",
        None,
    ],
)
def test_a_list_of_anything_but_plain_names_and_checksums_is_refused(tmp_path, listed):
    (tmp_path.parent / "secret").write_bytes(CONTENT)
    assert "it is not a list of files and their checksums" in refusal(*folder_of(tmp_path, json.dumps(listed).encode()))


@pytest.mark.parametrize("listed", [b"{", b"\xff", b"[" * 100_000])
def test_a_list_that_is_no_json_is_refused(tmp_path, listed):
    assert "it is not a list of files and their checksums" in refusal(*folder_of(tmp_path, listed))


@pytest.mark.parametrize("name", [SHARD, "sha256.json", "other.safetensors"])
@pytest.mark.parametrize("make", ["pipe", "link", "folder"])
def test_what_is_no_plain_file_is_refused_unread(tmp_path, name, make):
    folder, digest = folder_of(tmp_path, json.dumps({SHARD: SUM}).encode())
    place = folder / name
    if place.exists():
        place.rename(tmp_path / name)
    if make == "pipe":
        os.mkfifo(place)
    elif make == "link":
        place.symlink_to(tmp_path / name)
    else:
        place.mkdir()
    assert refusal(folder, digest) == f"{place}: refused: shards are plain files"


def test_a_file_that_is_not_listed_is_refused(tmp_path):
    folder, digest = folder_of(tmp_path, json.dumps({SHARD: SUM}).encode())
    (folder / "shard-00002-model.safetensors").write_bytes(CONTENT)
    assert "shard-00002-model.safetensors: refused: it is none of the checkpoint's shards" in refusal(folder, digest)


class WriterOfTorch28:
    def __init__(self, path, save_sharded=False):
        pass


@SHARDS  # it has what the other lacks
def test_a_torch_that_cannot_write_shards_is_told_the_version_it_needs(monkeypatch):
    require_shard_files()
    assert "save_distributed" in inspect.signature(checkpoint.HuggingFaceStorageWriter).parameters
    monkeypatch.setattr(checkpoint, "HuggingFaceStorageWriter", WriterOfTorch28)
    with pytest.raises(UserError, match=r"torch 2\.9 or newer, and this is 2\."):
        require_shard_files()
    with pytest.raises(CheckpointError, match=r"a\.shards: needs torch 2\.9 or newer, and this is 2\."):
        read_shards({}, Path("a.shards"))


@pytest.mark.parametrize("note", ["", "shards:../x.shards:" + SUM + ";", "shards:..shards:" + SUM + ";"])
def test_a_checkpoint_that_names_no_folder_of_shards_is_refused(tmp_path, note):
    path = tmp_path / "checkpoint-epoch1.pth"
    save_checkpoint({"state_dict": {"w": None}, "shards": {"note": note, "tensors": []}}, path)
    with pytest.raises(CheckpointError, match="its tensors are in shards, and it names no folder of them"):
        load_checkpoint(path)


def test_shards_that_a_file_of_any_name_has_are_not_deleted(tmp_path):
    folder, digest = folder_of(tmp_path, json.dumps({SHARD: SUM}).encode())
    (tmp_path / "b.shards").mkdir()
    shards = {"note": f"shards:{folder.name}:{digest};", "tensors": []}
    save_checkpoint({"epoch": 1, "state_dict": {}, "shards": shards}, tmp_path / "mine.ckpt")
    lock = RunLock(tmp_path)
    prune_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.glob("*.shards")] == ["a.shards"]
    ask = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    asked = subprocess.run([sys.executable, "-c", ask, tmp_path / ".lock"], capture_output=True, text=True)
    assert asked.stderr.splitlines()[-1].startswith("BlockingIOError"), "the run's lock is no longer held"
    del lock


@SHARDS
def test_shards_larger_than_their_files_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    (tmp_path / "shard.safetensors").write_bytes(bytes(100))
    state = {"w": None, "shards": {"tensors": [{"at": ["w"], "shape": [10**9], "dtype": "float32"}]}}
    monkeypatch.setattr("torch.empty", lambda *_, **__: pytest.fail("memory is taken"))
    with pytest.raises(CheckpointError, match="refused: its shards are not those of the checkpoint"):
        read_shards(state, tmp_path)
