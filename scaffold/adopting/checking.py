"""What is left to do in a project that was moved in: what its own code does that the framework does not allow."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from scaffold.adopting.kept_classes import Work
from scaffold.adopting.ours import members
from scaffold.adopting.reading import Source
from scaffold.adopting.stock import fingerprints
from scaffold.adopting.tree import Tree
from utils.errors import UserError, shortened
from utils.old_forms.named import wrong_names

_SECONDS = 120  # for one --check, which builds nothing
_MAX_CONFIGS = 8
_MAX_SCRIPTS = 4  # that a config is checked with, until one finds no errors
_SAVERS = {
    "_save_checkpoint": "saves by itself; without it the framework saves, and what has state_dict is saved too",
    "_resume_checkpoint": "restores by itself; without it the framework restores what it saved",
}


def work_in(sources: dict[str, Source]) -> list[Work]:
    """Return what the project's own code does that the framework does not allow, or does better."""
    work = []
    trainers = _subclasses(sources, "BaseTrainer")
    for source in sources.values():
        for node in ast.walk(source.tree):
            place = f"{source.place}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load" and not _reads_resume(node):
                reason = (
                    "torch.load reads tensors and plain values alone; a checkpoint of the old template, which holds "
                )
                reason += "its pickled config, is read by utils.runs.checkpoint.load_checkpoint(path)"
                work.append(Work(place, reason))
            elif isinstance(node, ast.ClassDef) and node.name in trainers:
                work += _work_in_trainer(source, node)
    return work


def _reads_resume(call):
    """Whether a call of torch.load is the stock test.py's, which the framework takes care of."""
    return "resume" in ast.unparse(call) or any(keyword.arg == "weights_only" for keyword in call.keywords)


def _work_in_trainer(source, node):
    """What a trainer of the project has that collides with the framework's BaseTrainer."""
    stock = {name.partition(".")[2] for name in fingerprints() if name.startswith("BaseTrainer.")} | {"_train_epoch"}
    for item in node.body:
        if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) or item.name.startswith("__"):
            continue
        place = f"{source.place}:{item.lineno}"
        if item.name in _SAVERS:
            yield Work(place, f"{node.name}.{item.name} {_SAVERS[item.name]}; delete it unless it does more")
        elif item.name not in stock and item.name in members("BaseTrainer"):
            yield Work(place, f"{node.name}.{item.name}: BaseTrainer has something of this name; call yours otherwise")


def _subclasses(sources, base):
    """The names of the project's classes that are derived from a class, also through others."""
    found, size = {base}, 0
    while len(found) > size:
        size = len(found)
        for source in sources.values():
            for node in ast.walk(source.tree):
                if (
                    isinstance(node, ast.ClassDef)
                    and {ast.unparse(item).rpartition(".")[2] for item in node.bases} & found
                ):
                    found.add(node.name)
    return found - {base}


def scripts_of(sources: dict[str, Source]) -> list[str]:
    """Return the project's scripts at its top that read a config with ConfigParser, train.py first."""
    found = []
    for place, source in sources.items():
        calls = [ast.unparse(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
        if "/" not in place and {"ConfigParser.from_args", "ConfigParser.get_instance", "ConfigParser"} & set(calls):
            found.append(place)
    trains = [place for place in found if "train" in place]
    return sorted(trains or found, key=lambda place: (place != "train.py", place))


def configs_of(tree: Tree) -> list[str]:
    """Return the paths of the project's configs: JSON files with a trainer and an arch, or with several of these."""
    found = []
    for place in tree.tracked:
        if place.endswith(".json") and tree.exists(place) and (text := tree.read(place)) and '"trainer"' in text:
            try:
                content = json.loads(text)
            except ValueError:
                continue
            if isinstance(content, dict) and isinstance(content.get("trainer"), dict) and "name" in content:
                found.append(place)
    return sorted(found, key=lambda place: (place != "config.json", place.count("/"), place))


def command_of(tree: Tree, script: str, config: str) -> list[str]:
    """Return the command that checks a config in the moved project."""
    flag = "-c" if re.search(r"""["']-c["']""", tree.read(script) or "") else "--config"
    return ["python", script, flag, config, "--check"]


def check(tree: Tree, command: list[str]) -> list[str]:
    """Return the errors that a check reports. It runs the project's own script, which may write into the project."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=tree.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return [f"it did not end within {_SECONDS} s"]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
    hidden = str(tree.folder)
    return [line.replace(hidden, str(tree.project)) for line in errors] or ["it failed silently"]


def read_newest_checkpoint(project: Path, configs: list[str]) -> tuple[str, str | None] | None:
    """Return the project's newest checkpoint and why it cannot be read, None if it can; None without a checkpoint."""
    folders = {project / "saved"}
    for config in configs:
        found = re.search(
            r'"save_dir"\s*:\s*"([^"]+)"', (project / config).read_text(encoding="utf-8", errors="replace")
        )
        folders |= {project / found[1]} if found else set()
    paths = [path for folder in folders if folder.is_dir() for path in folder.rglob("*.pth") if path.is_file()]
    if not paths:
        return None
    from utils.runs.checkpoint import load_checkpoint

    newest = max(paths, key=lambda path: path.stat().st_mtime)
    shown = os.path.relpath(newest, project)
    try:
        load_checkpoint(newest)
    except UserError as error:
        return shown, shortened(str(error).splitlines()[0])
    return shown, None


def checked(
    tree: Tree, sources: dict[str, Source], dry_run: bool, own_parser: bool = False
) -> tuple[list[str], list[Work]]:
    """Check the project's configs, and read its newest checkpoint. Returns lines of the report, and the work.

    dry_run: look at the configs alone; their --check, which runs the project's script, is left to the user. own_parser:
    whether its scripts read configs with a ConfigParser of its own, which knows no --check.
    """
    scripts, configs = scripts_of(sources), configs_of(tree)
    told, work, unused = [], [], set(scripts)
    trees = {source.module: source.tree for source in sources.values()}
    for config in configs[:_MAX_CONFIGS] if scripts else []:
        found_by = {}
        for script in _suited(scripts, config):
            command = command_of(tree, script, config)
            errors = [] if dry_run or own_parser else [f"--check says: {error}" for error in check(tree, command)]
            names = list(wrong_names(json.loads(tree.read(config) or "{}"), sources[script].tree, trees.get))
            found_by[script] = [error for error in errors if error.removeprefix("--check says: ") not in names] + names
            if not found_by[script]:
                break
        script = min(found_by, key=lambda script: len(found_by[script]))
        errors, command = found_by[script], command_of(tree, script, config)
        unused -= found_by.keys()
        known = {item.reason: item.place for item in work}  # a package that is not installed stops every check
        found = [Work(config, error) for error in errors if error not in known]
        shown = f"{config} (types and arguments alone)" if own_parser else shlex.join(command)
        told.append(
            f"{shown}: {_outcome(len(found), [known[e] for e in errors if e in known], dry_run and not own_parser)}"
        )
        told += [f"    {line}" for line in _others(found_by, script, scripts, config)]
        work += found
    if configs[_MAX_CONFIGS:] and scripts:
        told.append(
            f"{len(configs) - _MAX_CONFIGS} more configs were not checked: python {scripts[0]} -c <config> --check"
        )
    told += [f"{script}: none of the configs was checked with it" for script in scripts if script in unused and configs]
    if not scripts:
        told.append("no script reads a config with ConfigParser, so none was checked")
    if found := read_newest_checkpoint(tree.project, configs):
        told.append(f"{found[0]}: {'can be read' if found[1] is None else 'cannot be read'}")
        work += [Work(found[0], found[1])] if found[1] else []
    return told, work


def _suited(scripts, config):
    """The scripts to check a config with, in order: first those whose names have words in common with its path."""

    def words(place):
        return set(re.findall(r"[a-z0-9]+", place.lower())) - {"train", "py", "config", "configs", "json"}

    return sorted(scripts, key=lambda script: -len(words(script) & words(config)))[:_MAX_SCRIPTS]


def _others(found_by, script, scripts, config):
    """A line for each other script that a config was checked with, and one for those that were not tried."""
    for other, errors in found_by.items():
        if other != script:
            number = f"{len(errors)} error{'s' * (len(errors) > 1)}"
            yield f"{other} with {config}: {number} ({shortened('; '.join(errors))})"
    untried = [other for other in scripts if other not in found_by]
    if found_by[script] and untried:
        yield f"not tried with {config}: {', '.join(untried)}"


def _outcome(new, as_in, dry_run):
    """What came of a check, in words; as_in: the configs that have the rest of its errors, too."""
    parts = [f"{new} left to do"] if new else []
    parts += [f"{len(as_in)} as in {' and '.join(sorted(set(as_in)))}"] if as_in else []
    if dry_run:
        return ", ".join(["not run (--dry-run)", *parts])
    return ", ".join(parts) or "no errors"
