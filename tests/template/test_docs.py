"""What the pages in docs/ show of a config is one that the check accepts, and no page is lost."""

import json
import re

import pytest

from helpers import PROJECT
from parse_config import PARTS, ConfigParser
from utils.config.check import check_types
from utils.config.files import deep_merge, read_config

PAGES = sorted((PROJECT / "docs").glob("*.md"))
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```json\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_example_of_a_config_passes_the_check(block, monkeypatch):
    monkeypatch.setattr("utils.config.types.find_spec", lambda package: package)  # all that is optional is installed
    monkeypatch.setattr("utils.config.check.Path.is_file", lambda path: True)  # and all files are there
    example = json.loads(block if block.lstrip().startswith("{") else "{" + block + "}")
    config = ConfigParser(deep_merge(read_config(PROJECT / "config.json"), example), parts=PARTS)
    check_types(config.config, PARTS)
    assert not config.own_keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_readme_leads_to_every_page(page):
    assert f"docs/{page.name}" in (PROJECT / "README.md").read_text()
