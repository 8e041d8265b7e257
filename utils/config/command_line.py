"""Read the command line that train.py and test.py share: which config, which checkpoint, what to set on top."""

import argparse
import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from utils.config.files import (
    deep_merge,
    parse_assignment,
    places_of,
    read_config,
    set_by_path,
    split_path,
)
from utils.config.plain import path_mistake, require_savable
from utils.config.schema import KNOWN_KEYS, Flag
from utils.config.variants import variants_of
from utils.distributed.launch import is_own_launch, launch_id, restarts
from utils.distributed.world import is_main
from utils.errors import UserError, brief, in_one_line, shown
from utils.json_io import read_json_beside
from utils.nearest import nearest
from utils.runs.checkpoint import find_checkpoint, load_checkpoint, newest_run
from utils.runs.run_folder import is_being_trained, run_of_launch, seen_runs

_FLAG_OF_FILE = {".json": "-c ", ".yaml": "-c ", ".yml": "-c ", ".toml": "-c ", ".pth": "-r ", ".safetensors": "-r "}


@dataclass(frozen=True)
class CommandLine:
    """What a command line asks for."""

    config: dict
    """The config before anything is set on top: the checkpoint's, under the config file's."""
    assignments: list
    """(path, value) to set on top, in this order."""
    resume: Path | None
    """The checkpoint to go on from."""
    checkpoint: dict | None
    """What it holds."""
    new_run: bool
    """Whether a run of its own starts from the checkpoint."""
    device: str | None
    """The device to use instead of the config's."""
    variants: list
    """The runs of a series, of which the config is that of the first."""
    seen: frozenset | None
    """With -r auto, what seen_runs gave when it looked for the run."""
    check: bool
    print_config: bool


def read_command_line(args, options):
    """The CommandLine of an ArgumentParser with -c, -r and -d, or of what its parse_args returned.

    A parser gets --set, --check, --print-config, the options, which have flags, type and target, and the flags that the
    config itself names in "cli". Raises UserError.
    """
    flags = _flags_of_config() if isinstance(args, argparse.ArgumentParser) else {}
    parsed = _parse(args, options, flags) if isinstance(args, argparse.ArgumentParser) else args
    assignments = [(option.target, getattr(parsed, _dest(option), None)) for option in options]
    assignments += [(flag.target, getattr(parsed, place, None)) for place, flag in flags.items() if flag]
    assignments = [(target, value) for target, value in assignments if value is not None]
    assignments += map(parse_assignment, getattr(parsed, "_set", None) or ())
    for flag, value in (("-r", parsed.resume), ("-c", parsed.config), ("-d", getattr(parsed, "device", None))):
        if value == "":
            raise UserError(f"{flag}: got an empty text; is a variable of the shell not set?")
    device = _choose_device(parsed.device) if getattr(parsed, "device", None) else None
    given = read_config(parsed.config) if parsed.config else {}
    settings = [*assignments, *_first_of(_variants(parsed, given, assignments))]
    restarted = _read_again(parsed, given, settings) if restarts() else None
    runs = _runs_of_job(given, settings) if parsed.resume == "auto" and not restarted else None
    seen = runs and seen_runs(runs)  # before one of them is chosen
    resume, checkpoint, config = restarted or _read(parsed, given, settings)
    variants = _variants(parsed, config, assignments)
    return CommandLine(
        config,
        [*assignments, *_first_of(variants)],
        resume,
        checkpoint,
        new_run=bool(parsed.resume and parsed.config and parsed.resume != "auto" and not restarted),
        device=device,
        variants=variants,
        seen=seen,
        check=getattr(parsed, "_check", False),
        print_config=getattr(parsed, "_print_config", False),
    )


def _flags_of_config():
    """{"cli.<i>": Flag} of the config that -c and -r name, so that --help shows them; None for one that is malformed.

    With -r they are those of the config.json beside the checkpoint, which is read without torch.
    """
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("-c", "--config", nargs="?")
    named.add_argument("-r", "--resume", nargs="?")
    named, _ = named.parse_known_args()
    config = read_config(named.config) if named.config else {}
    if named.resume and named.resume != "auto":
        path = newest_run(str(_save_dir(config))) if named.resume == "latest" else Path(named.resume)
        config = deep_merge(_config_beside(path), config)
    entries = config.get("cli")
    return {f"cli.{i}": _flag(entry) for i, entry in enumerate(entries if isinstance(entries, list) else ())}


def _config_beside(path):
    """The config.json beside a checkpoint, or in a run's folder; {} if there is none, or one that is damaged."""
    if path is None:
        return {}
    place = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = read_json_beside(place)
        require_savable(config, place)
    except (OSError, ValueError):  # the checkpoint holds it too
        return {}
    return config if isinstance(config, dict) else {}


def _flag(entry):
    with contextlib.suppress(ValidationError):  # the config's check says more
        return Flag.model_validate(entry)


def _parse(parser, options, flags):
    ours = {
        "--set": {"action": "append", "metavar": "KEY=VALUE", "help": "set any value of the config; repeatable"},
        "--check": {"action": "store_true", "help": "check the config and stop"},
        "--print-config": {"action": "store_true", "help": "print the merged config and stop"},
    }
    for flag, settings in ours.items():
        # a project's script may have a flag of that name
        with contextlib.suppress(argparse.ArgumentError):
            parser.add_argument(flag, dest=flag[1:].replace("-", "_"), **settings)
    for option in options:
        convert = _to_bool if option.type is bool else option.type
        target = option.target if isinstance(option.target, str) else ".".join(option.target)
        metavar = option.type.__name__.upper() if option.type in (int, float, str, bool) else "VALUE"
        text = f"sets {target.replace(';', '.')}"
        parser.add_argument(*option.flags, dest=_dest(option), type=convert, metavar=metavar, help=text)
    for place, flag in flags.items():
        if flag is not None:
            _add_flag(parser, place, flag)
    parsed, unknown = in_one_line(parser).parse_known_args()
    if unknown and None not in flags.values():
        raise UserError("\n".join(_unknown_mistakes(parser, unknown, parsed.config)))
    return parsed


def _unknown_mistakes(parser, words, config):
    """A line for each word that the parser has no use for, with what would do."""
    flags = {flag.lstrip("-").replace("-", "_"): flag for flag in parser._option_string_actions}
    config = read_config(config) if config else {}
    mistakes = []
    while words:
        word, *words = words
        if word == "--":
            continue
        if word.startswith("-"):
            flag, _, value = word.partition("=")
            is_value = words and re.fullmatch(r"-[\d.]\S*|[^-=][^=]*", words[0])
            if not value and is_value:
                value, *words = words
            mistakes.append(f"{flag}: no such flag; {_instead_of(flag, value, flags, config)}")
        else:
            before = "--set " if "=" in word else _FLAG_OF_FILE.get(Path(word).suffix)
            meant = f"say {before}{word}" if before else "belongs to no flag; see --help"
            mistakes.append(f"{word or repr(word)}: {meant}")
    return mistakes


def _instead_of(flag, value, flags, config):
    """What would do in the place of a flag that is none. flags: {name: flag} of those that are."""
    name = flag.lstrip("-").replace("-", "_")
    places = places_of(name, config, KNOWN_KEYS)
    if len(places) in (1, 2, 3) and name not in flags:
        return "say " + " or ".join(f"--set {place}={value or '...'}" for place in places)
    close = name if name in flags else nearest(name, flags, cutoff=0.6)
    return f"did you mean {flags[close]}?" if close else "see --help"


def _add_flag(parser, place, flag):
    convert = {"int": int, "float": float, "str": str, "bool": _to_bool}[flag.type]
    text = f"{flag.help} (sets {flag.target})".lstrip().replace("%", "%%")
    try:
        parser.add_argument(flag.flag, dest=place, type=convert, metavar=flag.type.upper(), help=text)
    except argparse.ArgumentError:
        raise UserError(f"{place}.flag: {flag.flag!r} exists already; choose another word") from None


def _dest(option):
    """The attribute that argparse would choose: the first long flag's name."""
    long = [flag for flag in option.flags if flag.startswith("--")]
    return (long or option.flags)[0].lstrip("-").replace("-", "_")


def _variants(parsed, config, assignments):
    """The variants of the config that the command line asks for."""
    changed = deep_merge({}, config)
    for target, value in assignments:
        with contextlib.suppress(UserError):  # which is told when the config is checked
            set_by_path(changed, target, value, KNOWN_KEYS)
    return variants_of(parsed, changed)


def _first_of(variants):
    """What the first variant sets, [(path, value)]."""
    return [*variants[0].assignments, ("name", variants[0].name)] if variants else []


def _read(parsed, given, assignments):
    """(path of the checkpoint, its content, config): its config, under the given one if there are both."""
    if not parsed.resume and not parsed.config:
        raise UserError(
            "nothing to run; give a config to train, as in -c config.json, or a checkpoint to go on from or to test, "
            "as in -r latest"
        )
    if getattr(parsed, "weights_only", False) and parsed.resume in (None, "auto"):
        raise UserError("--weights-only: needs a checkpoint with -r, whose weights a new run begins with")
    if parsed.resume == "auto":
        return _read_auto(parsed, given, assignments)
    if not parsed.resume:
        return None, None, given
    save_dirs = [value for target, value in assignments if split_path(target) == ["trainer", "save_dir"]]
    resume, passed_over = find_checkpoint(parsed.resume, *(save_dirs[-1:] or [_save_dir(given)]))
    _tell(parsed.resume, resume, passed_over)
    checkpoint = load_checkpoint(resume, shards=False)
    config = checkpoint.get("config")
    if config is None and not parsed.config:
        raise UserError(f"{shown(resume)}: holds no config; give one with -c")
    config = config or {}
    require_savable(config, resume)
    if hasattr(parsed, "weights_only"):
        named = _init_path(given)
        if named not in (None, str(resume) if parsed.weights_only else _init_path(config)):
            raise UserError(
                f"init_weights.path: got {brief(named)}, but -r names the weights already; leave one of them out"
            )
        if parsed.weights_only:
            return None, None, _begin_with(resume, config, given)
    return resume, checkpoint, deep_merge(config, given)


def _read_again(parsed, given, assignments):
    """The same for processes that a launcher has started again: of the run that they trained; None if nothing is saved.

    Its config is the checkpoint's: it was made of this command line before.
    """
    named = Path(parsed.resume) if parsed.resume not in (None, "auto", "latest") else None
    beside = named and (named if named.is_dir() else named.parent)
    merged = deep_merge(_config_beside(named), given)
    for target, value in assignments:
        if split_path(target) == ["trainer", "save_dir"]:
            set_by_path(merged, target, value, KNOWN_KEYS)
    roots = {Path(_save_dir(merged)), *(beside.resolve().parents[2:3] if beside else ())}
    run, since = run_of_launch(roots, launch_id()) or (None, None)
    if run is None or not any(run.glob("*.pth")):
        return None
    resume, passed_over = find_checkpoint(run)
    if since is not None and resume.stat().st_mtime < since:
        return None
    _tell("", resume, passed_over)
    checkpoint = load_checkpoint(resume, shards=False)
    require_savable(checkpoint["config"], resume)
    return resume, checkpoint, checkpoint["config"]


def _init_path(config):
    section = config.get("init_weights")
    return section.get("path") if isinstance(section, dict) else None


def _begin_with(resume, config, given):
    """The config of a run that takes only the weights of a checkpoint, whose config this is."""
    merged = deep_merge({key: value for key, value in config.items() if key != "init_weights"}, given)
    return merged | {"init_weights": {**(merged.get("init_weights") or {}), "path": str(resume)}}


def _read_auto(parsed, given, assignments):
    """The same for -r auto, which continues the newest run of the config's name, if there is one, with that config."""
    if not parsed.config:
        raise UserError("-r auto: needs a config with -c, whose run it starts or continues")
    runs = _runs_of_job(given, assignments)
    if runs is None:
        return None, None, given  # the check of the config says more
    run = newest_run(runs.parents[1], runs.name)
    for begun in filter(Path.is_dir, runs.glob("*")):
        if not any(begun.glob("*.pth")) and is_being_trained(begun):
            raise UserError(
                f"{shown(begun)}: another process trains this run, and has saved nothing yet; wait for its end"
            )
    if run is None:
        return None, None, given
    resume, passed_over = find_checkpoint(run)
    _tell(parsed.resume, resume, passed_over)
    return resume, load_checkpoint(resume, shards=False), given


def _runs_of_job(given, assignments):
    """The folder of the config's runs; None if the config does not say."""
    merged = deep_merge({}, given)
    for target, value in assignments:
        if split_path(target) in (["name"], ["trainer", "save_dir"]):
            set_by_path(merged, target, value, KNOWN_KEYS)
    name = merged.get("name", "run")
    fits = isinstance(name, str) and not path_mistake(name)
    return Path(_save_dir(merged)) / "models" / name if fits else None


def _tell(asked, found, passed_over):
    if not is_main() or is_own_launch():  # which has told of it already
        return
    for reason in passed_over:
        print(f"warning: {shown(reason)}; passed over", file=sys.stderr)
    if str(found) != asked:
        print(f"using {shown(found)}", file=sys.stderr)


def _save_dir(config):
    """Where to look for the latest run: the given config's save_dir, else that of ./config.json, else saved/."""
    if not config and Path("config.json").exists():
        config = read_config("config.json")
    trainer = config.get("trainer")
    save_dir = trainer.get("save_dir") if isinstance(trainer, dict) else None
    if not isinstance(save_dir, str):
        return "saved/"  # of a wrong one the config's check tells
    if mistake := path_mistake(save_dir):
        raise UserError(f"trainer.save_dir: got {brief(save_dir)}; {mistake}")
    return save_dir


def _choose_device(text):
    """The device that -d means: a name, or "cuda" after hiding all GPUs but the listed ones from torch."""
    if re.fullmatch(r"\d+(,\d+)*", text):
        os.environ["CUDA_VISIBLE_DEVICES"] = text  # read when torch first looks for GPUs
        return "cuda"
    if text == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that a script which asks torch itself finds none
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        return text
    raise UserError(f"-d {text}: give GPU numbers, as in -d 2,3, or auto, cpu, cuda or mps")


def _to_bool(text):
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
