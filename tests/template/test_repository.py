"""What keeps the repository itself true: generated files, CI, and a test for each defect of the old template."""

import ast
import re
import textwrap

from helpers import AS_PINNED, PROJECT, SHORT, run
from utils.config.docs import START, TABLES, schema_text, with_tables
from utils.config.schema import Config, RunSettings, TrainerSettings


@AS_PINNED  # pydantic's words for a schema change
def test_schema_and_key_tables_are_fresh():
    assert (PROJECT / "config.schema.json").read_text() == schema_text(), "run make docs"
    pages = {path.stem: path.read_text() for path in (PROJECT / "docs").glob("*.md")}
    assert pages == {name: with_tables(page) for name, page in pages.items()}, "run make docs"
    assert "| `early_stop` | `0` |" in pages["config"] and "| `rename` | `{}` |" in pages["fine_tuning"]
    for name in TABLES:
        assert any(START.format(name) in page for page in pages.values()), name


def test_the_page_on_the_config_names_every_section_and_key():
    page = (PROJECT / "docs" / "config.md").read_text()
    for section in Config.model_fields.keys() - RunSettings.model_fields.keys():
        assert f"| `{section}` |" in page, section
    for key in RunSettings.model_fields.keys() | TrainerSettings.model_fields.keys():
        assert f"| `{key}` |" in page, key


def test_each_of_the_21_defects_of_the_old_template_has_a_test():
    text = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    named = {int(number) for number in re.findall(r"@pytest\.mark\.old_defect\((\d+)\)\n", text)}
    assert named == set(range(1, 22))


def test_ci_runs_the_readmes_test_command():
    assert "\nmake test\n" in (PROJECT / ".ci" / "run").read_text()


def test_constraints_pin_every_requirement():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text().lower(), re.M))
    for name in ("requirements.txt", "requirements-dev.txt"):
        for package, lowest in re.findall(r"^([\w-]+)(?:\[\w+\])?>=(\S+)$", (PROJECT / name).read_text(), re.M):
            assert tuple(map(int, pins[package].split("."))) >= tuple(map(int, lowest.split(".")))


def test_embedded_mnist_is_what_its_note_says():
    from base.data.mnist_files import _FILES

    note = (PROJECT / "data" / "mnist" / "README.md").read_text()
    assert all(f"`{name}.gz` | `{checksum}`" in note for name, (checksum, *_) in _FILES.items())
    assert "CC BY-SA 3.0" in note


def test_training_needs_no_package_that_it_does_not_use(tmp_path):
    program = f"""
        import runpy, sys
        sys.modules.update(dict.fromkeys(["pandas", "matplotlib", "torchvision", "yaml"]))
        sys.argv = ["train.py", "-c", "config.json", *{SHORT!r}, "--set", "trainer.save_dir={tmp_path}"]
        runpy.run_path("train.py", run_name="__main__")
    """
    assert "epoch 1/1" in run("-c", textwrap.dedent(program)).stdout


def test_a_check_needs_no_package_that_it_does_not_use():
    program = """
        import argparse, sys
        sys.modules.update(dict.fromkeys(["pandas", "matplotlib", "torchvision", "yaml", "tensorboard"]))
        sys.argv = ["train.py", "-c", "config.json", "--check"]
        from parse_config import PARTS, ConfigParser
        parser = argparse.ArgumentParser()
        parser.add_argument("-c", "--config")
        parser.add_argument("-r", "--resume")
        ConfigParser.from_args(parser, parts=PARTS)
    """
    assert "no errors found" in run("-c", textwrap.dedent(program)).stdout


def test_public_signatures_have_type_hints():
    folders = "base", "data_loader", "examples", "logger", "model", "trainer"
    files = [*PROJECT.glob("*.py"), *(file for folder in folders for file in (PROJECT / folder).rglob("*.py"))]
    lacking = [name for file in files for name in _without_hints(ast.parse(file.read_text()))]
    assert lacking == ["BaseDataLoader.__init__"]  # a plain type there would have the config's argument checked


def _without_hints(node, place=""):
    """Dotted names of the public functions below a module or class of which a parameter or the result has no hint."""
    for item in node.body:
        name = place + getattr(item, "name", "_")
        if isinstance(item, ast.ClassDef) and not item.name.startswith("_"):
            yield from _without_hints(item, f"{name}.")
        elif isinstance(item, ast.FunctionDef) and (not item.name.startswith("_") or item.name.endswith("__")):
            given = item.args
            parameters = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
            hinted = all(p is None or p.annotation or p.arg in ("self", "cls") for p in parameters)
            if not hinted or item.returns is None:
                yield name
