"""Several sweeps on one study: in a journal and in PostgreSQL, with processes and storages that go away."""

import contextlib
import io
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from sweeping import report, shared_study, storage
from sweeping.plan import Plan
from sweeping.shared_study import SharedStudy, open_study, settings_of_grid
from sweeping.space import Space
from sweeping.storage import Patience, StorageGone, open_storage
from sweeps import load, make_job, start_sweep, states, sweep, undisturbed
from utils import UserError


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(report, "draw_all", lambda study, folder, names: ({}, []))


class Postgres:
    """A server of its own in a temporary folder, reached through a socket there."""

    def __init__(self, folder, programs):
        self.folder, self._programs = Path(folder), programs
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def start(self):
        options = f"-h '' -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def _run(self, program, *arguments):
        command = [self._programs / program, *arguments]
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg2")
    found = [Path(path) for path in (shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb")) if path]
    if not found:
        pytest.skip("PostgreSQL is not installed")
    if os.getuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with tempfile.TemporaryDirectory(prefix="sweep-pg-", dir="/tmp") as folder:
        server = Postgres(folder, found[-1].resolve().parent)
        server.start()
        yield server
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()


@pytest.fixture(params=["journal", "postgres"])
def where(request, tmp_path):
    if request.param == "journal":
        return tmp_path / "shared" / "sweeps.log"
    return request.getfixturevalue("postgres").url


@pytest.mark.slow
def test_four_sweeps_at_once_share_a_study_and_train_each_trial_once(tmp_path, where):
    job = make_job(tmp_path, epochs=4, epoch_seconds=0.05)
    arguments = ["stub.x=0..1", "--trials", "12", "--storage", where, "--pruner", "Nop", "--no-report"]
    processes = [start_sweep(job, *arguments) for _ in range(4)]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    study = load(job, storage=where)
    assert states(study) == ["COMPLETE"] * 12
    assert [len(list((tmp_path / "saved" / "models").glob(f"job-sweep-{n:03d}/*"))) for n in range(12)] == [1] * 12
    assert len(Counter(trial.user_attrs["owner"][0] for trial in study.trials)) > 1
    for trial in study.trials:
        assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 4)


@pytest.mark.slow
def test_a_database_that_goes_away_is_waited_for(tmp_path, postgres):
    job = make_job(tmp_path, epochs=20, epoch_seconds=0.1)
    process = start_sweep(job, "stub.x=0..1", "--trials", "2", "--storage", postgres.url, "--study", "away")
    while len(list(tmp_path.glob("saved/models/*/*/*.pth"))) < 4:
        time.sleep(0.05)
        assert process.poll() is None
    postgres.stop()
    lines = iter(process.stdout.readline, "")
    assert any("the storage does not answer" in line for line in lines)
    postgres.start()
    assert any("the storage answers again" in line for line in lines)
    process.communicate(timeout=120)
    study = load(job, "away", postgres.url)
    assert process.returncode == 0 and states(study) == ["COMPLETE"] * 2
    for trial in study.trials:
        assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 20)


@pytest.mark.slow
def test_a_storage_that_stays_away_ends_the_sweep_without_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WAIT_SECONDS", 1.0)
    shared = tmp_path / "shared"
    job = make_job(tmp_path, epochs=40, epoch_seconds=0.1)
    arguments = ["stub.x=0..1", "--trials", "1", "--storage", shared / "journal"]

    def take_away():
        while len(list(tmp_path.glob("saved/models/*/*/*.pth"))) < 4:
            time.sleep(0.05)
        shared.rename(tmp_path / "elsewhere")

    thread = threading.Thread(target=take_away)
    thread.start()
    ended = sweep(job, *arguments, status=2)
    thread.join()
    line = ended.stderr.splitlines()[-1]
    assert "the storage has not answered for 1 s: No such file or directory; trials are kept" in line
    saved = len(list(tmp_path.glob("saved/models/*/*/*.pth")))
    assert 4 <= saved < 40  # the trial was stopped, too
    (tmp_path / "elsewhere").rename(shared)
    monkeypatch.setattr(shared_study, "_GONE_SECONDS", 0.5)  # this process is alive, unlike one that has ended
    sweep(job, *arguments)
    (trial,) = load(job, storage=shared / "journal").trials
    assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 40)


@pytest.mark.slow
def test_the_dashboard_opens_the_study_as_it_is(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard")
    job = make_job(tmp_path)
    sweep(job, "stub.x=0..1", "--trials", "2")
    app = dashboard.wsgi(open_storage(tmp_path / "saved" / "sweeps" / "job-sweep" / "journal.log"))

    def get(path):
        answer = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": io.BytesIO()}
        environ |= {"SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
        environ["wsgi.errors"] = io.StringIO()
        body = b"".join(app(environ, lambda status, headers, error=None: answer.append(status)))
        assert answer[0].startswith("200"), body
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "job-sweep"
    detail = get(f"/api/studies/{summary['study_id']}")
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 2


# ---- one study, two sweeps, without trials


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two SharedStudy of one study; the first is on another host."""
    made = []
    for host in ("elsewhere", "here"):
        monkeypatch.setattr(shared_study, "this_host", lambda host=host: host)
        stored = open_storage(tmp_path / "journal")
        study = optuna.create_study(storage=stored, study_name="s", load_if_exists=True)
        made.append(SharedStudy(study, stored, 2, Patience(print)))
    return made


def test_a_trial_whose_process_is_gone_is_taken_over_and_given_up_by_it(pair, monkeypatch):
    other, ours = pair
    trial = other.take()
    assert ours.release_lost() == [] and other.keep(trial.number)
    monkeypatch.setattr(shared_study, "_GONE_SECONDS", 0.2)
    assert ours.release_lost() == []
    time.sleep(0.1)
    assert other.keep(trial.number) and ours.release_lost() == []  # it has said that it is there
    time.sleep(0.3)
    assert ours.release_lost() == [trial.number]
    assert ours.take().number == trial.number
    assert not other.keep(trial.number)
    assert not other.finish(trial.number, optuna.trial.TrialState.COMPLETE, [1.0], {})
    assert ours.finish(trial.number, optuna.trial.TrialState.COMPLETE, [2.0], {})
    assert ours.study.trials[0].value == 2.0


def test_a_trial_of_a_dead_process_of_this_host_is_taken_over_at_once(pair, monkeypatch):
    _, ours = pair
    ended = subprocess.Popen(["true"])
    ended.wait()
    trial = ours.study.ask()
    trial.set_user_attr("owner", ["another", "here", ended.pid, 3])
    assert ours.release_lost() == [trial.number]


def test_a_trial_too_many_waits_for_a_larger_total(pair, monkeypatch):
    other, ours = pair
    assert [other.take().number, ours.take().number] == [0, 1]
    trials = other.trials()
    monkeypatch.setattr(other, "trials", lambda: trials[:1])  # as it was before the other one took a trial
    assert other.take() is None and states(other.study) == ["RUNNING", "RUNNING", "WAITING"]
    ours.total = 3
    assert ours.take().number == 2 and ours.take() is None


def test_half_a_line_that_a_full_disk_left_is_cut_off(tmp_path):
    path = tmp_path / "journal"
    optuna.create_study(storage=open_storage(path), study_name="one")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":0,"study_na')
    optuna.create_study(storage=open_storage(path), study_name="two")
    assert path.read_bytes().startswith(whole + b'{"op_code":0,"worker_id"')
    assert optuna.get_all_study_names(open_storage(path)) == ["one", "two"]


@pytest.mark.parametrize("content", [b"SQLite format 3\0\n half a page", b'{"one": "line"}', b"[1,\n2]"])
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a journal of Optuna; a SQLite file is given as sqlite:///FILE"):
        open_storage(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_patience_tells_once_waits_and_ends(monkeypatch):
    told, answers = [], iter([OSError(28, "No space left on device"), OSError(28, "No space left on device"), 7])

    def ask():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    assert Patience(told.append)(ask) == 7
    assert told[0] == "the storage does not answer: No space left on device; waiting for it" and len(told) == 2
    answers = iter([OSError(5, "Input/output error")] * 2)
    with pytest.raises(StorageGone, match="the storage has not answered for 0 s: Input/output error"):
        Patience(told.append, asked=lambda: True)(ask)


def test_a_grid_is_not_extended_by_one_that_lacks_an_untrained_setting(tmp_path):
    study = optuna.create_study(storage=open_storage(tmp_path / "journal"))
    settings_of_grid(study, [{"x": 1}, {"x": 2}])
    study.ask().set_user_attr("settings", {"x": 1})
    with pytest.raises(UserError, match="--extend: the new grid lacks x=2, which is not trained yet"):
        settings_of_grid(study, [{"x": 1, "y": 3}, {"x": 2, "y": 3}])
    assert settings_of_grid(study, [{"x": 3}, {"x": 2}]) == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_time_is_recorded_with_each_beat_and_not_with_each_look(pair, monkeypatch):
    ours, written = pair[1], []
    monkeypatch.setattr(ours.study, "set_user_attr", lambda key, value: written.append(value))
    ours._started -= 7
    assert [round(ours.seconds_used()) for _ in range(5)] == [7] * 5 and len(written) == 1
    monkeypatch.setattr(shared_study, "BEAT_SECONDS", 0.0)
    ours.seconds_used()
    assert len(written) == 2


def test_a_study_that_another_sweep_begins_at_the_same_time_is_joined(tmp_path, monkeypatch):
    plan, space = Plan.model_validate({"study": "s", "space": {"x": "1,2"}, "objectives": ["max y"]}), Space({})
    stored = open_storage(tmp_path / "journal")
    make = optuna.create_study

    def make_and_be_overtaken(**arguments):
        study = make(**arguments)
        look = study.get_trials

        def get_trials(**arguments):
            monkeypatch.setattr(study, "get_trials", look)
            open_study(stored, plan, space, {}).ask()
            return look(**arguments)

        monkeypatch.setattr(study, "get_trials", get_trials)
        monkeypatch.setattr(optuna, "create_study", make)
        return study

    monkeypatch.setattr(optuna, "create_study", make_and_be_overtaken)
    assert len(open_study(stored, plan, space, {}).trials) == 1


@pytest.mark.slow
def test_a_storage_that_is_away_at_the_start_is_waited_for(tmp_path, monkeypatch):
    make, errors = optuna.create_study, [OSError(5, "Input/output error")]

    def fail_once(**arguments):
        if errors:
            raise errors.pop()
        return make(**arguments)

    monkeypatch.setattr(optuna, "create_study", fail_once)
    ended = sweep(make_job(tmp_path, epochs=1), "stub.x=0..1", "--trials", "1")
    assert "the storage does not answer: Input/output error" in ended.stderr and "answers again" in ended.stderr


def test_a_password_is_not_shown():
    assert storage.without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert storage.without_password("postgresql://me:a:b@c@host/db") == "postgresql://me:***@host/db"
    assert storage.without_password("postgresql://me@host/db") == "postgresql://me@host/db"
    assert storage.without_password("/a/folder") == "/a/folder"
