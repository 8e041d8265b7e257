"""The notebook runs from its first cell to its last, and is stored without what a run of it left."""

import json
import re

import nbclient
import nbformat
import pytest

from helpers import PROJECT, copy_project

NOTEBOOK = PROJECT / "notebooks" / "first_steps.ipynb"


def test_it_is_valid_and_stored_without_outputs_and_paths_of_a_machine():
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"  # what Jupyter calls the environment's own
    assert not re.search(r"/(home|root|Users|tmp|usr|work|mnt)/|[A-Z]:\\\\", NOTEBOOK.read_text())


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", NOTEBOOK.read_text())
    assert links and all((NOTEBOOK.parent / link).exists() for link in links)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
def test_it_trains_predicts_and_shows_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = copy_project(tmp_path / "project") / "notebooks"
    notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    texts = {name: "".join(output.get("text", "") for output in cell) for name, cell in outputs.items()}
    pictures = [name for name, cell in outputs.items() if any("image/png" in o.get("data", ()) for o in cell)]
    assert "done: 1 epoch" in "".join(texts.values()) and len(pictures) == 2
    (right,) = re.findall(r"([\d.]+)% of 10,000 are right", "".join(texts.values()))
    assert float(right) > 95
    assert len(list((folder.parent / "saved/models").glob("*/*/model_best.pth"))) == 1
