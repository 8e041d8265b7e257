"""Start a project of your own from this template: python new_project.py ../my_project."""

import argparse
import json
import os
import re
import shlex
import shutil
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line

TEMPLATE = Path(__file__).resolve().parent

# Everything else at the top of the template, such as runs, benchmarks and its own papers, stays behind.
CARRIED = [
    ".gitignore",
    "LICENSE",
    "Makefile",
    "base",
    "compare.py",
    "config.json",
    "config.schema.json",
    "constraints.txt",
    "data",
    "data_loader",
    "docs",
    "logger",
    "model",
    "parse_config.py",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements.txt",
    "series.py",
    "test.py",
    "tests",
    "train.py",
    "trainer",
    "utils",
]
# What concerns the template alone: its own tests, the further jobs, and what only those use.
TEMPLATE_ONLY = {
    "tests/template",
    "docs/jobs.md",
    *(f"docs/{path.name}" for path in TEMPLATE.glob("docs/*.png")),
    *(f"data/{name}" for name in ("text", "diabetes", "cifar-10-batches-bin", "cifar-10-binary.tar.gz")),
}
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*cache", ".hypothesis")

README = """# {name}

Train: `python train.py -c config.json`. Go on: `python train.py -r latest`. Test: `python test.py -r <checkpoint>`.
`make train` and `make test` first make `.venv` and install `requirements.txt` into it.

These rooms are yours; the rest is the framework.

| place | what to put there |
|---|---|
| `config.json` | which model, data, optimizer and how long; `python train.py -c config.json --check` checks it |
| `model/` | models in `model.py`, losses in `loss.py`, metrics in `metric.py` |
| `data_loader/` | loaders in `data_loaders.py` |
| `trainer/trainer.py` | what happens with a batch, if the usual step is not yours |
| `data/` | input data |

`make test` runs the example, LeNet on MNIST. Put yours beside it, as `model/mine.py` and `mine.json`. Where it
replaces `MnistModel`, `MnistDataLoader` or `config.json`, with its `description`, take out the tests that then fail,
among them `tests/model/test_model.py`, and parts of `tests/data_loader/test_data_loaders.py`,
`tests/test_parse_config.py`, `tests/test_commands.py`, `tests/test_debugging_commands.py` and `tests/utils/config/`.

What callbacks, optimizers, metrics, loaders and trackers there are: `docs/`.

Runs go to `saved/models/<name>/<run>/` (checkpoints) and `saved/log/<name>/<run>/` (logs, TensorBoard).
"""


def main(target, name):
    """Copy the framework and its example to the target folder, under the project's name."""
    target = Path(target).resolve()
    name = target.name if name is None else name
    if not re.fullmatch(r"[\w][\w.+ -]*", name):
        raise UserError(f"--name: got {name!r}; a name is letters, digits, '_', '-', '.', '+' and spaces")
    if os.path.isfile(target):
        raise UserError(f"{target}: is a file; give a folder that is not there yet")
    if os.path.isdir(target) and any(target.iterdir()):
        raise UserError(f"{target}: is not empty; give a folder that is not there yet")
    if target.is_relative_to(TEMPLATE):
        raise UserError(f"{target}: lies inside the template; give a folder outside {TEMPLATE}")
    try:
        copy_template(target, name)
    except OSError as error:
        reason = error.strerror or "not all of it could be copied; is the disk full?"
        raise UserError(f"{target}: cannot make the project: {reason}") from None
    print(f"{name} is ready in {target}\nnext: cd {shlex.quote(str(target))} && make train")


def copy_template(target, name):
    """Copy what is carried, and give the copy its own name in config.json and its own README."""
    target.mkdir(parents=True, exist_ok=True)
    for item in CARRIED:
        source = TEMPLATE / item
        if source.is_dir():
            shutil.copytree(source, target / item, ignore=_left_behind)
        else:
            shutil.copy(source, target / item)
    config = target / "config.json"
    content = re.sub(r'"name": "[^"]*"', lambda _: f'"name": {json.dumps(name)}', config.read_text(), count=1)
    config.write_text(content)
    (target / "README.md").write_text(README.format(name=name))


def _left_behind(folder, names):
    """Caches, and what concerns the template alone."""
    place = Path(folder).relative_to(TEMPLATE)
    return LEFT_BEHIND(folder, names) | {name for name in names if (place / name).as_posix() in TEMPLATE_ONLY}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a project of your own from this template.")
    parser.add_argument("path", help="folder to make; it must not be there yet, or be empty")
    parser.add_argument("--name", help="name of the project, by default the folder's")
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("new_project.py")
        main(arguments.path, arguments.name)
