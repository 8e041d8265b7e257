import json
import re
import subprocess
import sys

import pytest

from helpers import PROJECT, SHORT, run
from utils.json_io import read_json


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A new project, made from a folder that is not the template's."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = run(PROJECT / "new_project.py", "sub/my_project", cwd=elsewhere)
    assert "my_project is ready" in done.stdout
    return elsewhere / "sub" / "my_project"


@pytest.mark.old_defect(20)
def test_it_is_made_from_any_folder_with_its_data(project):
    assert (project / "data/mnist/train-images-idx3-ubyte.gz").stat().st_size > 9_000_000
    present = {path.name for path in project.iterdir()}
    assert present >= {"train.py", "test.py", "base", "model", "data_loader", "trainer", "utils", "tests", "Makefile"}
    assert not present & {".git", "saved", "benchmarks", ".venv", "new_project.py", "MIGRATING.md", "__pycache__"}
    assert not list(project.rglob("__pycache__")) and not (project / "tests" / "template").exists()


def test_further_jobs_stay_behind_with_what_only_they_use(project):
    from new_project import TEMPLATE_ONLY

    assert [path.name for path in (project / "configs").iterdir()] == ["mnist_iterations.yaml"]
    assert {"examples/mlp/config.json", "examples/mlp/model.py"} <= TEMPLATE_ONLY
    for place in TEMPLATE_ONLY:
        assert (PROJECT / place).exists() or place.startswith("data/"), place
        assert not (project / place).exists(), place


@pytest.mark.old_defect(20)
def test_folders_called_data_at_any_depth_are_copied(tmp_path, monkeypatch):
    import new_project

    template = tmp_path / "template"
    for name in ("data", "template"):
        (template / "model" / name).mkdir(parents=True)
        (template / "model" / name / "words.txt").touch()
    (template / "config.json").write_text('{"name": "x"}')
    monkeypatch.setattr(new_project, "TEMPLATE", template)
    monkeypatch.setattr(new_project, "CARRIED", ["model", "config.json"])
    new_project.main(tmp_path / "made", None)
    assert len(list((tmp_path / "made").rglob("words.txt"))) == 2


def test_it_has_its_own_name_and_readme(project):
    config = read_json(project / "config.json")
    assert config["name"] == "my_project" and {**config, "name": ""} == {
        **read_json(PROJECT / "config.json"),
        "name": "",
    }
    readme = (project / "README.md").read_text()
    assert readme.startswith("# my_project\n") and len(readme.splitlines()) < 30
    tests = re.findall(r"`(tests/\S+)`", readme)
    assert "tests/model/test_model.py" in tests and all((project / place).exists() for place in tests)


def test_its_pages_name_no_file_that_only_the_template_has(project):
    from new_project import TEMPLATE_ONLY

    left_behind = [place for place in TEMPLATE_ONLY if place.endswith((".py", ".json", ".md"))]
    left_behind += [f"benchmarks/{path.name}" for path in PROJECT.glob("benchmarks/*.*")] + ["MIGRATING.md"]
    assert "examples/gan/trainer.py" in left_behind
    for path in [*project.glob("docs/*.md"), project / "README.md", project / "config.schema.json"]:
        text = " ".join(path.read_text().split())
        for place in left_behind:
            alone = text.replace(f"the template's `{place}`, which new projects do without", "")
            assert place not in alone and f'"{place.split("/")[-1][:-3]}.' not in alone, (path.name, place)


def test_links_of_its_pages_lead_somewhere(project):
    links = {
        (path.name, link)
        for path in [*project.glob("docs/*.md"), project / "README.md"]
        for link in re.findall(r"\]\(([^)#:]+)[#)]", path.read_text())
        if not (path.parent / link).exists()
    }
    assert not links


def test_it_trains_resumes_and_tests(project):
    run("train.py", "-c", "config.json", *SHORT, cwd=project)
    (run_folder,) = (project / "saved/models/my_project").iterdir()
    run("train.py", "-r", "latest", "--set", "trainer.epochs=2", cwd=project)
    assert (run_folder / "checkpoint-epoch2.pth").exists()
    run("test.py", "-r", run_folder / "model_best.pth", cwd=project)


def test_it_passes_its_own_tests(project):
    """All but the slow ones: every test file is collected, so a file or a setting that was left behind is missed, and
    the tests marked command train, resume, test and look around in the project as its user would. The slow tests that
    are left out, of kills, signals, full disks and hostile files, concern the same files here as there."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "command or not slow"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 1000, done.stdout


def test_name_can_be_given(tmp_path):
    run(PROJECT / "new_project.py", tmp_path / "folder", "--name", "Cats 2.0")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["name"] == "Cats 2.0"


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
    done = run(PROJECT / "new_project.py", *(text.format(tmp=tmp_path) for text in arguments), status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists() and not (PROJECT / "inside").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep"]
