"""What the pages in docs/ show of a config is one that the check accepts, and no page is lost."""

import csv
import json
import math
import re

import pytest
from forked import run_forked

from helpers import PROJECT, SHORT, copy_project, run_here, same
from parse_config import PARTS, ConfigParser
from utils.config.check import check_types
from utils.config.files import deep_merge, read_config
from utils.runs.checkpoint import load_checkpoint

# classes that the pages write down themselves; tests train with some like them
OWN_CLASSES = ("LinesDataLoader", "DetectionTrainer", "FixMatchTrainer")
PAGES = sorted((PROJECT / "docs").glob("*.md"))
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    if page.stem != "your_job"  # which names classes of its own: test_readme.py trains with them
    for i, block in enumerate(re.findall(r"```json\n(.*?)```", page.read_text(), re.S))
    if not any(name in block for name in OWN_CLASSES)
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_example_of_a_config_passes_the_check(block, monkeypatch):
    monkeypatch.setattr("utils.config.types.find_spec", lambda package: package)  # all that is optional is installed
    monkeypatch.setattr("utils.config.check.os.path.isfile", lambda path: True)  # and all files are there
    example = json.loads(block if block.lstrip().startswith("{") else "{" + block + "}")
    if "StopWhenTheRateIsSmall" in example.get("callbacks", []):
        example["callbacks"].remove("StopWhenTheRateIsSmall")  # a class of the page, with which a test below trains
    config = ConfigParser(deep_merge(read_config(PROJECT / "config.json"), example), parts=PARTS)
    check_types(config.config, PARTS)
    assert not config.own_keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_index_leads_to_every_page(page):
    assert page.name == "README.md" or f"]({page.name})" in (PROJECT / "docs" / "README.md").read_text()
    assert "](docs/README.md)" in (PROJECT / "README.md").read_text()


def test_what_agents_are_told_is_there():
    page = (PROJECT / "AGENTS.md").read_text()
    given = re.findall(r"--set (?:'([^']*)'|([\w.]+=[\w.]+))", page)
    values = [quoted or plain for quoted, plain in given if plain != "key=value"]
    given = [word for value in values for word in ("--set", value)]
    assert "trainer.limit_train_batches=100" in given and sum("TimeLimit" in word for word in given) == 1
    assert "no errors found" in run_here("train.py", "-c", "config.json", "--check", *given).stdout
    named = {*re.findall(r"python (\w+\.py)", page), *re.findall(r"`(\w+/)`", page)}
    assert len(named) > 5 and all((PROJECT / name).exists() for name in named)
    assert len(page.splitlines()) <= 60


def test_links_lead_somewhere():
    """To a file that is there, and to a heading that it has."""
    for page in [*PAGES, *PROJECT.glob("*.md")]:
        for place, _, heading in re.findall(r"\]\(([^)#:\s]*)(#([^)]*))?\)", page.read_text()):
            target = page.parent / place if place else page
            assert target.exists(), (page.name, place)
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if heading else []
            anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
            assert not heading or heading in anchors, (page.name, place, heading)


def test_the_callback_of_the_page_on_callbacks_stops_a_run(tmp_path):
    folder = copy_project(tmp_path / "project")
    text = (PROJECT / "docs" / "callbacks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    with open(folder / "trainer" / "callbacks.py", "a") as file:
        file.write("\n\n" + code)
    (example,) = (block for block in re.findall(r"```json\n(.*?)```", text, re.S) if "StopWhen" in block)
    (folder / "mine.json").write_text('{"base": "config.json", ' + example + "}")
    short = ("--set", "trainer.epochs=2", "--set", "trainer.len_epoch=3", "--lr", "1e-8")
    told = run_forked("train.py", "-c", "mine.json", *short, cwd=folder).stdout
    assert "small 1" in told and "the learning rate is small" in told
    assert [path.name for path in folder.glob("saved/models/*/*/top-*")] == ["top-val_accuracy-epoch1.pth"]


@pytest.mark.parametrize("name", ["MixupTrainer", "PenaltyTrainer"])
def test_a_trainer_of_the_page_on_trainers_trains_in_bf16(name, tmp_path):
    folder = copy_project(tmp_path / "project")
    code = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "trainers.md").read_text(), re.S)
    seen = "        assert torch.is_autocast_enabled('cpu')\n        return"
    (folder / "trainer" / "mine.py").write_text("\n\n".join(code).replace("        return", seen))
    schedule = '{"type": "CosineAnnealingLR", "args": {"T_max": "100%"}, "interval": "step"}'
    sets = (f"trainer.type=mine.{name}", f"lr_scheduler={schedule}", "trainer.precision=bf16")
    run_forked(
        "train.py", "-c", "config.json", *SHORT, *(word for text in sets for word in ("--set", text)), cwd=folder
    )
    (table,) = folder.glob("saved/log/*/*/metrics.csv")
    (row,) = csv.DictReader(table.read_text().splitlines())
    last_update = 0.002 * (1 + math.cos(0.8 * math.pi)) / 2  # of five
    assert float(row["lr"]) == pytest.approx(last_update)
    if name == "PenaltyTrainer":
        assert float(row["loss"]) == pytest.approx(float(row["error"]) + float(row["penalty"]), rel=1e-3)


UNLABELLED = """
import torch

from base import BaseDataLoader


class Views(torch.utils.data.Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.rand(1, 28, 28), torch.rand(1, 28, 28)


class Unlabelled(BaseDataLoader):
    def __init__(self, batch_size: int):
        super().__init__(Views(), batch_size, True, 0.0, 0)
"""


def test_the_second_loader_of_the_page_on_trainers_is_read_on_by_a_resumed_run(tmp_path):
    folder = copy_project(tmp_path / "project")
    code = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "trainers.md").read_text(), re.S)
    (own,) = (block.replace("0.95", "0.0") for block in code if "FixMatchTrainer" in block)
    (folder / "trainer" / "mine.py").write_text(own)
    (folder / "data_loader" / "mine.py").write_text(UNLABELLED)
    config = {"base": "config.json", "unlabelled_loader": {"type": "mine.Unlabelled", "args": {"batch_size": 8}}}
    trainer = {"type": "mine.FixMatchTrainer", "save_every_steps": 3, "epochs": 2, "len_epoch": 4}
    (folder / "mine.json").write_text(json.dumps(config | {"trainer": trainer}))
    run_forked("train.py", "-c", "mine.json", "--bs", "16", cwd=folder)
    (run,) = folder.glob("saved/models/*/*")
    (table,) = folder.glob("saved/log/*/*/metrics.csv")
    straight, values = load_checkpoint(run / "checkpoint-epoch2.pth"), table.read_text()
    assert "unlabelled" in values.partition("\n")[0]
    (run / "checkpoint-epoch2.pth").unlink()
    run_forked("train.py", "-r", run / "checkpoint-epoch2-batch2.pth", cwd=folder)
    assert same(load_checkpoint(run / "checkpoint-epoch2.pth")["state_dict"], straight["state_dict"])
    assert table.read_text() == values
