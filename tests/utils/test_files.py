"""Files of a run: whole, with their mode, and never written through a link."""

import ast
import os
import stat

import pytest
import torch

import utils.files
from helpers import PROJECT
from logger.csv_log import CsvLog
from logger.pictures import save_figure
from logger.trackers import JsonLines
from utils import UserError
from utils.files import cut, open_to_append, read_beside, read_record, replacing, write_json, write_whole
from utils.runs.checkpoint import copy_checkpoint, save_checkpoint
from utils.runs.safetensors_io import write_safetensors

STATE = {"state_dict": {"w": torch.zeros(2)}}


class Figure:
    def savefig(self, file, **how):
        file.write(b"picture")


WRITERS = {
    "json": lambda path: write_json({"a": 1}, path),
    "text": lambda path: write_whole("text", path),
    "csv": lambda path: CsvLog(path).append({"epoch": 1, "loss": 1.0}),
    "checkpoint": lambda path: save_checkpoint(STATE, path),
    "copy": lambda path: copy_checkpoint(PROJECT / "config.json", path),
    "safetensors": lambda path: write_safetensors(STATE, path),
    "picture": lambda path: save_figure(Figure(), path),
}


def test_tests_of_storage_flush_to_the_disk():
    assert type(os.fsync) is type(
        os.stat
    )  # the built-in function, which tests/conftest.py replaces only for tests/base


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_writer_touches_what_a_planted_link_leads_to(tmp_path, monkeypatch, write, plant):
    monkeypatch.setattr(utils.files.secrets, "token_hex", lambda length: "guessed")
    (tmp_path / "victim").write_text("mine")
    plant(tmp_path / "victim", tmp_path / ".file.guessed.tmp")
    with pytest.raises(UserError, match=r"file: cannot save .*File exists"):
        write(tmp_path / "file")
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "file").exists()


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path, write, plant):
    (tmp_path / "victim").write_text("epoch\n")
    plant(tmp_path / "victim", tmp_path / "file")
    write(tmp_path / "file")
    assert (tmp_path / "victim").read_text() == "epoch\n" and not (tmp_path / "file").is_symlink()


def test_temporary_names_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a"):
            names |= {path.name for path in tmp_path.glob(".a.*.tmp")}
    assert len(names) == 3 and all(len(name) == len(".a..tmp") + 16 for name in names)


def test_the_mode_of_a_file_is_kept_and_a_new_one_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole("new", tmp_path / "a")
        (tmp_path / "b").touch()
        (tmp_path / "b").chmod(0o664)
        write_whole("again", tmp_path / "b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o664]


def test_a_log_is_not_opened_through_a_link_nor_at_a_pipe(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to("victim")
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("link", "is a link"), ("pipe", "not a plain file")):
        with pytest.raises(UserError, match=f"{name}: {what}"):
            open_to_append(tmp_path / name)
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("change", [lambda path: cut(path, 2), lambda path: open_to_append(path).close()])
def test_a_file_with_a_second_name_is_copied_before_it_grows(tmp_path, change):
    (tmp_path / "theirs").write_text("theirs")
    os.link(tmp_path / "theirs", tmp_path / "info.log")
    change(tmp_path / "info.log")
    with open_to_append(tmp_path / "info.log") as file:
        file.write(b"+")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "info.log").read_text() in ("th+", "theirs+")


def test_a_sparse_file_with_a_second_name_does_not_fill_the_disk(tmp_path):
    with open(tmp_path / "theirs", "wb") as file:
        file.truncate(1 << 40)
    os.link(tmp_path / "theirs", tmp_path / "info.log")
    with pytest.raises(UserError, match=r"info.log: has a second name"):
        open_to_append(tmp_path / "info.log")


def test_json_lines_grow_beside_a_second_name(tmp_path):
    (tmp_path / "theirs").write_text('{"step": 0}\n')
    os.link(tmp_path / "theirs", tmp_path / "metrics.jsonl")
    tracker = JsonLines()
    tracker.start(tmp_path, {})
    tracker.add_rows([(1, {"loss": 0.5})])
    assert (tmp_path / "theirs").read_text() == '{"step": 0}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_files_beside_checkpoints_are_read_only_if_they_are_plain_and_small(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "zero", "sparse"):
        with pytest.raises(OSError, match="not a plain file of at most"):
            read_beside(tmp_path / name)


@pytest.mark.parametrize("content", ["", "{", "5", "[" * 100_000, '{"a": 1}', "\udcff"])
def test_a_damaged_record_is_set_aside_and_begun_again(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    found, damaged = read_record(path, lambda value: isinstance(value, list), empty=[])
    assert found == [] and damaged == tmp_path / "damaged-record.json" and not path.exists()
    write_json([1], path)
    assert read_record(path, lambda value: isinstance(value, list), empty=[]) == ([1], None)


# What may open files for writing by itself: files of the template or the user's, which no run's folder holds.
_OWN = {
    "utils/files.py",
    "utils/config/docs.py",
    "new_project.py",
    "scaffold/template.py",
    "examples/cifar_resnet/data.py",
    "examples/tabular/data.py",
}
_OWN |= {"utils/distributed/contact.py"}  # in a folder of its own
_WRITES = {"write_text", "write_bytes", "savefig", "truncate", "save_image", "touch", "imsave", "to_csv"}


def writes_of(path):
    """Lines on which a file opens something for writing, or has it written by name, without utils/files.py."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = ast.unparse(node.args[0]) if node.args else ""
        modes = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
        modes += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        opens = name == "open" and any(set("wax+") & set(str(mode)) for mode in modes) and first != "os.devnull"
        if opens or (name in _WRITES and not (first in ("grid", "file") or first.startswith("file"))):
            yield node.lineno


def test_only_one_file_opens_a_run_s_files_for_writing():
    rooms = ("base", "data_loader", "logger", "model", "trainer", "utils")
    files = [*PROJECT.glob("*.py"), *(path for room in rooms for path in (PROJECT / room).rglob("*.py"))]
    found = {path.relative_to(PROJECT).as_posix(): list(writes_of(path)) for path in files}
    assert found["utils/files.py"]
    assert {name: lines for name, lines in found.items() if lines and name not in _OWN} == {}
