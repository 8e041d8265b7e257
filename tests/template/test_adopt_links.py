"""--adopt writes only into the project: not through links, nor into the original's folders while it works on a copy."""

import os

import pytest
from old_ages import AFTER, files_of, repository, stock  # noqa: F401 (a fixture)

from scaffold.adopt import adopt
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("stock", "unchecked")


@pytest.fixture
def outside(tmp_path):
    """A folder beside the project."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "requirements.txt").write_text("torch==1.4\n")
    return tmp_path / "outside"


def test_a_folder_without_code_is_not_written_into_before_the_commit(tmp_path):
    project = repository(tmp_path / "old", files_of(AFTER) | {"docs/notes.rst": "ours\n"})
    adopt(project, dry_run=True)
    assert os.listdir(project / "docs") == ["notes.rst"]
    adopt(project)
    assert (project / "docs/notes.rst").read_text() == "ours\n" and (project / "docs/runs.md").exists()


def test_a_file_that_is_a_link_is_replaced_and_what_it_leads_to_is_left(tmp_path, outside):
    project = tmp_path / "old"
    project.mkdir()
    (project / "requirements.txt").symlink_to(outside / "requirements.txt")
    adopt(repository(project, files_of(AFTER)))
    assert (outside / "requirements.txt").read_text() == "torch==1.4\n"
    assert "pydantic" in (project / "requirements.txt").read_text()


def test_a_folder_that_is_a_link_is_refused(tmp_path, outside):
    project = tmp_path / "old"
    project.mkdir()
    (project / "docs").symlink_to(outside)
    repository(project, files_of(AFTER))
    with pytest.raises(UserError, match="docs: is a link, and files would be written through it; replace it"):
        adopt(project)
    assert os.listdir(outside) == ["requirements.txt"] and not (project / "template.json").exists()


def test_a_system_without_links_is_named_in_one_line(tmp_path, monkeypatch):
    def refuse(path, target, target_is_directory=False):
        raise OSError(22, "A required privilege is not held by the client")

    project = repository(tmp_path / "old", files_of(AFTER) | {"data/raw.bin": "1"})
    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    with pytest.raises(UserError, match=r"cannot be linked from a working copy \(A required .* see docs/systems\.md$"):
        adopt(project)
