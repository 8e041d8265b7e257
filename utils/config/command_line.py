"""Read the command line that train.py and test.py share: which config, which checkpoint, and the values to set."""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.components import dict_at, entries
from utils.config.files import deep_merge, parse_assignment, places_of, read_config, set_by_path, split_path
from utils.config.plain import path_error, require_plain, require_savable
from utils.config.references import with_references
from utils.config.train_flags import Variant, variants_of
from utils.device import chosen_device
from utils.distributed.launch import is_own_launch, launch_id, restarts
from utils.distributed.world import is_main
from utils.errors import UserError, brief, in_one_line, shown
from utils.files import differences, read_json_beside
from utils.nearest import nearest
from utils.old_forms.flags import as_typed, declared_keys, default_not_given
from utils.runs.checkpoint import WORDS, find_checkpoint, load_checkpoint, newest_run
from utils.runs.run_folder import IS_TRAINED, is_being_trained, run_of_launch, seen_runs, unsaved_since

_FLAG_OF_FILE = {".json": "-c ", ".yaml": "-c ", ".yml": "-c ", ".toml": "-c ", ".pth": "-r ", ".safetensors": "-r "}


@dataclass(frozen=True)
class CommandLine:
    """What a command line asks for."""

    config: dict
    """The checkpoint's config, under the config file's, under all values that flags and --set give."""
    overridden: list[str]
    """A line for each value that flags and --set change: "path: old -> new"."""
    errors: list[str]
    """A line for each value that cannot be set."""
    resume: Path | None
    """The checkpoint to resume from."""
    checkpoint: dict | None
    """Its content."""
    new_run: bool
    """Whether a new run starts from the checkpoint."""
    device: str | None
    """The device to use instead of the config's."""
    variants: list[Variant]
    """The runs of a series; the config is the first one's."""
    seen: frozenset | None
    """With -r auto, the result of seen_runs before a run was chosen."""
    check: bool
    can_check_data: bool
    """Whether the script has a flag --data, to look at the data after that."""
    print_config: bool


def read_command_line(args: argparse.ArgumentParser | argparse.Namespace, options: Iterable[Any]) -> CommandLine:
    """Return the CommandLine of an ArgumentParser with -c, -r and -d, or of the result of its parse_args.

    A parser gets --set, --check, --print-config, the options, which have flags, type and target, and the flags that the
    config itself names in "cli". Raises UserError.
    """
    flags = _flags_of_config() if isinstance(args, argparse.ArgumentParser) else {}
    parsed = _parse(args, options, flags) if isinstance(args, argparse.ArgumentParser) else args
    places = [(option.target, _dest(option)) for option in options]
    places += [(flag.target, place) for place, flag in flags.items() if flag]
    assignments = [(target, value) for target, place in places if (value := getattr(parsed, place, None)) is not None]
    assignments += map(parse_assignment, getattr(parsed, "_set", None) or ())
    parsed = as_typed(parsed)
    _require_usable(parsed)
    device = chosen_device(parsed.device) if getattr(parsed, "device", None) else None
    given = read_config(parsed.config) if parsed.config else {}
    settings = [*assignments, *_first_of(variants_of(parsed, _set_all(given, assignments)[0]))]

    restarted = _checkpoint_of_launch(parsed, given, settings) if restarts() else None
    resume, seen, config = restarted, None, given
    if parsed.resume == "auto" and not restarted:
        resume, seen = _newest_of_job(given, settings)
    elif parsed.resume and not restarted:
        save_dir = _save_dir(given, settings) if parsed.resume in WORDS else ""
        resume = named_checkpoint(parsed.resume, parsed.resume, save_dir)
    checkpoint = load_checkpoint(resume, shards=False) if resume else None
    if restarted:  # its config was made from this command line before
        require_savable(checkpoint["config"], resume)
        config = checkpoint["config"]
    elif resume and parsed.resume != "auto":
        config = _config_over(checkpoint, resume, parsed, given)
        if getattr(parsed, "weights_only", False):
            resume = checkpoint = None

    variants = variants_of(parsed, _set_all(config, assignments)[0])
    final, errors = _set_all(config, [*assignments, *_first_of(variants)], options)
    return CommandLine(
        final,
        differences(_set_all(config, ())[0], final),
        errors,
        resume,
        checkpoint,
        new_run=bool(parsed.resume and parsed.config and parsed.resume != "auto" and not restarted),
        device=device,
        variants=variants,
        seen=seen,
        check=getattr(parsed, "_check", False) and not getattr(parsed, "data", False),
        can_check_data=hasattr(parsed, "data"),
        print_config=getattr(parsed, "_print_config", False),
    )


# The flags


def _flags_of_config():
    """{"cli.<i>": Flag} of the config that -c and -r name, so that --help shows them; None for a malformed one.

    With -r they are those of the config.json beside the checkpoint, which is read without torch.
    """
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("-c", "--config", nargs="?")
    named.add_argument("-r", "--resume", nargs="?")
    named, _ = named.parse_known_args()
    config = read_config(named.config) if named.config else {}
    if named.resume and named.resume != "auto":
        path = newest_run(_save_dir(config)) if named.resume in WORDS else Path(named.resume)
        config = deep_merge(_config_beside(path), config)
    return {f"cli.{i}": _flag(entry) for i, entry in enumerate(entries(config.get("cli")))}


def _flag(entry):
    """The Flag that an entry of "cli" describes; None for a malformed one, which the config's check reports."""
    # Here and below, since --help without flags of a config need not wait for pydantic.
    from utils.config.schema import Flag

    try:
        return Flag.model_validate(entry)
    except ValueError:
        return None


def _config_beside(path):
    """The config.json in a run's folder, or beside a checkpoint; {} if there is none, or one that is damaged."""
    if path is None:
        return {}
    place = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = read_json_beside(place)
        require_savable(config, place)
    except (OSError, ValueError):  # the checkpoint holds it too
        return {}
    return config if isinstance(config, dict) else {}


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
    with default_not_given(parser) as default:
        parsed, unknown = in_one_line(parser).parse_known_args()
    parsed.config = parsed.config or (default if parsed.resume in (None, "auto") else None)
    if unknown and None not in flags.values():
        raise UserError("\n".join(_unknown_words(parser, unknown, parsed.config)))
    return parsed


def _dest(option):
    """The attribute that argparse would choose: the first long flag's name."""
    long = [flag for flag in option.flags if flag.startswith("--")]
    return (long or option.flags)[0].lstrip("-").replace("-", "_")


def _add_flag(parser, place, flag):
    convert = {"int": int, "float": float, "str": str, "bool": _to_bool}[flag.type]
    text = f"{flag.help} (sets {flag.target})".lstrip().replace("%", "%%")
    try:
        parser.add_argument(flag.flag, dest=place, type=convert, metavar=flag.type.upper(), help=text)
    except argparse.ArgumentError:
        raise UserError(f"{place}.flag: {flag.flag!r} exists already; choose another word") from None


def _unknown_words(parser, words, config):
    """A line for each word that the parser does not know, with what was probably meant."""
    # argparse has no public list of its flags
    flags = {flag.lstrip("-").replace("-", "_"): flag for flag in parser._option_string_actions}
    config = read_config(config) if config else {}
    errors = []
    while words:
        word, *words = words
        if word == "--":
            continue
        if word.startswith("-"):
            flag, _, value = word.partition("=")
            is_value = words and re.fullmatch(r"-[\d.]\S*|[^-=][^=]*", words[0])
            if not value and is_value:
                value, *words = words
            errors.append(f"{flag}: no such flag; {_instead_of(flag, value, flags, config)}")
        else:
            before = "--set " if "=" in word else _FLAG_OF_FILE.get(Path(word).suffix)
            meant = f"say {before}{word}" if before else "belongs to no flag; see --help"
            errors.append(f"{word or repr(word)}: {meant}")
    return errors


def _instead_of(flag, value, flags, config):
    """Suggestions for an unknown flag. flags: {name: flag} of the known ones."""
    from utils.config.schema import KNOWN_KEYS

    name = flag.lstrip("-").replace("-", "_")
    places = places_of(name, config, KNOWN_KEYS)
    if len(places) in (1, 2, 3) and name not in flags:
        return "say " + " or ".join(f"--set {place}={value or '...'}" for place in places)
    close = name if name in flags else nearest(name, flags, cutoff=0.6)
    return f"did you mean {flags[close]}?" if close else "see --help"


def _to_bool(text):
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _require_usable(parsed):
    for flag, value in (("-r", parsed.resume), ("-c", parsed.config), ("-d", getattr(parsed, "device", None))):
        if value == "":
            raise UserError(f"{flag}: got an empty text; is a variable of the shell not set?")
    if not parsed.resume and not parsed.config:
        raise UserError(
            "nothing to run; give a config to train, as in -c config.json, or a checkpoint to resume or to test, as in "
            "-r latest"
        )
    if getattr(parsed, "weights_only", False) and parsed.resume in (None, "auto"):
        raise UserError("--weights-only: needs a checkpoint with -r, whose weights a new run begins with")
    if parsed.resume == "auto" and not parsed.config:
        raise UserError("-r auto: needs a config with -c, whose run it starts or continues")


# The checkpoint and its config


def _set_all(config, assignments, options=()):
    """(a copy of the config with all values set that can be set, a line for each other). options: of the script."""
    from utils.config.schema import KNOWN_KEYS

    known = declared_keys(options, KNOWN_KEYS)
    changed, errors = deep_merge({}, config), []
    for target, value in assignments:
        try:
            require_plain(value, ".".join(map(str, split_path(target))))
            set_by_path(changed, target, value, known)
        except UserError as error:
            errors.append(str(error))
    with contextlib.suppress(UserError):  # which ConfigParser raises
        changed = with_references(changed)
    return changed, errors


def _first_of(variants):
    """What the first variant sets, [(path, value)]."""
    return [*variants[0].assignments, ("name", variants[0].name)] if variants else []


def _save_dir(given, assignments=()):
    """The folder of all runs, as the given config says, or else ./config.json."""
    if not given and Path("config.json").exists():
        given = read_config("config.json")
    save_dir = dict_at(_set_all(given, assignments)[0], "trainer").get("save_dir")
    if not isinstance(save_dir, str):
        return "saved/"  # the config's check reports other types
    if error := path_error(save_dir):
        raise UserError(f"trainer.save_dir: got {brief(save_dir)}; {error}")
    return save_dir


def named_checkpoint(where, asked="", save_dir="saved/", since=None, skipped=()):
    """The checkpoint that -r, as `asked`, finds at `where`; None if it was saved before the time `since`."""
    found, damaged = find_checkpoint(where, save_dir)
    if since is not None and found.stat().st_mtime < since:
        return None
    if is_main() and not is_own_launch():  # the process that launched this one has printed it
        for reason in [*skipped, *damaged]:
            print(f"warning: {shown(reason)}; passed over", file=sys.stderr)
        if str(found) != asked:
            print(f"using {shown(found)}", file=sys.stderr)
    return found


def _config_over(checkpoint, resume, parsed, given):
    """The checkpoint's config under the given one; with --weights-only, of a new run that begins with its weights."""
    config = checkpoint.get("config")
    if config is None and not parsed.config:
        raise UserError(f"{shown(resume)}: holds no config; give one with -c")
    config = config or {}
    require_savable(config, resume)
    weights_only = getattr(parsed, "weights_only", None)  # None: this script does not train
    named = dict_at(given, "init_weights").get("path")
    fitting = str(resume) if weights_only else dict_at(config, "init_weights").get("path")
    if weights_only is not None and named not in (None, fitting):
        raise UserError(
            f"init_weights.path: got {brief(named)}, but -r names the weights already; leave one of them out"
        )
    if not weights_only:
        return deep_merge(config, given)
    merged = deep_merge({key: value for key, value in config.items() if key != "init_weights"}, given)
    section = merged.get("init_weights") or {}
    if isinstance(section, dict):  # the config's check reports other forms
        merged["init_weights"] = {**section, "path": str(resume)}
    return merged


def _newest_of_job(given, assignments):
    """(the checkpoint to resume, what seen_runs gave) for -r auto: of the newest run of the config's name, or None."""
    name = _set_all(given, assignments)[0].get("name", "run")
    if not isinstance(name, str) or path_error(name):
        return None, None  # the config's check reports it
    runs = Path(_save_dir(given, assignments)) / "models" / name
    seen = seen_runs(runs)  # before one of them is chosen
    run = newest_run(runs.parents[1], name)
    for begun in filter(Path.is_dir, runs.glob("*")):
        if not any(begun.glob("*.pth")) and is_being_trained(begun):
            raise UserError(f"{shown(begun)}: {IS_TRAINED}, and has saved nothing yet; wait for its end")
    return named_checkpoint(run, "auto", skipped=unsaved_since(run, runs.glob("*"))) if run else None, seen


def _checkpoint_of_launch(parsed, given, assignments):
    """The newest checkpoint of the run that these processes trained before a launcher restarted them; None if none."""
    named = Path(parsed.resume) if parsed.resume not in (None, "auto", *WORDS) else None
    beside = named and (named if named.is_dir() else named.parent)
    save_dir = _save_dir(deep_merge(_config_beside(named), given), assignments)
    roots = {Path(save_dir), *(beside.resolve().parents[2:3] if beside else ())}
    run, since = run_of_launch(roots, launch_id()) or (None, None)
    return None if run is None or not any(run.glob("*.pth")) else named_checkpoint(run, "", since=since)
