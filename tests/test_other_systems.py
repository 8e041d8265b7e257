"""Windows and macOS, as far as Linux can show it: what they lack is taken away, and what they do is done."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import time

import pytest
from made_runs import make_run

import utils.files
from base import BaseDataLoader
from helpers import PROJECT, SHORT, TinyData
from logger.run_summary import summarize
from utils.batches import DataError, batches_of
from utils.errors import UserError
from utils.files import delete_unless_in_use, write_whole

ROOMS = ("base", "comparing", "data_loader", "logger", "model", "scaffold", "serving", "sweeping", "trainer", "utils")
FILES = [*PROJECT.glob("*.py"), *(path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py")))]
MODULES = [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]

# Takes away what Windows lacks, once the libraries are imported; then imports all files, trains, and asks for the rest.
WINDOWS = """
    import importlib, json, os, runpy, signal, sys
    import matplotlib.pyplot, onnxscript, optuna, torch.distributed.elastic.multiprocessing, torch.utils.data, uvicorn
    import torch.utils.tensorboard
    from multiprocessing import resource_tracker
    resource_tracker.ensure_running()  # Linux needs it to spawn, and it needs the signals
    for name in ("fcntl", "grp", "pwd", "resource", "termios"):
        sys.modules[name] = None
    kept = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
    signals = [name for name in vars(signal) if name.startswith("SIG") and name not in kept]
    for name in [*signals, "alarm", "pause", "pthread_sigmask", "setitimer", "sigwait"]:
        delattr(signal, name)
    for name in ("fchmod", "fork", "getuid", "killpg", "register_at_fork", "setpgid", "setsid", "sync", "O_NONBLOCK"):
        delattr(os, name)
    modules, flags = json.loads(sys.argv[1])
    for name in modules:
        importlib.import_module(name)

    from serving.workers import require_workers
    from sweeping.shared_study import this_host
    from utils.errors import UserError
    from utils.stop_signal import SIGNALS
    assert [number.name for number in SIGNALS] == ["SIGINT", "SIGTERM"]
    try:
        require_workers(2)
    except UserError as error:
        print(error)
    sys.argv = ["train.py", "-c", "config.json", *flags]
    runpy.run_path("train.py", run_name="__main__")
    sys.argv[1:3] = ["-r", "latest"]
    runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_all_files_import_and_a_run_trains_and_resumes_without_what_windows_lacks(tmp_path):
    callbacks = '[{"type": "ThroughputMonitor"}]'
    sets = {"trainer.save_dir": tmp_path, "callbacks": callbacks, "trainer.keep_last": 1, "trainer.tensorboard": "true"}
    flags = [*SHORT, *(word for key, value in sets.items() for word in ("--set", f"{key}={value}"))]
    command = [sys.executable, "-c", textwrap.dedent(WINDOWS), json.dumps([sorted({*MODULES} - {"test"}), flags])]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--workers: this system cannot fork; start one service on each of several ports" in done.stdout
    assert "epoch 1/1" in done.stdout and [path.name for path in tmp_path.glob("models/*/*/checkpoint*")]


def test_a_file_that_is_open_elsewhere_is_waited_for_and_else_told_in_one_line(tmp_path, monkeypatch):
    """Windows does not replace a file that another program reads, as TensorBoard or test.py may."""
    replace, refusals = os.replace, iter([32, 5])

    def replace_later(source, target):
        for winerror in refusals:
            error = PermissionError(13, "The process cannot access the file")
            error.winerror = winerror
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_later)
    write_whole("new", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"

    refusals = iter([32] * 1000)
    monkeypatch.setattr(utils.files, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"file: cannot save the file: The process cannot access the file; the file"):
        write_whole("newer", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "new"


def test_a_refusal_that_no_waiting_ends_is_told_at_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(utils.files.time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(UserError, match="Permission denied"):
        write_whole("new", tmp_path / "file")


def test_an_old_file_that_is_open_elsewhere_is_left(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-epoch1.pth").touch()
    error = PermissionError(13, "The process cannot access the file")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(PermissionError):
        delete_unless_in_use(tmp_path / "checkpoint-epoch1.pth")
    error.winerror = 32
    delete_unless_in_use(tmp_path / "checkpoint-epoch1.pth")


def test_without_locks_nobody_says_that_a_run_has_died(tmp_path, monkeypatch):
    folder = make_run(tmp_path, "a", ended=False)
    assert summarize(folder, time.time()).with_present_state().state == "died"
    monkeypatch.setattr("logger.run_summary.HAS_LOCKS", False)
    assert summarize(folder, time.time()).with_present_state().state == "running?"


class Transformed(TinyData):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return self.transform(features), label


def test_a_transform_that_spawned_workers_cannot_get_is_one_line_with_a_remedy():
    def within(features):
        return features

    for transform, name in ((lambda features: features, "<lambda>"), (within, "within")):
        loader = BaseDataLoader(Transformed(transform), 8, True, 0.2, 1, multiprocessing_context="spawn")
        with pytest.raises(DataError, match="define functions at the top of a file instead of lambda") as told:
            next(batches_of(loader))
        assert name in str(told.value) and "\n" not in str(told.value)


def test_text_files_are_utf_8_whatever_the_system_has():
    """Windows would read and write text in the encoding of its language."""
    unnamed = [
        f"{path.name}:{call.lineno}"
        for path in FILES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and _is_text_without_encoding(call)
    ]
    assert unnamed == []


def _is_text_without_encoding(call):
    """Whether it opens, reads, writes or decodes text and does not say how text is encoded."""
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    if name == "open" and isinstance(call.func, ast.Name):
        mode = given.get("mode") or (ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'")
        return "b" not in mode and "/proc" not in ast.unparse(call) and "devnull" not in ast.unparse(call)
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    return name in ("run", "Popen", "check_output") and "text" in given
