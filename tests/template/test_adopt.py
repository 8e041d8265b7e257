"""python new_project.py --adopt: projects of the old template's three ages move in, in one commit, or not at all."""

import ast
import hashlib
import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from forked import run_forked
from old_ages import AFTER, BEFORE, CONFIG, MIDDLE, files_of, git, repository, stock  # noqa: F401 (a fixture)

import scaffold.adopt
from helpers import PROJECT, run_here
from scaffold.adopt import adopt
from scaffold.adopting import checking
from scaffold.adopting.stock import own_units
from utils.errors import UserError
from utils.files import read_json

HELPERS = """
SEED = 3


def set_seed(seed=SEED):
    ensure_dir('seeds')
    return seed


class Timer:
    pass
"""
OWN_INIT = """        self.warmup = section.get('warmup', 0)
        if self.warmup:
            self.logger.info('warm')
"""
OWN_METHOD = """
    def rate(self):  # of the first group
        return self.optimizer.param_groups[0]['lr']
"""


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "me")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "me@example.org")


@pytest.fixture
def unchecked(monkeypatch):
    """Leave out the processes that check configs."""
    monkeypatch.setattr(scaffold.adopt, "checked", lambda *given: ([], []))


def content(folder):
    """What a folder holds, {path: bytes}."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if "__pycache__" not in path.parts}


def work_of(report):
    """The lines of the work that a report lists, without their numbers."""
    return [line.split(". ", 1)[1] for line in report.split("left to do by hand")[-1].splitlines() if ". " in line]


@pytest.mark.parametrize("age", [BEFORE, MIDDLE, AFTER])
@pytest.mark.usefixtures("stock", "unchecked")
def test_a_project_of_each_age_is_recognised_and_an_unchanged_one_leaves_no_work(age, tmp_path, capsys):
    project = repository(tmp_path / "old", files_of(age))
    before = content(project)
    adopt(project, dry_run=True)
    report = capsys.readouterr().out
    assert report.startswith(f"{project}: the template's age: {age} (")
    assert "nothing is left to do by hand" in report and "changes in the" not in report
    assert "nothing was changed (--dry-run)" in report and content(project) == before
    assert git(project, "status", "--porcelain") == "" and git(project, "rev-list", "--count", "HEAD") == "1\n"


@pytest.fixture
def changed(tmp_path):
    """The files of a project that had changed its trainer and had helpers of its own."""
    own = {"own_init": OWN_INIT, "own_train": "            found['rate'] = self.rate()\n", "own_methods": OWN_METHOD}
    state = "            'schedule': self.schedule.state_dict(),\n            'rates': self.rates,\n"
    files = files_of(AFTER, own_state=state, **own)
    files["utils/util.py"] += HELPERS
    files["utils/seed.py"] = "from .util import ensure_dir\n\n\ndef mine():\n    return ensure_dir\n"
    loop = files["trainer/trainer.py"].replace(
        "from utils import inf_loop", "from utils.util import set_seed, inf_loop"
    )
    files["trainer/trainer.py"] = loop.replace(
        "        return {'loss'", "        assert set_seed() == 3\n        return {'loss'"
    )
    script = files["train.py"].replace(
        "import prepare_device", "import *\nfrom utils.seed import mine\nimport utils.util as u"
    )
    files["train.py"] = script.replace("    main(", "    u.Timer(), mine(), read_json, json, Path\n    main(")
    return files


@pytest.mark.usefixtures("stock", "unchecked")
def test_changes_live_on_in_files_of_the_project_or_are_listed(changed, tmp_path, capsys):
    project = repository(tmp_path / "old", changed)
    adopt(project)
    report = capsys.readouterr().out
    lines = changed["base/base_trainer.py"].splitlines()
    train, saved = (number for number, line in enumerate(lines, 1) if "found['rate']" in line or "'rates'" in line)
    assert [line.split(": ")[0:2] for line in work_of(report)] == [
        [f"base/base_trainer.py:{train}", f"line {train} of BaseTrainer.train"],
        [f"base/base_trainer.py:{saved}", f"line {saved} of BaseTrainer._save_checkpoint"],
    ]
    kept = (project / "own/base_trainer.py").read_text()
    assert "class BaseTrainer(FrameworkBaseTrainer):" in kept and "def rate(self):  # of the first group" in kept
    assert "        section = config['trainer']\n        self.warmup = section.get('warmup', 0)\n" in kept
    assert "found" not in kept and "save_checkpoint" not in kept and "import torch" not in kept
    helpers = (project / "own/util.py").read_text()
    assert "from utils import ensure_dir\n" in helpers
    for text in HELPERS.strip().split("\n\n\n"):
        assert text in helpers
    assert (project / "utils/__init__.py").read_text().count("from own.util import SEED, Timer, set_seed") == 1
    assert (project / "own/utils_seed.py").exists() and not (project / "utils/util.py").exists()
    assert (project / "utils/seed.py").read_bytes() == (PROJECT / "utils/seed.py").read_bytes()
    loop, script = (project / "trainer/trainer.py").read_text(), (project / "train.py").read_text()
    assert loop.startswith("from own.base_trainer import BaseTrainer\nfrom utils import set_seed, inf_loop\n")
    assert "from pathlib import Path\nimport json\nfrom utils import prepare_device, read_json\n" in script
    assert "from own.utils_seed import mine\nimport utils as u\n" in script
    assert "trainer/trainer.py:2: from utils.util import set_seed, inf_loop  ->  from utils import" in report


@pytest.mark.usefixtures("stock")
def test_it_trains_after_the_move_which_is_one_commit_that_can_be_undone(changed, tmp_path, capsys):
    project = repository(tmp_path / "old", changed)
    before = content(project)
    adopt(project)
    report = capsys.readouterr().out
    assert "python train.py -c config.json --check: no errors\n" in report
    assert git(project, "status", "--porcelain") == "" and git(project, "rev-list", "--count", "HEAD") == "2\n"
    assert "base/base_trainer.py:" in git(project, "log", "-1", "--format=%b")
    run_forked("train.py", "-c", "config.json", cwd=project)
    (run_folder,) = (project / "saved/models/Lines").iterdir()
    run_forked("train.py", "-r", run_folder / "checkpoint-epoch2.pth", "--set", "trainer.epochs=3", cwd=project)
    assert (run_folder / "checkpoint-epoch3.pth").exists()
    shutil.rmtree(project / "saved")
    (undo,) = (line for line in report.splitlines() if line.startswith("undo: "))
    reset, revert = (command.split(str(project))[1].split() for command in undo.split(", or, "))
    git(project, *revert, "--no-edit")
    assert content(project) == before
    git(project, *reset)
    assert content(project) == before and git(project, "rev-list", "--count", "HEAD") == "1\n"


@pytest.mark.parametrize("age", [BEFORE, MIDDLE])
@pytest.mark.usefixtures("stock", "unchecked")
def test_projects_of_the_earlier_ages_train_after_the_move(age, tmp_path):
    project = repository(tmp_path / "old", files_of(age))
    adopt(project)
    run_forked("train.py", "-c", "config.json", "--set", "trainer.tensorboard=false", cwd=project)
    (run_folder,) = (project / "saved/models/Lines").iterdir()
    assert (run_folder / "checkpoint-epoch2.pth").exists()


@pytest.mark.usefixtures("stock", "unchecked")
def test_a_dry_run_reports_what_the_move_then_does(changed, tmp_path, capsys):
    project = repository(tmp_path / "old", changed)
    adopt(project, dry_run=True)
    dry = capsys.readouterr().out.removesuffix("nothing was changed (--dry-run)\n")
    adopt(project)
    assert capsys.readouterr().out.startswith(dry)


@pytest.mark.usefixtures("stock", "unchecked")
def test_what_it_installs_is_the_framework_and_its_manifest_beside_what_is_the_projects(tmp_path, capsys):
    theirs = {
        "test.py": "pass\n",
        "serving/model.py": "pass\n",
        "docs/config.md": "ours\n",
        "README.md": "ours\n",
        "requirements.txt": "torch==1.4\nscipy==1.2\n# plots\nseaborn\n",
    }
    project = repository(tmp_path / "old", files_of(AFTER) | theirs)
    adopt(project)
    report = capsys.readouterr().out
    for place, text in theirs.items():
        assert place == "requirements.txt" or (project / place).read_text() == text
    needed = (project / "requirements.txt").read_text().splitlines()
    assert needed[:4] == ["torch>=2.8", "scipy==1.2", "# plots", "seaborn"] and "pydantic>=2.9" in needed
    assert "torch==1.4 -> torch>=2.8" in report and "scipy==1.2 is kept" in report
    assert not (project / "serve.py").exists() and (project / "predict.py").exists()
    manifest = read_json(project / "template.json")
    for place, checksum in manifest["files"].items():
        assert hashlib.sha256((project / place).read_bytes()).hexdigest() == checksum, place
    assert {"base/base_trainer.py", "parse_config.py", "docs/runs.md"} <= manifest["files"].keys()
    left_out = {
        "train.py",
        "test.py",
        "Makefile",
        "series.py",
        "serve.py",
        "serving",
        "docs/config.md",
        "requirements.txt",
    }
    assert set(manifest["left_out"]) == left_out


@pytest.mark.usefixtures("stock", "unchecked")
def test_another_split_and_another_trainer_are_kept_as_a_whole(tmp_path, capsys):
    many = "".join(f"            self.step{i} = {i}\n" for i in range(16))
    files = files_of(MIDDLE, own_train=many)
    loader = files["base/base_data_loader.py"]
    files["base/base_data_loader.py"] = loader.replace(
        "        return None", "        return DataLoader(self.given[0])"
    )
    project = repository(tmp_path / "old", files)
    adopt(project)
    report = capsys.readouterr().out
    assert "kept in own/base_data_loader.py, of base/base_data_loader.py: BaseDataLoader as a whole\n" in report
    assert "BaseTrainer has 16 statements of its own where" in "".join(work_of(report))
    kept = (project / "own/base_trainer.py").read_text()
    assert files["base/base_trainer.py"].split("class ")[1] in kept and "from logger import TensorboardWriter\n" in kept
    assert (project / "data_loader/data_loaders.py").read_text().count(
        "from own.base_data_loader import BaseDataLoader"
    ) == 1


@pytest.mark.usefixtures("stock", "unchecked")
def test_own_methods_of_the_config_are_kept_and_what_they_miss_is_listed(tmp_path, capsys):
    folder = "        root = Path(self.config['trainer']['save_dir'])\n"
    folder += "        self.__sample_dir = root / 'samples' / run_id\n"
    folder += "        self.sample_dir.mkdir()\n        self.seen = 3\n"
    methods = "\n    @property\n    def sample_dir(self):\n        return self.__sample_dir\n"
    methods += "\n    def init_all(self, names):\n        return [self.init_obj(name) for name in names + self.seen]\n"
    files = files_of(AFTER, parser_init=folder, parser_methods=methods)
    files["parse_config.py"] = "from pathlib import Path\n" + files["parse_config.py"]
    project = repository(tmp_path / "old", files)
    adopt(project)
    assert "from own.parse_config import ConfigParser\n" in (project / "train.py").read_text()
    kept = (project / "own/parse_config.py").read_text()
    path = "        path = Path(self.config['trainer']['save_dir']) / 'samples' / self.save_dir.name\n"
    assert (
        f"def sample_dir(self):\n{path}        path.mkdir(parents=True, exist_ok=True)\n        return path\n" in kept
    )
    assert "from pathlib import Path\n" in kept and "def init_all(self, names):" in kept
    lines = files["parse_config.py"].splitlines()
    assert [line.partition(": ")[0] for line in work_of(capsys.readouterr().out)] == [
        f"parse_config.py:{lines.index('        self.seen = 3') + 1}",
        f"parse_config.py:{len(lines)}",
    ]


@pytest.mark.usefixtures("stock", "unchecked")
def test_what_its_code_may_not_do_here_is_listed_with_its_place(tmp_path, capsys):
    files = files_of(AFTER)
    files["trainer/trainer.py"] = (
        files["trainer/trainer.py"]
        .replace("inf_loop", "inf_loop, lost")
        .replace(
            "    def _train_epoch",
            "    def _resume_checkpoint(self, path):\n        pass\n\n    def _train_epoch",
        )
    )
    files["look.py"] = "import torch\nstate = torch.load('x.pth')\n"
    files["broken.py"] = "print 'hello'\n"
    files["look.ipynb"] = json.dumps({"cells": [{"source": ["from utils.util import ensure_dir"]}]})
    project = repository(tmp_path / "old", files)
    adopt(project, dry_run=True)
    work = work_of(capsys.readouterr().out)
    assert [line.split(": ")[0] for line in work] == [
        "broken.py:1",
        "trainer/trainer.py:2",
        "look.py:2",
        "trainer/trainer.py:12",
        "look.ipynb",
    ]
    assert work[1] == "trainer/trainer.py:2: utils has no lost: the framework does not have it"
    assert "load_checkpoint(path)" in work[2] and "delete it unless it does more" in work[3]


@pytest.fixture
def wrong(tmp_path):
    """A project with errors in its config, some of which a second config has, too."""
    wrong = {**CONFIG, "trainer": {**CONFIG["trainer"], "epochs": "ten"}}
    wrong["arch"] = {"type": "Nett", "args": {}}
    other = {**CONFIG, "arch": wrong["arch"]}
    wrong["data_loader"] = {"type": "Lines", "args": {"batchsize": 5}}
    files = files_of(AFTER) | {"config.json": json.dumps(wrong), "other.json": json.dumps(other)}
    project = repository(tmp_path / "old", files)
    (project / "saved").mkdir()
    shutil.copy(PROJECT / "tests/template/old_checkpoint/model_best.pth", project / "saved")
    return project


NAMES = [
    "config.json: arch.type: got 'Nett'; model.model has no such name; did you mean 'Net'?",
    "config.json: data_loader.args.batchsize: Lines takes no such argument; did you mean 'batch_size'?",
]


@pytest.mark.usefixtures("stock")
def test_errors_in_configs_and_checkpoints_are_listed(wrong, monkeypatch, capsys):
    said = ["a warning\nerror: trainer.epochs: got 'ten'\n", ""]

    def checks(command, **options):
        assert command[1:] == ["train.py", "-c", ["config.json", "other.json"][-len(said)], "--check"]
        stderr = said.pop(0)
        return subprocess.CompletedProcess(command, 2 if stderr else 0, "", stderr)

    replaced = SimpleNamespace(**{**vars(subprocess), "run": checks})
    monkeypatch.setattr(checking, "subprocess", replaced)
    adopt(wrong)
    report = capsys.readouterr().out
    assert "python train.py -c config.json --check: 3 left to do\n" in report
    assert "python train.py -c other.json --check: 1 as in config.json\nsaved/model_best.pth: can be read\n" in report
    work = work_of(report)
    assert work[0] == "config.json: --check says: trainer.epochs: got 'ten'" and sorted(work[1:]) == NAMES


@pytest.mark.usefixtures("stock")
def test_a_dry_run_runs_no_code_of_the_project(wrong, capsys):
    script = wrong / "train.py"
    script.write_text(script.read_text() + "\nopen('saved/ran.txt', 'w').close()\n")
    git(wrong, "commit", "-q", "-a", "-m", "writes")
    adopt(wrong, dry_run=True)
    report = capsys.readouterr().out
    assert not (wrong / "saved/ran.txt").exists()
    assert "python train.py -c config.json --check: not run (--dry-run), 2 left to do\n" in report
    assert sorted(work_of(report)) == NAMES


@pytest.mark.usefixtures("stock", "unchecked")
def test_line_ends_and_comments_stay_and_a_file_named_like_a_room_moves(tmp_path):
    files = files_of(AFTER)
    files["trainer/trainer.py"] = (
        "from utils.util import (  # for loops\n    inf_loop,\n    ensure_dir)  # these\n" + files["trainer/trainer.py"]
    )
    files["trainer/trainer.py"] = files["trainer/trainer.py"].replace("\n", "\r\n")
    files |= {"logger.py": "def lines():\n    yield\n", "look.py": "from logger import lines\n"}
    for place in [place for place in files if place.startswith("logger/")]:
        del files[place]
    project = repository(tmp_path / "old", files)
    adopt(project)
    assert "yield" in (project / "own/logger.py").read_text() and not (project / "logger.py").exists()
    assert (project / "look.py").read_text() == "from own.logger import lines\n"
    changed = (project / "trainer/trainer.py").read_bytes().decode()
    assert changed.startswith("from utils import inf_loop, ensure_dir  # these\r\nfrom base import BaseTrainer\r\n")
    assert changed.count("\r\n") == changed.count("\n")


@pytest.mark.usefixtures("stock", "unchecked")
def test_a_move_that_git_refuses_leaves_the_project_as_it_was(changed, tmp_path):
    project = repository(tmp_path / "old", changed)
    before = content(project)
    hook = project / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not today\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="git commit failed, nothing was changed: not today"):
        adopt(project)
    assert content(project) == before and git(project, "status", "--porcelain", "--ignored") == ""
    assert not [
        path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir()) and ".git" not in path.parts
    ]


def uncommitted(project):
    (project / "new.py").touch()


def nested(project):
    for name in ("base", "utils"):
        (project / "hw").mkdir(exist_ok=True)
        git(project, "mv", name, f"hw/{name}")
    git(project, "commit", "-q", "-m", "nested")


def another(project):
    git(project, "rm", "-q", "-r", "base")
    git(project, "commit", "-q", "-m", "another")


def of_python_2(project):
    (project / "base/base_trainer.py").write_text("print 'x'\n")
    git(project, "commit", "-q", "-a", "-m", "older")


def ours(project):
    (project / "template.json").touch()


def no_repository(project):
    shutil.rmtree(project / ".git")


def no_commit(project):
    no_repository(project)
    git(project, "init", "-q")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (uncommitted, "has uncommitted work, such as new.py; commit, stash or ignore it first"),
        (nested, "its base/ lies in hw/, and only projects with base/ at their top can be moved in"),
        (another, "has no base/ with a BaseTrainer, so it was not made from victoresque/pytorch-template"),
        (of_python_2, "base/base_trainer.py:1 is not code of today's Python"),
        (ours, "has a template.json, so it has this framework already; use --update"),
        (no_repository, "is not in a git repository; run git init"),
        (no_commit, "its repository has no commit yet"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_what_cannot_be_moved_in_is_refused_in_one_line(change, message, tmp_path):
    project = repository(tmp_path / "old", files_of(AFTER))
    change(project)
    before = content(project)
    with pytest.raises(UserError) as error:
        adopt(project)
    assert str(error.value).startswith(f"--adopt {project}: ") and message in str(error.value)
    assert "\n" not in str(error.value) and content(project) == before


def test_the_command_says_what_it_wants(tmp_path):
    both = run_here("new_project.py", "--adopt", tmp_path, "--task", "table", status=2)
    assert both.stderr == "error: --task: is for a new project\n"
    inside = run_here("new_project.py", "--adopt", PROJECT / "tests/template/old_project", status=2)
    assert "lies inside the template; give a project outside" in inside.stderr


def test_only_what_a_function_does_counts_as_a_change():
    same = "def train(self):\n    '''Runs.'''\n    for epoch in range(self.start_epoch, self.epochs + 1):\n"
    same += (
        '        # one\n        result = self._train_epoch(epoch)\n        self.logger.info("x")\n        print(1)\n'
    )
    (function,) = ast.parse(same).body
    assert own_units("BaseTrainer.train", function) == []
    (function,) = ast.parse(same.replace("self._train_epoch(epoch)", "self._train_epoch(epoch, 1)")).body
    assert [unit.line for unit in own_units("BaseTrainer.train", function)] == [5]
    assert len(own_units("BaseTrainer.rate", function)) == 3  # the template had no such method
