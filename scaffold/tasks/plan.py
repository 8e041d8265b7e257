"""What a task decides on a new project: its config, its rooms, and what its README says about them."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from scaffold.tasks.looking import SCHEDULE
from scaffold.template import TEMPLATE

ROOMS = Path(__file__).parent / "rooms"
"""The files of which some become rooms of a new project."""

ABOUT_R_SQUARED = "R2, the share of the target's variance that is explained: 1 is perfect, and 0 is as good as the mean"
_LINE = 100  # letters of a section of a config on one line
_JOB = "The rooms now hold a complete job, LeNet on MNIST:\nreplace it with yours."
_OWN_JOB = "The rooms now hold the job described above:\nchange it, or replace it."
_LOADERS = '''"""YOURS: the classes that "data_loader" in a config names. A loader yields (data, target) batches.

config.json names {name}, which is in {place}. To change how the data are read or prepared, write a
subclass of it here, or of BaseDataLoader in base/, and name it in the config. docs/data.md explains both.
"""
'''


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written for a task.

    command: that made the project, for its README.
    found: lines on what the data hold.
    choices: {part of the config: what was chosen, and why}, a line each.
    config: the config, without name.
    rooms: {place in the project: content} of the files that replace those of the default job.
    example: what predict.py may be given.
    keeps_mnist: whether the project needs the template's own data and notebook.
    """

    command: str
    found: list[str]
    choices: dict[str, str]
    config: dict[str, Any]
    rooms: dict[str, str]
    example: str
    keeps_mnist: bool = False


def apply_plan(plan: Plan, target: Path, name: str) -> None:
    """Turn a copy of the template in the target folder into a project for the plan's task."""
    for place, content in plan.rooms.items():
        (target / place).write_text(content, encoding="utf-8")
    config = {"$schema": "./config.schema.json", "name": name, **plan.config}
    (target / "config.json").write_text(as_text(config) + "\n", encoding="utf-8")
    if not plan.keeps_mnist:
        shutil.rmtree(target / "data")
        shutil.rmtree(target / "notebooks")
    _write_readme(plan, target)


def as_text(value: Any, indent: int = 0) -> str:
    """Return a config as JSON. What fits is on one line; the config itself never is."""
    short = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or (indent and indent + len(short) <= _LINE):
        return short
    inner, outer = " " * (indent + 4), " " * indent
    if isinstance(value, list):
        parts = [as_text(item, indent + 4) for item in value]
        return f"[\n{inner}" + f",\n{inner}".join(parts) + f"\n{outer}]"
    parts = [f"{json.dumps(key, ensure_ascii=False)}: {as_text(item, indent + 4)}" for key, item in value.items()]
    return f"{{\n{inner}" + f",\n{inner}".join(parts) + f"\n{outer}}}"


def config_for(
    description: str,
    *,
    arch: dict[str, Any],
    loaders: dict[str, Any],
    optimizer: dict[str, Any],
    loss: Any,
    metrics: list[Any],
    length: dict[str, int],
    monitor: str,
    histograms: int,
    **trainer: Any,
) -> dict[str, Any]:
    """Return a config without name, in the order of its sections.

    loaders: {section of a loader: its value}. length: from duration(). histograms: epochs from one to the next.
    trainer: further keys of that section.
    """
    keys = {"save_dir": "saved/", "keep_last": 1, "monitor": monitor, "histograms_every_epochs": histograms}
    return {
        "description": description,
        "seed": 123,
        "arch": arch,
        **loaders,
        "optimizer": optimizer,
        "loss": loss,
        "metrics": metrics,
        "lr_scheduler": SCHEDULE,
        "trainer": {**length, **keys, **trainer},
    }


def loaders_file(name: str, place: str) -> str:
    """Return the data_loaders.py of a project whose config names a built-in loader. place: the file of that loader."""
    return _LOADERS.format(name=name, place=place)


def room(name: str) -> str:
    """Return the content of a file in rooms/."""
    return (ROOMS / name).read_text(encoding="utf-8")


def with_r_squared() -> str:
    """Return the template's model/metric.py with the metric RSquared of examples/tabular."""
    example = (TEMPLATE / "examples" / "tabular" / "model.py").read_text(encoding="utf-8")
    return (
        (TEMPLATE / "model" / "metric.py").read_text(encoding="utf-8")
        + "\n\n"
        + example[example.index("class RSquared") :]
    )


def _write_readme(plan: Plan, target: Path) -> None:
    readme = target / "README.md"
    text = readme.read_text(encoding="utf-8")
    found = [f"- {line}" for line in plan.found]
    choices = [f"- **{part}**: {choice}" for part, choice in plan.choices.items()]
    about = [
        "## The data, and what was chosen for them",
        f"Made with `{plan.command}`, which found:",
        "\n".join(found),
        "Each of these choices is in `config.json` or in a room, and yours to change:",
        "\n".join(choices),
        "`train.py` ends with the command that measures the best epoch on the test data. Use it once, at the end.",
    ]
    changes = {
        "python predict.py -r latest FILE ...   # predict for files, folders, arrays; see docs/predict.md": (
            f"python predict.py -r latest {plan.example}   # see docs/predict.md"
        ),
        "## Three rooms are yours": "\n\n".join(about) + "\n\n## Three rooms are yours",
    }
    if not plan.keeps_mnist:
        start = text.index("`notebooks/first_steps.ipynb`")
        text = text[:start] + text[text.index("`python train.py -c config.json --check`") :]
        changes |= {_JOB: _OWN_JOB, "So are `data/` and `config.json`, which names": "So is `config.json`, which names"}
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    readme.write_text(text, encoding="utf-8")
