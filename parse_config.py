"""ConfigParser: a config merged with the command line and checked, and what is built from it by name.

It touches no disk until a run's folder is asked for through save_dir or log_dir.
"""

import collections
import functools
import importlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from logger import TrackerList, setup_logging
from utils.config.check import check_config, check_types, renamed_types
from utils.config.command_line import read_command_line
from utils.config.components import OWN_SECTION, PARTS, Part, as_spec, metric_name
from utils.config.files import deep_merge, read_config, require_plain, set_by_path
from utils.config.plain import require_savable
from utils.config.schema import KNOWN_KEYS, RunSettings, TrainerSettings
from utils.config.types import argument_errors, is_library, resolve, signature_of
from utils.distributed.world import decided_by_main, is_main
from utils.errors import UserError, clean_exit, end_on_user_errors, shortened, shown
from utils.files import delete_left_over
from utils.json_io import write_json
from utils.runs.checkpoint import load_checkpoint, with_shards
from utils.runs.environment import RunRecord
from utils.runs.run_folder import RunLock, claim_run_folder, is_run_folder, log_folder_of, refuse_second

if TYPE_CHECKING:
    import argparse

    from base.base_callback import BaseCallback

__all__ = ["PARTS", "ConfigParser", "CustomArgs"]

# A flag of its own for one value. flags: option strings. type: of the value. target: its path in the config.
CustomArgs = collections.namedtuple("CustomArgs", "flags type target")

_LOG_LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class ConfigParser:
    """A job's config, merged and checked, and the objects and the run folder that are made from it.

    config: dict of sections.
    resume: checkpoint to resume from; None for a new run.
    modification: {path: value} set on top, a path being "optimizer;args;lr", "optimizer.args.lr" or a tuple; None
        values are skipped.
    run_id: name of the run's folder, by default the time of its start.
    parts: {section: Part}, what each section may name; without it, sections are checked only when they are built.
    new_run: start a new run from `resume` instead of continuing that one, as a checkpoint outside a run's folder
        always does. The attribute `continues` says which it is.
    device: used instead of the config's, without becoming part of the config.
    also_logged: names that the trainer logs besides the loss and the metrics; None if nothing will be monitored.

    Raises UserError, with all errors at once, for a config that cannot be right.
    """

    def __init__(
        self,
        config: dict[str, Any],
        resume: str | Path | None = None,
        modification: dict[Any, Any] | None = None,
        run_id: str | None = None,
        parts: dict[str, Part] | None = None,
        new_run: bool = False,
        device: str | None = None,
        also_logged: Iterable[str] | None = (),
    ) -> None:
        self._config = deep_merge({}, config)
        self.resume = Path(resume) if resume else None
        self.parts = parts or {}
        self._run_id = run_id
        self._device = device
        whole = self.resume is not None and self.resume.suffix != ".safetensors"
        self.continues = whole and not new_run and is_run_folder(self.resume.parent)
        self._save_dir = self._log_dir = None
        self._has_ended = False  # whether the run had, before this start of it
        self._logs = False  # whether logging is set up
        for target, value in (modification or {}).items():
            if value is not None:
                set_by_path(self._config, target, value, KNOWN_KEYS)
        self.keeps_nothing = False  # whether save_dir is a folder that is gone when the command ends
        self._checkpoint = None  # its content, once from_args has read it
        self._seen = None  # the runs that -r auto has looked at
        self.variants = []  # of this config: the runs that --folds or --seeds ask for
        self.own_keys = check_config(self._config, self.parts, also_logged, begins=resume is None)

    @classmethod
    def from_args(
        cls,
        args: "argparse.ArgumentParser | argparse.Namespace",
        options: Iterable[CustomArgs] = (),
        parts: dict[str, Part] | None = None,
        also_logged: Iterable[str] | None = (),
    ) -> Self:
        """The config that a command line asks for. Ends the program on --check, --print-config and errors.

        args: an ArgumentParser with -c/--config, -r/--resume and -d/--device, or what its parse_args returned.
        options: CustomArgs, each a flag of its own that sets one value. Precedence, lowest first: the
        checkpoint's config, the config file over its "base", the flags, --set.
        """
        end_on_user_errors()  # for what a script without clean_exit builds later
        with clean_exit():
            given = read_command_line(args, options)
            errors = _set_all(given.config, given.assignments)
            try:
                merged = cls(
                    given.config,
                    given.resume,
                    parts=parts,
                    new_run=given.new_run,
                    device=given.device,
                    also_logged=also_logged,
                )
            except UserError as error:
                errors.append(str(error))
            if errors:
                raise UserError("\n".join(errors))
            if given.print_config:
                print(json.dumps(merged.config, indent=4))
                raise SystemExit(0)
            merged._checkpoint, merged._seen, merged.variants = given.checkpoint, given.seen, given.variants
            check_types(merged.config, merged.parts)
            for line in renamed_types(merged.config, merged.parts):
                merged.get_logger("config").info("%s", line)
            if merged.own_keys:
                merged.get_logger("config").info("own keys: %s", shortened(", ".join(merged.own_keys)))
            if given.check:
                print("no errors found" + ("" if parts else "; types and their args are checked when they are built"))
                raise SystemExit(0)
            return merged

    @classmethod
    def from_file(cls, path: str | Path, modification: dict[Any, Any] | None = None) -> Self:
        """The config of a file, with {path: value} set on top, for a notebook. Raises UserError, all errors at once."""
        config = cls(read_config(Path(path)), modification=modification, parts=PARTS)
        check_types(config.config, config.parts)
        return config

    def init_obj(self, name: str, module: ModuleType | None = None, *args: Any, **kwargs: Any) -> Any:
        """Build the object that section `name` describes: its type, found in module, called with its args.

        module: by default the one that PARTS names. Further arguments are passed on; one that the config gives too is
        refused. Raises UserError.
        """
        found, keywords = self._look_up(name, as_spec(name, self._config.get(name)), module, args, kwargs)
        return _call(name, found, args, keywords)

    def init_ftn(self, name: str, module: ModuleType, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The function that section `name` describes, with its args and the further ones bound."""
        found, keywords = self._look_up(name, as_spec(name, self._config.get(name)), module, args, kwargs, whole=False)
        return functools.partial(found, *args, **keywords)

    def find_type(self, name: str, module: ModuleType | None = None, default: str | None = None) -> Any:
        """The class or function that the type of section `name` names; without one, the default of that name."""
        spec = {"type": self._config[name].get("type", default)}
        return self._look_up(name, spec, module, whole=False)[0]

    def init_loss(self, module: ModuleType | None = None, name: str = "loss") -> Callable[[Any, Any], Any]:
        """The loss: callable (output, target) -> 0-dim tensor, from a function or a loss class."""
        spec = as_spec(name, self._config.get(name))
        found, keywords = self._look_up(name, spec, module, called_with=2)
        return _call(name, found, (), keywords) if inspect.isclass(found) else _bind(found, keywords, spec)

    def init_metrics(self, module: ModuleType | None = None, name: str = "metrics") -> list[Any]:
        """The metrics: callables (output, target) -> number and objects with update, compute and reset.

        Each has its name as __name__.
        """
        specs = [as_spec(f"{name}.{i}", entry) for i, entry in enumerate(self._config.get(name, []))]
        found = [self._look_up(name, spec, module, path=f"{name}.{i}", called_with=2) for i, spec in enumerate(specs)]
        return [_metric(f"{name}.{i}", *built, spec) for i, (built, spec) in enumerate(zip(found, specs, strict=True))]

    def init_callbacks(self, name: str = "callbacks") -> "list[BaseCallback]":
        """The callbacks, in the config's order, from trainer/callbacks.py or a file beside it."""
        return [self.build(f"{name}.{i}", entry) for i, entry in enumerate(self._config.get(name, []))]

    def init_trackers(self, name: str = "trackers") -> TrackerList:
        """The TrackerList, from logger/trackers.py or a file beside it; an empty one but in the first process."""
        entries = self._config.get(name, []) if is_main() else []
        trackers = [self.build(f"{name}.{i}", entry) for i, entry in enumerate(entries)]
        return TrackerList(trackers, self._config, self.get_logger("trackers"))

    def build(self, path: Path, spec: Any, *args: Any, **kwargs: Any) -> Any:
        """The object that a spec {"type", "args"} describes, as init_obj builds it, wherever it stands in a section.

        path: where that is, as "lr_scheduler.args.schedulers.0"; its first word says where types are looked up.
        """
        section = path.partition(".")[0]
        found, keywords = self._look_up(section, as_spec(path, spec), None, args, kwargs, path=path)
        return _call(path, found, args, keywords)

    def parameters(self, name: str, module: ModuleType | None = None) -> list[str]:
        """Names of the arguments that the class of section `name` takes."""
        spec = as_spec(name, self._config.get(name))
        found = self._resolve(spec["type"], name, module)
        return [parameter.name for parameter in signature_of(found)]

    def load_checkpoint(self, mesh: Any = None) -> dict[str, Any]:
        """What the checkpoint to go on from holds. What from_args has read is handed out once and not kept.

        mesh: the processes that share its sharded tensors; None for whole ones.
        """
        state, self._checkpoint = self._checkpoint, None
        return with_shards(load_checkpoint(self.resume, shards=False) if state is None else state, self.resume, mesh)

    def get_logger(self, name: str, verbosity: int = 2) -> logging.Logger:
        """A logger that shows warnings (0), results too (1) or progress too (2)."""
        if verbosity not in _LOG_LEVELS:
            raise UserError(f"verbosity: got {verbosity!r}; it should be 0, 1 or 2")
        if not self._logs:
            self._log_into(None)
        logger = logging.getLogger(name)
        logger.setLevel(_LOG_LEVELS[verbosity])
        return logger

    def __getitem__(self, name: str) -> Any:
        return self._config[name]

    def __contains__(self, name: str) -> bool:
        return name in self._config

    def get(self, name: str, default: Any = None) -> Any:
        """The section, or the default if there is none."""
        return self._config.get(name, default)

    @property
    def config(self) -> dict[str, Any]:
        """The merged config, a plain dict."""
        return self._config

    @property
    def settings(self) -> RunSettings:
        """The single values at the top of the config (RunSettings: seed, device, ...) with their defaults."""
        settings = RunSettings.model_validate(self._config)
        return settings.model_copy(update={"device": self._device}) if self._device else settings

    @property
    def save_dir(self) -> Path:
        """Folder of the run's checkpoints; the run's folders are made when this or log_dir is first asked for."""
        self._open_run()
        return self._save_dir

    @property
    def log_dir(self) -> Path:
        """Folder of the run's logs."""
        self._open_run()
        return self._log_dir

    @property
    def has_ended(self) -> bool:
        """Whether an earlier start has come to the end of the run that is continued, and nothing was trained since."""
        self._open_run()
        return self._has_ended

    def record_training(self) -> None:
        """Record in the run's folder that it is trained on, so that its end is to come again."""
        if is_main():
            self._record.train()

    def record_end(self) -> None:
        """Record in the run's folder that all is done, what callbacks do at its end included."""
        if is_main():
            self._record.end()

    def _open_run(self):
        """Make the run's folders, or find those of the run that is continued; all processes share them."""
        if self._save_dir is None:
            save_dir, log_dir, self._has_ended = decided_by_main(self._claim_run)
            if not is_main():
                try:
                    self._log_into(log_dir)
                except FileNotFoundError:
                    raise UserError(
                        f"trainer.save_dir: {log_dir}, of rank 0, is not there; all hosts need to share it"
                    ) from None
            self._save_dir, self._log_dir = save_dir, log_dir

    def _log_into(self, log_dir):
        setup_logging(log_dir)
        self._logs = True

    def _claim_run(self):
        """(folder of checkpoints, folder of logs, whether the run had ended), with the start recorded."""
        require_savable(self._config, "the config")  # as the script has made it, which a resume reads again
        if self.continues:
            save_dir = self.resume.parent
        else:
            root = self._config.get("trainer", {}).get("save_dir", TrainerSettings.model_fields["save_dir"].default)
            save_dir = claim_run_folder(root, self._config.get("name", "run"), self._run_id)
        try:
            self._lock = RunLock(save_dir)
            if self._seen is not None:
                refuse_second(save_dir, self._seen)
            log_dir = log_folder_of(save_dir)
            for left_over in (save_dir, ".*.json.*.tmp"), (log_dir, ".*.tmp"):
                delete_left_over(*left_over)
            write_json(self._config, save_dir / "config.json")
            self._log_into(log_dir)
            self._record = RunRecord(save_dir)
            self._record.begin(self.resume)
            self._warn_of_record()
        except OSError as error:
            place = shown(error.filename or save_dir)
            raise UserError(f"{place}: cannot write the run's files: {error.strerror or error}") from None
        return save_dir, log_dir, self._record.has_ended

    def _warn_of_record(self):
        logger = self.get_logger("config")
        if self._record.damaged:
            logger.warning("environment.json was not what this program wrote: it is %s now", self._record.damaged)
        before, now = self._record.threads
        if None not in (before, now) and before != now:
            what = "%d threads compute now, %d did before; on a CPU the last bits of all numbers may differ"
            logger.warning(what, now, before)

    def _resolve(self, type_name, section, module=None):
        """The class or function of a type, looked up in the module; by default where PARTS says for the section."""
        if module is not None:
            return resolve(type_name, module, self.parts.get(section, OWN_SECTION))
        part = self.parts.get(section) or PARTS.get(section)
        if part is None:
            raise UserError(f"{section}: say in which module its type is looked up")
        return resolve(type_name, importlib.import_module(part.module), part)

    def _look_up(self, name, spec, module, args=(), kwargs=None, path=None, whole=True, called_with=None):
        """(class or function, its keyword arguments) of one section.

        whole: all arguments must be there. called_with: number of arguments that a function gets when it is used.
        """
        path = path or name
        keywords = dict(spec.get("args") or {})
        for key in kwargs or {}:
            if key in keywords:
                raise UserError(f"{path}.args.{key}: given in the config and by the script; take it out of the config")
        keywords |= kwargs or {}
        try:
            found = self._resolve(spec["type"], name, module)
        except UserError as error:
            raise UserError(f"{path}.type: {error}") from None
        given = called_with if called_with and not inspect.isclass(found) else len(args)
        wrong = argument_errors(signature_of(found), keywords, given, whole)
        if wrong:
            raise UserError("\n".join(f"{path}.args.{error}" for error in wrong))
        return found, keywords


def _set_all(config, assignments):
    """Set each (path, value) in place; returns one line for each that cannot be set."""
    errors = []
    for target, value in assignments:
        try:
            require_plain(value, target)
            set_by_path(config, target, value, KNOWN_KEYS)
        except UserError as error:
            errors.append(str(error))
    return errors


def _call(path, found, args, keywords):
    """found(*args, **keywords); what it has against its arguments becomes a UserError that says where they stand."""
    try:
        return found(*args, **keywords)
    except OSError as error:
        raise UserError(f"{path}: {found.__name__}: {error}") from error
    except (ValueError, TypeError, ImportError, ArithmeticError, LookupError, RuntimeError) as error:
        if not isinstance(error, UserError) and not is_library(found.__module__):
            raise
        names_it = str(error).partition(":")[0] in {parameter.name for parameter in signature_of(found)}
        raise UserError(f"{path}.args.{error}" if names_it else f"{path}.args: {found.__name__}: {error}") from error


def _metric(path, found, keywords, spec):
    """A metric from its class or function."""
    if not inspect.isclass(found):
        return _bind(found, keywords, spec)
    metric = _call(path, found, (), keywords)
    metric.__name__ = metric_name(spec)
    return metric


def _bind(function, keywords, spec):
    """The function with its keywords bound, under the name that logs call it by."""
    bound = functools.partial(function, **keywords)
    bound.__name__ = metric_name(spec)
    return bound
