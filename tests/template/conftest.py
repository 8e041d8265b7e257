"""Fixtures of tests that make projects from a small template."""

import os

import pytest
from small_template import FIRST, commit, git

import new_project
import scaffold.adopt
import scaffold.template
import scaffold.update


@pytest.fixture
def template(tmp_path, monkeypatch):
    """A small template at its first version."""
    _name_author(monkeypatch)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "a template"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, FIRST)
    monkeypatch.setattr(scaffold.template, "TEMPLATE", folder)
    monkeypatch.setattr(scaffold.template, "FRAMEWORK", ["base", "docs", "test.py", "train.py"])
    monkeypatch.setattr(scaffold.template, "YOURS", ["config.json", "model", "trainer"])
    return folder


@pytest.fixture
def project(template, tmp_path):
    """A project made from the first version of the template."""
    folder = tmp_path / "my project"
    new_project.main(folder)
    return folder


@pytest.fixture
def unchecked(monkeypatch):
    """Lets --adopt commit, and leaves out the processes in which it checks configs."""
    _name_author(monkeypatch)
    monkeypatch.setattr(scaffold.adopt, "checked", lambda *given: ([], []))


def _name_author(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "me")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "me@example.org")


@pytest.fixture
def tested(monkeypatch):
    """The folders whose tests an update has run, which are not really run."""
    folders = []
    monkeypatch.setattr(scaffold.update, "_run_tests", lambda folder, *_: folders.append(folder) or 0)
    return folders
