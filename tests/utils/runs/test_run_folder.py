"""The lock of a run, and links that lead out of where runs are kept."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import PROJECT
from utils import UserError
from utils.runs.run_folder import RunLock, claim_run_folder, is_being_trained, log_folder, make_log_folder

_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from utils.runs.run_folder import RunLock; RunLock(sys.argv[2])"


def asked_elsewhere(folder):
    """What another process is told that wants to train the run."""
    done = subprocess.run([sys.executable, "-c", _ASK, PROJECT, folder], capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2]


def test_the_lock_survives_that_its_file_is_opened_and_closed(tmp_path):
    lock = RunLock(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    (tmp_path / ".lock").read_bytes()
    assert "another process trains this run" in asked_elsewhere(tmp_path)
    assert asked_elsewhere(tmp_path / "copy") == ""
    del lock
    assert asked_elsewhere(tmp_path) == ""


def test_one_process_may_lock_its_own_run_again(tmp_path):
    first = RunLock(tmp_path)
    second = RunLock(tmp_path)
    assert not is_being_trained(tmp_path)
    del first
    assert "another process trains this run" in asked_elsewhere(tmp_path)
    del second
    assert asked_elsewhere(tmp_path) == ""


def test_one_that_only_asks_does_not_keep_another_from_training(tmp_path):
    RunLock(tmp_path)
    with open(tmp_path / ".lock") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (asking, fcntl.LOCK_UN))
        timer.start()
        lock = RunLock(tmp_path)
        timer.join()
    assert "another process trains this run" in asked_elsewhere(tmp_path)
    del lock


def test_workers_do_not_keep_the_lock_of_a_run_that_was_killed(tmp_path):
    holder = os.fork()
    if holder == 0:
        lock = RunLock(tmp_path)
        worker = os.fork()
        if worker:
            (tmp_path / "worker").write_text(str(worker))
        time.sleep(30)
        del lock
        os._exit(0)
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.01)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        RunLock(tmp_path)
    finally:
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


def test_nothing_is_made_behind_a_link_that_leads_out(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "models").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="a link in it leads out of"):
        claim_run_folder(tmp_path / "saved", "name")
    (tmp_path / "saved" / "models").unlink()
    run = claim_run_folder(tmp_path / "saved", "name")
    (tmp_path / "saved" / "log").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="a link in it leads out of"):
        make_log_folder(run)
    assert not list((tmp_path / "outside").iterdir())


def test_a_lock_is_not_made_through_a_link(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        RunLock(tmp_path)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("folder", ["/", "/nowhere", "/nowhere/at"])
def test_a_folder_that_lies_too_near_the_root_for_a_run_is_its_own_log_folder(folder):
    assert log_folder(folder) == Path(folder)
    assert log_folder("/models/job/run") == Path("/log/job/run")
