"""Old forms of ConfigParser, and old values of a config in today's terms."""

import argparse
import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from utils.errors import refuse
from utils.nearest import resembles
from utils.runs.checkpoint import checksum_of
from utils.runs.run_folder import run_name

if TYPE_CHECKING:
    from utils.config.schema import TrainerSettings

_OLD_KEYS = {"save_freq": "save_period", "tensorboardX": "tensorboard"}
_KEYS_OF_OLD = {"epochs", "save_dir", "save_period", "verbosity", "monitor", "early_stop", "tensorboard"}


class _Folder:
    """A folder of the run under the name of the old template's attribute.

    A subclass may set it, as the old constructor did. The run then has that folder, and is a new one, unless the folder
    is that of the checkpoint it resumes from.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, config: Any, kind: Any = None) -> Any:
        if config is None:
            return self
        if not (config._folders or vars(config).get(self._name)):
            config._open_run()
        return config._folders[self._index] if config._folders else vars(config)[self._name]

    def __set__(self, config: Any, folder: str | Path) -> None:
        vars(config)[self._name] = folder = Path(folder)
        if folders := vars(config).get("_folders"):
            config._folders = tuple(folder if i == self._index else other for i, other in enumerate(folders))
        if self._index == 0 and vars(config).get("resume") and folder != config.resume.parent:
            config.continues = False


class OldConfigForms:
    """What ConfigParser has for old scripts: initialize, _save_dir, timestamp, a parser as its argument, copies."""

    config: dict[str, Any]
    saved: dict[str, Any]
    own_keys: list[str]
    given_as_dict = False
    _folders: tuple[Path, Path] | None
    _open_run: Callable[[], None]
    _save_dir, _log_dir = _Folder(0), _Folder(1)
    parts: Any
    resume: Path | None
    init_obj: Callable[..., Any]
    get_logger: Callable[..., Any]

    @property
    def trainer_settings(self) -> "TrainerSettings":
        """The section "trainer" (TrainerSettings) with its defaults. Raises UserError."""
        from utils.config.forms import read_section
        from utils.config.schema import TrainerSettings

        todays = self.config if self.parts else in_todays_terms(self.config)[0]
        return read_section(TrainerSettings, todays["trainer"], "trainer")

    # Cached, so that a subclass may set them, as the old constructor did.

    @functools.cached_property
    def exper_name(self) -> str:
        """The job's name, which was an attribute in 2019."""
        return self.config["name"]

    @functools.cached_property
    def timestamp(self) -> str:
        """The name of the run's folder, which was made of the time."""
        return self._save_dir.name

    @functools.cached_property
    def cfg_fname(self) -> Path:
        """The file of the config, here the one in the run's folder."""
        return self._save_dir / "config.json"

    def initialize(self, name: str, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Return config.init_obj(name, module, ...), which was called initialize until 2020."""
        return self.init_obj(name, module, *args, **kwargs)

    def adapt_to_script(self, check: bool = False) -> None:
        """Warn of keys that mean something else here, and let the script's torch.load read an old checkpoint.

        check: whether to raise UserError, too, for types and arguments that the script will not find. Only for a script
        of a project's own, which gives no parts.
        """
        if self.parts:
            return
        lines = [*resemblances(self.own_keys, self.config), *in_todays_terms(self.config)[1]]
        for line in lines:
            self.get_logger("config").warning("%s", line)
        if check:
            from utils.old_forms.named import wrong_names_of_script

            refuse(wrong_names_of_script(self.config))
        if self.resume is not None and not checksum_of(self.resume):
            from utils.old_forms.checkpoint import let_torch_read

            let_torch_read(self.resume)

    def _given_folders(self) -> tuple[Path | None, Path | None]:
        """Return the folders for checkpoints and for logs that a subclass has set, None for one that it has not.

        Logs are beside checkpoints in a folder that is not in one called models.
        """
        save_dir, log_dir = (vars(self).get(name) for name in ("_save_dir", "_log_dir"))
        if save_dir and save_dir.resolve().parent.parent.name != "models":
            log_dir = log_dir or save_dir
        return save_dir, log_dir

    def __copy__(self) -> Self:
        """Return a config that shares everything with this one. A pickled one, as below, holds less."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a config with sections of its own; a run that has a folder is the same run."""
        other = memo[id(self)] = self.__copy__()
        for name in ("_config", "_as_read", "variants"):
            setattr(other, name, copy.deepcopy(vars(self)[name], memo))
        return other

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle a config that a script of 2018 gave as a dict as such: its torch.load reads no other.

        For a new process, which needs the folders of the run, it is pickled as it is.
        """
        if self.given_as_dict and get_spawning_popen() is None:
            return OrderedDict, (), None, None, iter(self.saved.items())
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> dict[str, Any]:
        """Return plain values, so that what a _save_checkpoint of a project's own pickles can be read again.

        The workers of a loader get the folders of the run, too.
        """
        state = {"_config": self.saved, "resume": None if self.resume is None else str(self.resume)}
        if self._folders is not None and get_spawning_popen() is not None:
            state["folders"] = [str(folder) for folder in self._folders]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind: Any = type(self)
        config = kind(state.get("_config") or state.get("config") or {}, state.get("resume"))
        vars(self).update(vars(config))
        if folders := state.get("folders"):
            self._folders = Path(folders[0]), Path(folders[1])


def takes_parser(init: Callable[..., None]) -> Callable[..., None]:
    """Return ConfigParser.__init__ that also takes (args, options, timestamp), as until September 2019.

    args: an ArgumentParser, or what its parse_args returned.
    """

    @functools.wraps(init)
    def init_with_parser(self, *args: Any, **kwargs: Any) -> None:
        first = kwargs.get("args", args[0] if args else None)
        if not isinstance(first, (argparse.ArgumentParser, argparse.Namespace)):
            return init(self, *args, **kwargs)
        options = kwargs.get("options", args[1] if len(args) > 1 else None)
        vars(self).update(vars(type(self).from_args(first, options or ())))

    return init_with_parser


def resemblances(own_keys: Iterable[str], config: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each key of a project's own that resembles one of the framework's that the config lacks."""
    from utils.config.schema import KNOWN_KEYS, OTHER_LOADERS

    for path in own_keys:
        *parents, key = path.split(".")
        section = config.get(parents[0], {}) if parents else config
        known: Any = KNOWN_KEYS  # whose keys pyright takes for tuples of one length
        free = [name for name in known[tuple(parents)] if name not in section and name not in OTHER_LOADERS]
        if key not in _OLD_KEYS and (meant := resembles(key, free)):
            yield f"{path}: is kept as a key of this project's own; the framework's is called {meant!r}"


def in_todays_terms(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (the config with old values as today's, a line for each value that only the project understands).

    For projects with scripts of their own. The config itself stays as it is.
    """
    from utils.config.forms import form_errors
    from utils.config.schema import TrainerSettings

    todays = dict(config)
    if "name" in config:
        todays["name"] = run_name(config)
    if not isinstance(config.get("trainer"), dict):
        return todays, []
    todays["trainer"] = trainer = _todays_trainer(config["trainer"], config.get("visualization"))
    lines = []
    for kind, line in [*form_errors(TrainerSettings, trainer, where=["trainer"])]:
        key = line.partition(":")[0].split(".")[1]
        another = key not in _KEYS_OF_OLD or (key == "monitor" and isinstance(trainer.get(key), (list, dict)))
        if kind != "rule" and key in trainer and another:
            del trainer[key]
            lines.append(f"{line}; its value is left to this project's trainer")
    return todays, lines


def _todays_trainer(section, visualization):
    """The section "trainer" with the names and values of today."""
    trainer = dict(section)
    for old, new in _OLD_KEYS.items():
        if old in trainer and new not in trainer:
            trainer[new] = trainer[old]
    if isinstance(visualization, dict) and "tensorboardX" in visualization:
        trainer.setdefault("tensorboard", visualization["tensorboardX"])
    if trainer.get("tensorboard") in (0, 1):
        trainer["tensorboard"] = bool(trainer["tensorboard"])
    if type(trainer.get("verbosity")) is int and trainer["verbosity"] > 2:  # was only compared, as verbosity >= 2
        trainer["verbosity"] = 2
    monitor = trainer.get("monitor")
    if isinstance(monitor, str):
        words = monitor.split()
        if len(words) == 1 and words != ["off"] and trainer.get("monitor_mode") in ("min", "max", "off"):
            words = [trainer["monitor_mode"], *words] if trainer["monitor_mode"] != "off" else ["off"]
        trainer["monitor"] = " ".join(words)
    for key in ("epochs", "save_period", "early_stop"):
        if isinstance(trainer.get(key), float) and trainer[key].is_integer():
            trainer[key] = int(trainer[key])
    early_stop = trainer.get("early_stop", 0)
    if early_stop is None or early_stop is False or (type(early_stop) in (int, float) and early_stop < 0):
        trainer["early_stop"] = 0
    return trainer
