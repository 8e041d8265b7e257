"""What others install, build and check the repository with says the same as the repository."""

import json
import re
import shlex
import tomllib

import pytest
import yaml

from helpers import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
ABOUT = PYPROJECT["project"]
EXTRAS = ABOUT["optional-dependencies"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.M))
LOWEST = ABOUT["requires-python"].removeprefix(">=")
WORKFLOWS = [PROJECT / ".github/workflows/test.yml", PROJECT / "project/.github/workflows/test.yml"]


def requirements(name):
    """The lines of a requirements file that name a package."""
    lines = (PROJECT / name).read_text().splitlines()
    return [line for line in lines if line and line[0] not in "#-"]


def in_extra(name):
    """The requirements of an extra, with those of the extras that it names."""
    for requirement in EXTRAS[name]:
        others = re.fullmatch(rf"{ABOUT['name']}\[(.*)\]", requirement)
        for other in others[1].split(",") if others else ():
            yield from in_extra(other)
        if not others:
            yield requirement


def test_requirements_are_those_of_the_project():
    assert requirements("requirements.txt") == ABOUT["dependencies"]
    assert sorted(requirements("requirements-dev.txt")) == sorted(in_extra("dev"))
    assert (PROJECT / "requirements-dev.txt").read_text().startswith("-r requirements.txt\n")
    assert {"export", "serve", "sweep", "trackers", "dev"} <= EXTRAS.keys()


def test_a_new_project_has_the_same_requirements_and_the_extras_that_its_pages_name():
    theirs = tomllib.loads((PROJECT / "project" / "pyproject.toml").read_text())["project"]
    assert theirs["dependencies"] == ABOUT["dependencies"] and theirs["requires-python"] == ABOUT["requires-python"]
    extras = theirs["optional-dependencies"]
    assert extras == {name: EXTRAS[name] for name in extras}
    pages = [*PROJECT.glob("docs/*.md"), *PROJECT.glob("sweeping/*.py"), PROJECT / "sweep.py", PROJECT / "README.md"]
    named = {
        name
        for page in pages
        for names in re.findall(r"""["']\.\[([\w,]+)]["']""", page.read_text())
        for name in names.split(",")
    }
    assert {"sweep", "trackers"} <= named <= extras.keys()


def test_the_lowest_python_is_the_same_everywhere():
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + LOWEST.replace(".", "")
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == LOWEST
    assert f"sys.version_info < ({LOWEST.replace('.', ', ')})" in (PROJECT / "Makefile").read_text()
    assert f"FROM python:{LOWEST}-slim\n" in (PROJECT / "Dockerfile").read_text()
    assert f"on Python {LOWEST}." in (PROJECT / "constraints.txt").read_text().splitlines()[0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=["template", "project"])
def test_workflow_runs_the_readmes_commands_on_the_pythons_that_are_promised(path):
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    setup = next(step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    pythons = job["strategy"]["matrix"]["python"] if path == WORKFLOWS[0] else [setup["python-version"]]
    minor = int(LOWEST.partition(".")[2])
    assert pythons == [f"3.{minor + i}" for i in range(4 if path == WORKFLOWS[0] else 1)]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make test", "make lint"]
    assert all(any(PROJECT.glob(pattern)) for pattern in setup["cache-dependency-path"].split())


def test_hooks_are_of_the_versions_that_are_tested():
    (local,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    packages = [package.split("==") for hook in local["hooks"] for package in hook["additional_dependencies"]]
    assert [name for name, _ in packages] == ["ruff", "ruff", "nbstripout"]
    assert {version for name, version in packages if name == "ruff"} == {PINS["ruff"]}


def test_notebooks_have_no_outputs():
    for path in PROJECT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def test_containers_name_files_that_are_there():
    text = (PROJECT / "Dockerfile").read_text()
    assert len(text.splitlines()) <= 20
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for word in line.split()]
    (command,) = re.findall(r"^CMD (.+)$", text, re.M)
    installed = [*re.findall(r"^RUN pip install .*", text, re.M), _devcontainer()["postCreateCommand"]]
    named = [*copied, *(word for line in installed for word in line.split()), *json.loads(command)]
    files = [word for word in named if "." in word and not word.startswith("-")]
    assert len(files) >= 8 and all((PROJECT / file).exists() for file in files), files
    build = _devcontainer()["build"]
    assert (PROJECT / ".devcontainer" / build["dockerfile"]).resolve() == PROJECT / "Dockerfile"
    left_out = (PROJECT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "saved/*"} <= set(left_out)


def _devcontainer():
    return json.loads((PROJECT / ".devcontainer" / "devcontainer.json").read_text())


def test_citation_is_of_this_version():
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert cited["version"] == ABOUT["version"] and cited["license"] == ABOUT["license"]
    assert cited["authors"] == [{"name": "The pytorch-template authors"}]


def test_make_has_the_ways_to_test_that_the_pages_name():
    makefile = (PROJECT / "Makefile").read_text()
    (lowered,) = re.findall(r"^\tsed (.*?) > ", makefile, re.M)
    words = shlex.split(lowered)
    assert words[-2:] == ["requirements.txt", "requirements-dev.txt"] and "s/>=/==/" in words
    assert all(requirement.count(">=") == 1 for requirement in requirements("requirements-dev.txt"))
    assert "PYTHONPATH=tests/start_method" in makefile
    assert (PROJECT / "tests" / "start_method" / "sitecustomize.py").exists()
