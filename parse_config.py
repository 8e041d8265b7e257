"""ConfigParser: a config merged with the command line and checked, and what is built from it by name.

It touches no disk until a run's folder is asked for through save_dir or log_dir.
"""

import collections
import functools
import importlib
import inspect
import json
import logging
from pathlib import Path

from logger import setup_logging
from utils.command_line import read_command_line
from utils.config_files import deep_merge, set_by_path
from utils.config_schema import KNOWN_KEYS, RunSettings, TrainerSettings, mistakes_in
from utils.environment import describe_environment
from utils.errors import UserError, clean_exit
from utils.json_io import read_json, write_json
from utils.nearest import did_you_mean
from utils.run_folder import claim_run_folder, log_folder_of
from utils.type_lookup import (
    OWN_SECTION,
    PARTS,
    argument_mistakes,
    default_in_source,
    is_library,
    resolve,
    signature_of,
    source_argument_mistakes,
    type_mistake,
)

__all__ = ["PARTS", "ConfigParser", "CustomArgs"]

# A flag of its own for one value. flags: option strings. type: of the value. target: its path in the config.
CustomArgs = collections.namedtuple("CustomArgs", "flags type target")

_LOG_LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class ConfigParser:
    """A job's config, merged and checked, and the objects and the run folder that are made from it.

    config: dict of sections. resume: checkpoint to continue from. modification: {path: value} set on top, a path
    being "optimizer;args;lr", "optimizer.args.lr" or a tuple; None values are passed over. run_id: name of the
    run's folder, by default its starting time. parts: {section: Part}, what each section may name; without it
    sections are checked only when they are built. new_run: start a run of its own from resume instead of
    continuing that one. also_logged: names that the trainer logs besides the loss and the metrics.

    Raises UserError, all mistakes at once, for a config that cannot be right.
    """

    def __init__(self, config, resume=None, modification=None, run_id=None, parts=None, new_run=False, also_logged=()):
        self._config = deep_merge({}, config)
        self.resume = Path(resume) if resume else None
        self._parts = parts or {}
        self._run_id = run_id
        self._continues = self.resume is not None and not new_run
        self._save_dir = self._log_dir = None
        for target, value in (modification or {}).items():
            if value is not None:
                set_by_path(self._config, target, value, KNOWN_KEYS)
        mistakes, self.own_keys = mistakes_in(self._config, whole=bool(self._parts))
        mistakes += [mistake for path, spec, part in self._components() for mistake in _from_source(path, spec, part)]
        mistakes += self._monitor_mistakes(also_logged)
        if mistakes:
            raise UserError("\n".join(dict.fromkeys(mistakes)))

    @classmethod
    def from_args(cls, args, options=(), parts=None, also_logged=()):
        """The config that a command line asks for. Ends the program on --check, --print-config and mistakes.

        args: an ArgumentParser with -c/--config, -r/--resume and -d/--device, or what its parse_args returned.
        options: CustomArgs, each a flag of its own that sets one value. Precedence, lowest first: the
        checkpoint's config, the config file over its "base", the flags, --set.
        """
        with clean_exit():
            parsed, resume, config, assignments = read_command_line(args, options)
            for target, value in assignments:
                set_by_path(config, target, value, KNOWN_KEYS)
            merged = cls(
                config, resume, parts=parts, new_run=bool(parsed.resume and parsed.config), also_logged=also_logged
            )
            if getattr(parsed, "print_config", False):
                print(json.dumps(merged.config, indent=4))
                raise SystemExit(0)
            merged.check_types()
            if merged.own_keys:
                merged.get_logger("config").info("own keys: %s", ", ".join(merged.own_keys))
            if getattr(parsed, "check", False):
                print(f"{parsed.config or parsed.resume}: no mistakes found")
                raise SystemExit(0)
            return merged

    def check_types(self):
        """Look up every type and bind its args, building nothing. Raises UserError with all mistakes."""
        mistakes = []
        for path, spec, part in self._components():
            try:
                found = resolve(spec["type"], importlib.import_module(part.module), part)
                given = part.given if inspect.isclass(found) or part.called_with is None else part.called_with
                wrong = argument_mistakes(signature_of(found), spec.get("args", {}), given)
                mistakes += [f"{path}.args.{mistake}" for mistake in wrong]
            except UserError as error:
                mistakes.append(f"{path}.type: {error}")
        if mistakes:
            raise UserError("\n".join(mistakes))

    def init_obj(self, name, module, *args, **kwargs):
        """Build the object that section `name` describes: its type, found in module, called with its args.

        Further arguments are passed on; one that the config gives too is refused. Raises UserError.
        """
        found, keywords = self._look_up(name, _spec(name, self._config.get(name)), module, args, kwargs)
        return _call(name, found, args, keywords)

    def init_ftn(self, name, module, *args, **kwargs):
        """The function that section `name` describes, with its args and the further ones bound."""
        found, keywords = self._look_up(name, _spec(name, self._config.get(name)), module, args, kwargs, whole=False)
        return functools.partial(found, *args, **keywords)

    def init_loss(self, module, name="loss"):
        """The loss: callable (output, target) -> 0-dim tensor, from a function or a loss class."""
        spec = _spec(name, self._config.get(name))
        found, keywords = self._look_up(name, spec, module, called_with=2)
        return _call(name, found, (), keywords) if inspect.isclass(found) else _bind(found, keywords, spec)

    def init_metrics(self, module, name="metrics"):
        """The metrics: a list of callables (output, target) -> number, each with its name as __name__."""
        specs = [_spec(f"{name}.{i}", entry) for i, entry in enumerate(self._config.get(name, []))]
        found = [self._look_up(name, spec, module, path=f"{name}.{i}", called_with=2) for i, spec in enumerate(specs)]
        return [_bind(function, keywords, spec) for (function, keywords), spec in zip(found, specs, strict=True)]

    def parameters(self, name, module):
        """Names of the arguments that the class of section `name` takes."""
        spec = _spec(name, self._config.get(name))
        return [p.name for p in signature_of(resolve(spec["type"], module, self._parts.get(name, OWN_SECTION)))]

    def get_logger(self, name, verbosity=2):
        """A logger that shows warnings (0), results too (1) or progress too (2)."""
        if verbosity not in _LOG_LEVELS:
            raise UserError(f"verbosity: got {verbosity!r}; it should be 0, 1 or 2")
        if self._log_dir is None:
            setup_logging()
        logger = logging.getLogger(name)
        logger.setLevel(_LOG_LEVELS[verbosity])
        return logger

    def __getitem__(self, name):
        return self._config[name]

    def __contains__(self, name):
        return name in self._config

    def get(self, name, default=None):
        """The section, or the default if there is none."""
        return self._config.get(name, default)

    @property
    def config(self):
        """The merged config, a plain dict."""
        return self._config

    @property
    def settings(self):
        """The single values at the top of the config (RunSettings: seed, device, ...) with their defaults."""
        return RunSettings.model_validate(self._config)

    @property
    def save_dir(self):
        """Folder of the run's checkpoints; the run's folders are made when this or log_dir is first asked for."""
        self._open_run()
        return self._save_dir

    @property
    def log_dir(self):
        """Folder of the run's logs."""
        self._open_run()
        return self._log_dir

    def _open_run(self):
        """Make the run's folders, or find those of the run that is continued, and record how the run started."""
        if self._save_dir is not None:
            return
        if self._continues:
            self._save_dir = self.resume.parent
            self._log_dir = log_folder_of(self._save_dir)
        else:
            root = self._config.get("trainer", {}).get("save_dir", TrainerSettings.model_fields["save_dir"].default)
            self._save_dir, self._log_dir = claim_run_folder(root, self.settings.name, self._run_id)
        setup_logging(self._log_dir)
        write_json(self._config, self._save_dir / "config.json")
        starts = self._save_dir / "environment.json"
        start = {**describe_environment(), "resumed_from": str(self.resume) if self.resume else None}
        write_json([*(read_json(starts) if starts.exists() else []), start], starts)

    def _look_up(self, name, spec, module, args=(), kwargs=None, path=None, whole=True, called_with=None):
        """(class or function, its keyword arguments) of one section.

        whole: all arguments must be there. called_with: number of arguments that a function gets when it is used.
        """
        path = path or name
        keywords = dict(spec.get("args", {}))
        for key in kwargs or {}:
            if key in keywords:
                raise UserError(f"{path}.args.{key}: given in the config and by the script; take it out of the config")
        keywords |= kwargs or {}
        try:
            found = resolve(spec["type"], module, self._parts.get(name, OWN_SECTION))
        except UserError as error:
            raise UserError(f"{path}.type: {error}") from None
        given = called_with if called_with and not inspect.isclass(found) else len(args)
        wrong = argument_mistakes(signature_of(found), keywords, given, whole)
        if wrong:
            raise UserError("\n".join(f"{path}.args.{mistake}" for mistake in wrong))
        return found, keywords

    def _components(self):
        """(path, spec, Part) of everything that the config names and that is well enough formed to look up."""
        for name, part in self._parts.items():
            section = self._config.get(name)
            entries = enumerate(section) if isinstance(section, list) else [(None, section)]
            for i, entry in entries:
                spec = {"type": entry} if isinstance(entry, str) else entry
                formed = isinstance(spec, dict) and isinstance(spec.get("type"), str)
                if formed and isinstance(spec.get("args", {}), dict):
                    yield (name if i is None else f"{name}.{i}"), spec, part

    def _monitor_mistakes(self, also_logged):
        """What is wrong with the monitored names, as far as the names of what will be logged are known."""
        logged = ["loss", *(metric_name(spec) for path, spec, _ in self._components() if path.startswith("metrics."))]
        mistakes = [f'metrics: two are called {name!r}; give one a "name"' for name in _repeated(logged)]
        trainer, scheduler = self._config.get("trainer"), self._config.get("lr_scheduler")
        watched = {}
        if isinstance(trainer, dict) and str(trainer.get("monitor", "off")).startswith(("min ", "max ")):
            watched["trainer.monitor"] = trainer["monitor"][4:]
        if isinstance(scheduler, dict) and isinstance(scheduler.get("monitor"), str):
            watched["lr_scheduler.monitor"] = scheduler["monitor"]
        if _validates(self._config.get("data_loader"), self._parts.get("data_loader")):
            logged += [f"val_{name}" for name in logged]
        logged += also_logged
        mistakes += [
            f"{path}: nothing called {name!r} is logged{did_you_mean(name, logged)}"
            for path, name in watched.items()
            if name not in logged
        ]
        return mistakes if self._parts else []


def metric_name(spec):
    """What a metric is called in logs."""
    return spec.get("name") or spec["type"].rpartition(".")[2]


def _spec(path, section):
    """A section as {"type": ..., "args": ...}; a bare name is short for one without args."""
    spec = {"type": section} if isinstance(section, str) else section
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(f'{path}: got {section!r}; it should be an object such as {{"type": ..., "args": {{...}}}}')
    return spec


def _from_source(path, spec, part):
    """What source files alone tell to be wrong with a component: nothing is imported, so the answer is quick."""
    mistake = type_mistake(spec["type"], part)
    if mistake:
        return [f"{path}.type: {mistake}"]
    return [f"{path}.args.{mistake}" for mistake in source_argument_mistakes(spec["type"], part, spec.get("args", {}))]


def _validates(section, part):
    """Whether there will be validation data, as far as it can be told; True if unsure."""
    if not isinstance(section, dict) or not isinstance(section.get("type"), str) or part is None:
        return True
    args = section.get("args", {})
    if isinstance(args, dict) and "validation_split" in args:
        return args["validation_split"] != 0
    return default_in_source(section["type"], part, "validation_split") not in ("0", "0.0")


def _call(path, found, args, keywords):
    """found(*args, **keywords); what it has against its arguments becomes a UserError that says where they stand."""
    try:
        return found(*args, **keywords)
    except (ValueError, TypeError) as error:
        if not isinstance(error, UserError) and not is_library(found.__module__):
            raise
        raise UserError(f"{path}.args: {found.__name__}: {error}") from error


def _bind(function, keywords, spec):
    """The function with its keywords bound, under the name that logs call it by."""
    bound = functools.partial(function, **keywords)
    bound.__name__ = metric_name(spec)
    return bound


def _repeated(names):
    return [name for name, count in collections.Counter(names).items() if count > 1]
