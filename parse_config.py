"""ConfigParser: a config merged with the command line and checked, and the objects built from it by name.

It touches no disk until a run's folder is asked for through save_dir or log_dir.
"""

import collections
import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

if __name__.partition(".")[0] not in ("parse_config", "utils"):  # an old project's framework lies within a package
    from .utils.old_forms.nested import lead_to_top

    lead_to_top(__name__, __file__)

from logger import TrackerList, setup_logging
from utils.config.command_line import named_checkpoint, read_command_line
from utils.config.components import OWN_SECTION, PARTS, Part, as_spec, metric_name
from utils.config.files import deep_merge, read_config, set_by_path
from utils.config.plain import as_plain, as_savable, require_savable
from utils.config.references import with_references
from utils.config.types import call, find_type, look_up, signature_of
from utils.distributed.world import decided_by_main, is_main
from utils.errors import UserError, clean_exit, end_on_user_errors, refuse, shortened, shown
from utils.files import delete_left_over, differences, write_json
from utils.old_forms.config import OldConfigForms, takes_parser
from utils.runs.checkpoint import load_checkpoint, with_shards
from utils.runs.environment import RunRecord
from utils.runs.run_folder import RunLock, claim_run_folder, is_run_folder, make_log_folder, refuse_second, run_name

if TYPE_CHECKING:
    import argparse

    from base.base_callback import BaseCallback
    from utils.config.schema import RunSettings

# A flag for one value of the config. flags: option strings. type: of the value. target: its path in the config.
CustomArgs = collections.namedtuple("CustomArgs", "flags type target")


class ConfigParser(OldConfigForms):
    """A job's config, merged and checked, and the objects and the run folder that are made from it.

    config: dict of sections.
    resume: checkpoint to resume from; None for a new run.
    modification: {path: value} set on top, a path being "optimizer;args;lr", "optimizer.args.lr" or a tuple; None
        values are skipped.
    run_id: name of the run's folder, by default the time of its start.
    parts: {section: Part}, what each section may name; without it, sections are checked only when they are built.
    new_run: start a new run from `resume` instead of continuing that one. A checkpoint outside a run's folder always
        starts a new run. The attribute `continues` says which it is.
    device: used instead of the config's, without becoming part of the config.
    also_logged: names that the trainer logs besides the loss and the metrics; None if nothing will be monitored.

    Raises UserError, with all errors at once, for a config that cannot be right.
    """

    log_levels: ClassVar = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}  # by verbosity

    @takes_parser
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
        # Imported here and below, so that --help need not wait for pydantic.
        from utils.config.check import check_config
        from utils.config.schema import KNOWN_KEYS

        self._config = deep_merge({}, config := as_plain(config))
        self.resume: Any = Path(resume) if resume else None
        self.parts, self._run_id, self._device = parts or {}, run_id, device
        folder = self.resume.parent if self.resume is not None and self.resume.suffix != ".safetensors" else None
        self.continues = folder is not None and not new_run and is_run_folder(folder)
        self._folders = None  # (save_dir, log_dir), once one of them was asked for
        self._has_ended = self._logs = False  # whether the run had ended before this start; whether logging is set up
        for target, value in (modification or {}).items():
            if value is not None:
                set_by_path(self._config, target, as_plain(value), KNOWN_KEYS)
        self._overridden = differences(config, self._config)
        self.keeps_nothing = False  # whether save_dir is deleted when the command ends, or is not made at all
        self.own_limit = None  # then trainer.limit_train_batches as the config gives it
        self._checkpoint = self._seen = None  # what from_args has read; the runs that -r auto has looked at
        self.variants = []  # runs that --folds or --seeds ask for
        self._config = with_references(self._config)
        self.own_keys = check_config(self._config, self.parts, also_logged, begins=resume is None)
        self._as_read = deep_merge({}, self._config)

    @classmethod
    def from_args(
        cls,
        args: "argparse.ArgumentParser | argparse.Namespace",
        options: Iterable[CustomArgs] = (),
        parts: dict[str, Part] | None = None,
        also_logged: Iterable[str] | None = (),
    ) -> Self:
        """Return the config that a command line asks for. Ends the program on --check, --print-config and errors.

        args: an ArgumentParser with -c/--config, -r/--resume and -d/--device, or what its parse_args returned.
        options: CustomArgs, each a flag that sets one value. Precedence, lowest first: the checkpoint's config, the
        config file over its "base", the flags, --set.
        """
        end_on_user_errors()  # also for errors in what a script without clean_exit builds later
        with clean_exit():
            given = read_command_line(args, options)
            from utils.config.check import check_types, imports_kept, notes

            try:
                checks = {"parts": parts, "also_logged": also_logged} if parts else {}
                merged = cls(given.config, given.resume, **checks)  # a subclass may take no more than an old one
            except UserError as error:
                raise UserError("\n".join([*given.errors, str(error)])) from None
            refuse(given.errors)
            if given.print_config:
                print(json.dumps(merged.config, indent=4))
                raise SystemExit(0)
            merged._checkpoint, merged._seen = given.checkpoint, given.seen
            merged._overridden, merged.variants = given.overridden, given.variants
            merged._device, merged.continues = given.device, merged.continues and not given.new_run
            with imports_kept():
                check_types(merged.config, merged.parts)
            for line in notes(merged.config, merged.parts, merged.own_keys):
                merged.get_logger("config").info("%s", line)
            merged.adapt_to_script(given.check)
            if given.check:
                further = "; --check --data looks at the data and the first batch too" if given.can_check_data else ""
                further = further if parts else "; values of args are checked when they are built"
                print(f"no errors found in the config{further}")
                raise SystemExit(0)
            return merged

    @classmethod
    def from_file(cls, path: str | Path, modification: dict | None = None, resume: str | Path | None = None) -> Self:
        """Return the config of a file, {path: value} set on top. resume: as -r takes it."""
        from utils.config.check import check_types

        made = functools.partial(cls, read_config(Path(path)), modification=modification, parts=PARTS)
        config = made(resume and named_checkpoint(resume, str(resume), made(resume).trainer_settings.save_dir))
        check_types(config.config, config.parts)
        return config

    def init_obj(self, name: str, module: ModuleType | None = None, *args: Any, **kwargs: Any) -> Any:
        """Build the object that section `name` describes: its type, found in module, called with its args.

        module: by default the one that PARTS names. Further arguments are passed on; one that the config also gives is
        refused. Raises UserError.
        """
        path, section = ("type", name) if isinstance(name, dict) else (name, self.get(name))  # old projects give both
        return self._build(path, section, module, args, kwargs)

    def build(self, path: str, spec: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the object that a spec {"type", "args"} describes, wherever in a section it is, as init_obj does.

        path: the place in the config, as "lr_scheduler.args.schedulers.0"; its first word says where types are found.
        """
        return self._build(path, spec, None, args, kwargs)

    def init_ftn(self, name: str, module: ModuleType, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Return the function that section `name` describes, with its args and the further ones bound."""
        part = self._part_of(name, module)
        found, keywords = look_up(name, self.get(name), part, module, len(args), kwargs, whole=False)
        return functools.partial(found, *args, **keywords)

    def find_type(self, name: str, module: ModuleType | None = None, default: str | None = None) -> Any:
        """Return the class or function that section `name` names as its type, or else the default."""
        return find_type(name, self._config[name].get("type", default), self._part_of(name, module), module)

    def parameters(self, name: str, module: ModuleType | None = None) -> list[str]:
        """Return the names of the arguments that the class of section `name` takes."""
        found = find_type(name, as_spec(name, self.get(name))["type"], self._part_of(name, module), module)
        return [parameter.name for parameter in signature_of(found)]

    def init_loss(self, module: ModuleType | None = None, name: str = "loss") -> Callable[[Any, Any], Any] | None:
        """Return the loss: callable (output, target) -> 0-dim tensor, from a function or a class; None for null."""
        return None if self.config.get(name, "") is None else self._init_function(name, self.get(name), module)

    def init_metrics(self, module: ModuleType | None = None, name: str = "metrics") -> list[Any]:
        """Return the metrics, functions or objects with update, compute, reset; each has a __name__."""
        metrics = []
        for i, entry in enumerate(self.get(name, [])):
            metric, spec = self._init_function(f"{name}.{i}", entry, module), as_spec(f"{name}.{i}", entry)
            metric.__name__ = metric_name(spec)
            if "training" in spec:
                metric.in_training = spec["training"]
            metrics.append(metric)
        return metrics

    def init_callbacks(self, name: str = "callbacks") -> "list[BaseCallback]":
        """Return the callbacks, in the config's order, from trainer/callbacks.py or a file beside it."""
        return [self.build(f"{name}.{i}", entry) for i, entry in enumerate(self.get(name, []))]

    def init_trackers(self, name: str = "trackers") -> TrackerList:
        """Return the experiment trackers of logger/trackers.py or a file beside it; the first process alone has any."""
        entries = self.get(name, []) if is_main() else []
        trackers = [self.build(f"{name}.{i}", entry) for i, entry in enumerate(entries)]
        return TrackerList(trackers, self.saved, self.get_logger("trackers"))

    def load_checkpoint(self, mesh: Any = None) -> dict[str, Any]:
        """Return the content of the checkpoint to resume from. What from_args has read is handed out once, not kept.

        mesh: the processes that share its sharded tensors; None for whole ones.
        """
        state, self._checkpoint = self._checkpoint, None
        return with_shards(load_checkpoint(self.resume, shards=False) if state is None else state, self.resume, mesh)

    def get_logger(self, name: str, verbosity: int = 2) -> logging.Logger:
        """Return a logger that shows warnings (0), results too (1) or progress too (2)."""
        if verbosity not in self.log_levels:
            raise UserError(f"verbosity: got {verbosity!r}; it should be 0, 1 or 2")
        if not self._logs:
            self._log_into(None)
        logger = logging.getLogger(name)
        logger.setLevel(self.log_levels[verbosity])
        return logger

    def __getitem__(self, name: str) -> Any:
        return self._config[name]

    def __contains__(self, name: str) -> bool:
        return name in self._config

    def get(self, name: str, default: Any = None) -> Any:
        """Return the section, or the default if there is none."""
        return self._config.get(name, default)

    @property
    def config(self) -> dict[str, Any]:
        """The merged config, a plain dict."""
        return self._config

    @property
    def saved(self) -> dict[str, Any]:
        """The config as it is now, for the run's files; what they cannot hold is as it was read, or is left out."""
        return self._config if self.parts else as_savable(self._config, self._as_read)[0]

    @property
    def settings(self) -> "RunSettings":
        """The single values at the top of the config (RunSettings: seed, device, ...) with their defaults."""
        from utils.config.schema import RunSettings

        settings = RunSettings.model_validate(self._config)
        return settings.model_copy(update={"device": self._device}) if self._device else settings

    @property
    def save_dir(self) -> Path:
        """Folder of the run's checkpoints; the run's folders are made when this or log_dir is first asked for."""
        return self._save_dir

    @property
    def log_dir(self) -> Path:
        """Folder of the run's logs."""
        return self._log_dir

    @property
    def has_ended(self) -> bool:
        """Whether an earlier start reached the end of the run that is continued, and nothing was trained since."""
        self._open_run()
        return self._has_ended

    def record_training(self, data_loader: Any = None) -> None:
        """Record in the run's folder that the run trains, so that it has not ended, and on which data."""
        if is_main():
            self._record.train(data_loader)

    def record_end(self) -> None:
        """Record in the run's folder that the run has ended, and its callbacks have, too."""
        if is_main():
            self._record.end()

    def _open_run(self):
        """Make the run's folders, or find those of the run that is continued; all processes share them."""
        if self._folders is None:
            save_dir, log_dir, self._has_ended = decided_by_main(self._claim_run)
            if not is_main():
                try:
                    self._log_into(log_dir)
                except FileNotFoundError:
                    text = f"{log_dir}, of rank 0, is not there; all hosts need to share it"
                    raise UserError(f"trainer.save_dir: {text}") from None
            self._folders = save_dir, log_dir

    def _log_into(self, log_dir):
        setup_logging(log_dir)
        self._logs = True

    def _claim_run(self):
        """(folder of checkpoints, folder of logs, whether the run had ended), with the start recorded."""
        from utils.config.schema import TrainerSettings

        require_savable(self.saved, "the config")  # a script may have changed it, and a resume reads it again
        save_dir, log_dir = self._given_folders()
        if save_dir is None and self.continues:
            save_dir = self.resume.parent
        elif save_dir is None:
            root = self.get("trainer", {}).get("save_dir", TrainerSettings.model_fields["save_dir"].default)
            save_dir = claim_run_folder(root, run_name(self.saved), self._run_id)
        try:
            for folder in filter(None, (save_dir, log_dir)):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(save_dir)
            if self._seen is not None:
                refuse_second(save_dir, self._seen)
            log_dir = log_dir or make_log_folder(save_dir)
            delete_left_over(save_dir, ".*.json.*.tmp")
            delete_left_over(log_dir)
            write_json(self.saved, save_dir / "config.json")
            self._log_into(log_dir)
            self._record = RunRecord(save_dir)
            self._record.begin(self.resume, self._overridden, log_dir)
        except OSError as error:
            reason = f"cannot write the run's files: {error.strerror or error}"
            raise UserError(f"{shown(error.filename or save_dir)}: {reason}") from None
        logger = self.get_logger("config")
        others = [] if self.parts else as_savable(self._config, self._as_read)[1]
        unsaved = [f"values of the config that cannot be saved: {shortened(', '.join(others))}"] if others else []
        for line in [*self._record.warnings(), *unsaved]:
            logger.warning("%s", line)
        return save_dir, log_dir, self._record.has_ended

    def _part_of(self, path, module):
        """What the section of a path may name, its types being looked up in the module, or by default as PARTS says."""
        section = path.partition(".")[0]
        part = self.parts.get(section) or (PARTS.get(section) if module is None else OWN_SECTION)
        if part is None:
            raise UserError(f"{section}: say in which module its type is looked up")
        return part

    def _build(self, path, section, module, args, kwargs):
        found, keywords = look_up(path, section, self._part_of(path, module), module, len(args), kwargs)
        return call(path, found, args, keywords)

    def _init_function(self, path, section, module) -> Any:
        """A loss or metric: an object of a class, or a function with its args bound and a __name__."""
        found, keywords = look_up(path, section, self._part_of(path, module), module, called_with=2)
        if inspect.isclass(found):
            return call(path, found, (), keywords)
        function: Any = functools.partial(found, **keywords)
        function.__name__ = metric_name(as_spec(path, section))
        return function
