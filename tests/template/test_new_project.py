"""A project made with new_project.py is small and passes its own tests, also when its user has changed it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from forked import run_forked

import new_project
import scaffold.template
from helpers import PROJECT, SHORT, run, run_here
from utils.errors import UserError
from utils.files import read_json

IDENTITY = {f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# What git may know of its user from files, taken away.
NOBODY = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": "/nonexistent"}
NOBODY |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
TEMPLATE_ONLY = ["benchmarks", "examples", "project", "CHANGELOG.md", "CONTRIBUTING.md", "MIGRATING.md", "SECURITY.md"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A new project, made from a folder that is not the template's."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in IDENTITY.items():
            patch.setenv(key, value)
        done = run(PROJECT / "new_project.py", "sub/my_project", cwd=elsewhere)
    project = elsewhere / "sub" / "my_project"
    assert done.stdout == f"my_project is ready in {project}\nnext: cd {project} && make train\n"
    return project


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def make(project, target):
    """Run make as the project's user would, in this environment instead of one that make installs."""
    if not (project / ".venv").exists():
        (project / ".venv").symlink_to(sys.prefix)
    command = ["make", "-o", ".venv/installed", "-o", ".venv/installed-dev", target]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.old_defect(20)
def test_it_is_made_from_any_folder_with_its_data(project):
    assert (project / "data/mnist/train-images-idx3-ubyte.gz").stat().st_size > 9_000_000
    present = {path.name for path in project.iterdir()}
    assert present >= {"train.py", "test.py", "base", "model", "data_loader", "trainer", "utils", "tests", "Makefile"}
    assert not present & {*TEMPLATE_ONLY, "new_project.py", "__pycache__"}
    assert [path.name for path in (project / "saved").iterdir()] == [".gitignore"]
    assert not list(project.rglob("__pycache__"))
    assert [path.name for path in (project / "tests").iterdir()] == ["test_project.py"]
    assert [path.name for path in (project / "data").iterdir()] == ["mnist"]
    assert {path.name for path in (project / "docs").glob("*.png")} == {"drawing.png", "serve.png"}
    assert not {"jobs.md", "results.md"} & {path.name for path in (project / "docs").iterdir()}
    assert not list((project / "docs").glob("*.py"))
    assert all("No rule" in make(project, target).stderr for target in ("pictures", "results"))


@pytest.mark.old_defect(20)
def test_folders_called_data_at_any_depth_are_copied(tmp_path, monkeypatch):
    template = tmp_path / "template"
    for name in ("data", "template"):
        (template / "model" / name).mkdir(parents=True)
        (template / "model" / name / "words.txt").touch()
    (template / "config.json").write_text('{"name": "x"}')
    for name in ("project/README.md", "docs/README.md"):
        (template / name).parent.mkdir()
        (template / name).touch()
    monkeypatch.setattr(scaffold.template, "TEMPLATE", template)
    monkeypatch.setattr(scaffold.template, "FRAMEWORK", ["docs"])
    monkeypatch.setattr(scaffold.template, "FRAMEWORK_OWN", [])
    monkeypatch.setattr(scaffold.template, "YOURS", ["model", "config.json"])
    new_project.main(tmp_path / "made", git=False)
    assert len(list((tmp_path / "made").rglob("words.txt"))) == 2


def test_its_config_is_the_templates_under_its_own_name(project):
    own, ours = read_json(project / "config.json"), read_json(PROJECT / "config.json")
    del ours["description"]
    assert own == {**ours, "name": "my_project"}


def test_its_readme_names_it_and_the_rooms_that_are_the_users(project):
    readme = (project / "README.md").read_text()
    assert readme.startswith("# my_project\n") and "{name}" not in readme
    for room in ("model", "data_loader", "trainer"):
        assert f"| `{room}/` |" in readme
    for place in re.findall(r"`([\w/]+\.(?:py|json|md))`|`(\w+/)`", readme):
        (name,) = filter(None, place)
        homes = ("", "model", "data_loader", "trainer")
        theirs = ("config_large.json", "configs/")  # which a user may add
        assert name in theirs or any((project / home / name).exists() for home in homes), name


def test_its_pages_name_no_file_that_only_the_template_has(project):
    left_behind = [path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("examples/*/*.*")]
    left_behind += [f"benchmarks/{path.name}" for path in PROJECT.glob("benchmarks/*.*")]
    left_behind += ["MIGRATING.md", "SECURITY.md", "jobs.md", "new_project.py", "project/", "scaffold/"]
    left_behind += ["new_projects.md", "results.md", "updating.md"]
    assert "examples/gan/trainer.py" in left_behind
    for path in [*project.glob("docs/*.md"), project / "README.md", project / "config.schema.json"]:
        text = " ".join(path.read_text().split()).replace("my_project/", "")
        for place in left_behind:
            alone = text.replace(f"the template's `{place}`, which new projects do without", "")
            alone = alone.replace("in a clone of the template, after `git pull`: ```bash python new_project.py", "")
            assert place not in alone, (path.name, place)


def test_links_of_its_pages_lead_somewhere(project):
    links = {
        (path.name, link)
        for path in [*project.glob("docs/*.md"), project / "README.md"]
        for link in re.findall(r"\]\(([^)#:]+)[#)]", path.read_text())
        if not (path.parent / link).exists()
    }
    assert not links


def test_its_manifest_holds_the_checksum_of_each_file_of_the_framework(project):
    manifest = read_json(project / "template.json")
    for place, checksum in manifest["files"].items():
        assert hashlib.sha256((project / place).read_bytes()).hexdigest() == checksum, place
    tracked = set(git(project, "ls-files").splitlines())
    rooms = ("model/", "data_loader/", "trainer/", "data/", "notebooks/", "saved/")
    own = {
        ".devcontainer/devcontainer.json",
        ".dockerignore",
        ".editorconfig",
        ".github/workflows/test.yml",
        ".gitignore",
        ".pre-commit-config.yaml",
        "Dockerfile",
        "LICENSE",
        "README.md",
        "config.json",
        "pyproject.toml",
        "requirements-dev.txt",
        "template.json",
    }
    assert set(manifest["files"]) == {place for place in tracked - own if not place.startswith(rooms)}
    if (PROJECT / ".git").exists():
        assert git(PROJECT, "rev-parse", "--short", "HEAD").strip() in manifest["version"]


def test_it_is_a_repository_with_one_commit_and_nothing_else_to_add(project):
    assert git(project, "rev-list", "--count", "HEAD").strip() == "1"
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.slow
def test_it_trains_resumes_and_tests(project):
    run_forked("train.py", "-c", "config.json", *SHORT, cwd=project)
    (run_folder,) = (project / "saved/models/my_project").iterdir()
    run_forked("train.py", "-r", "latest", "--set", "trainer.epochs=2", cwd=project)
    assert (run_folder / "checkpoint-epoch2.pth").exists()
    run_forked("test.py", "-r", run_folder / "model_best.pth", cwd=project)


@pytest.mark.slow
def test_make_test_and_make_lint_pass_in_it(project):
    done = make(project, "test")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
    done = make(project, "lint")
    assert done.returncode == 0, done.stdout + done.stderr


MODEL = """
from torch import nn

from base import BaseModel


class Points(BaseModel):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(width, 1)

    def forward(self, points):
        return self.head(self.layers(points))
"""
LOADER = """
import torch

from base import BaseDataLoader


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        point = torch.full((3,), float(index)) + torch.randn(3)
        return point, point.sum(0, keepdim=True)


class NoiseDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int, num_workers: int = 0):
        super().__init__(Noise(), batch_size, True, 0.2, num_workers)
"""
LOSS = """
import torch.nn.functional as F


def squared(output, target):
    return F.mse_loss(output, target)
"""


@pytest.mark.slow
def test_its_tests_pass_when_its_user_has_replaced_the_job(project, tmp_path):
    changed = shutil.copytree(project, tmp_path / "changed", symlinks=True)
    for place, code in (("model/model.py", MODEL), ("data_loader/data_loaders.py", LOADER), ("model/loss.py", LOSS)):
        (changed / place).write_text(code)
    shutil.rmtree(changed / "data")
    config = read_json(changed / "config.json")
    config |= {
        "arch": {"type": "Points", "args": {"width": 16}},
        "data_loader": {"type": "NoiseDataLoader", "args": {"batch_size": 4}},
        "loss": "squared",
        "metrics": [],
        "trackers": ["JsonLines"],
    }
    config["trainer"] |= {"monitor": "min val_loss", "limit_train_batches": 3, "channels_last": False}
    (changed / "config.json").write_text(json.dumps(config))
    (changed / "config_large.json").write_text('{"base": "config.json", "arch": {"args": {"width": 32}}}')
    assert "6 passed" in run_forked("-m", "pytest", cwd=changed).stdout  # as make test does, and fast


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "changes", "test"),
    [
        ("config.json", {'"optimizer"': '"optimizr"'}, "test_config_passes_the_check"),
        (
            "model/loss.py",
            {"F.cross_entropy(output, target, weight)": 'F.cross_entropy(output, target, reduction="none")'},
            "test_output_of_the_model_fits",
        ),
        (
            "model/model.py",  # what a checkpoint does not hold: how often the model was called
            {
                "self.conv1(images)": "self.conv1(images + next(CALLS))",
                "class Mni": "CALLS = iter(range(99))\n\n\nclass Mni",
            },
            "test_a_resumed_run_comes_to_the_same_bits",
        ),
    ],
)
def test_its_tests_fail_when_something_is_broken(project, tmp_path, place, changes, test):
    changed = shutil.copytree(project, tmp_path / "changed", symlinks=True)
    text = (changed / place).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (changed / place).write_text(text)
    assert "1 failed" in run_forked("-m", "pytest", "-q", "-k", test, cwd=changed, status=1).stdout


def test_name_can_be_given_and_git_left_out(tmp_path):
    run_here("new_project.py", tmp_path / "folder", "--name", "Cats 2.0", "--no-git")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["name"] == "Cats 2.0"
    assert not (tmp_path / "folder" / ".git").exists()


def test_without_git_it_is_made_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    new_project.main(tmp_path / "made")
    assert "\nwithout a git commit: git is not installed\n" in capsys.readouterr().out
    assert read_json(tmp_path / "made" / "template.json")["version"] is None


def test_without_a_user_of_git_it_is_made_all_the_same(tmp_path, monkeypatch, capsys):
    for key in IDENTITY:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.delenv("EMAIL", raising=False)
    for key, value in NOBODY.items():
        monkeypatch.setenv(key, value)
    new_project.main(tmp_path / "made")
    assert "git does not know you; set user.name and user.email" in capsys.readouterr().out
    assert "A  train.py" in git(tmp_path / "made", "status", "--porcelain")


def test_within_a_repository_it_gets_none_of_its_own(tmp_path, capsys):
    git(tmp_path, "init", "-q")
    new_project.main(tmp_path / "made")
    assert f"the folder lies in the repository {tmp_path}" in capsys.readouterr().out
    assert not (tmp_path / "made" / ".git").exists() and (tmp_path / "made" / "train.py").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(target, of_task):
        raise error

    monkeypatch.setattr(new_project, "write_manifest", fail)
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "new" / "deep"):
        with pytest.raises((UserError, KeyboardInterrupt)):
            new_project.main(target, git=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"] and not any((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/full"], "is not empty"),
        (["{tmp}/file"], "is a file"),
        (["{tmp}/new", "--name", "a/b"], "--name: got 'a/b'"),
        (["{tmp}/file/x"], "cannot make the project"),
        ([str(PROJECT / "inside")], "lies inside the template"),
    ],
)
def test_places_and_names_that_will_not_do_are_refused(tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").touch()
    (tmp_path / "file").touch()
    done = run_here("new_project.py", *(text.format(tmp=tmp_path) for text in arguments), status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists() and not (PROJECT / "inside").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep"]
