"""What a run prints on the console: its progress bar, and the texts after an epoch, on a stop and at its end."""

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.run_summary import summarize
from utils.distributed.launch import launcher
from utils.distributed.world import is_main
from utils.errors import UserError, quantity
from utils.runs.checkpoint import BEST_MODEL

if TYPE_CHECKING:
    from tqdm import tqdm

    from base.base_trainer import BaseTrainer


def progress_bar(total: int, head: str, verbosity: int) -> "tqdm":
    """A tqdm bar on a terminal; disabled if output goes into a file, with verbosity below 2, and in other ranks."""
    from tqdm import tqdm

    on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
    silent = not on_terminal or verbosity < 2 or not is_main()
    return tqdm(total=total, desc=head, leave=False, disable=silent, dynamic_ncols=True)


def epoch_report(log: dict[str, Any], epochs: int, seconds: float, improved: bool) -> str:
    """Return the report of an epoch: training values, and validation values below them. log: {name: number}."""
    head = f"epoch {log['epoch']}/{epochs}  {seconds:.1f} s" + ("  best so far" if improved else "")
    values = {key: value for key, value in log.items() if key != "epoch"}
    train = [_item(key, value) for key, value in values.items() if not key.startswith("val_")]
    valid = [_item(key, value) for key, value in values.items() if key.startswith("val_")]
    # by the names alone, so that columns keep their places from epoch to epoch: a space, -1.234e-05, two spaces
    width = max(map(len, values), default=0) + 13
    return "\n".join([head, *_rows(train, width), *_rows(valid, width)])


def _item(key, value):
    return f"{key} {value:.4g}" if isinstance(value, (int, float)) else f"{key} {value}"


def _rows(items, width):
    per_row = max(1, 79 // width)  # the last one needs no gap
    rows = [items[i : i + per_row] for i in range(0, len(items), per_row)]
    return ["    " + "".join(item.ljust(width) for item in row).rstrip() for row in rows]


def run_report(trainer: "BaseTrainer") -> str:
    """Return the report of a run: how it ended, the best value, where its files are, and what to type next."""
    done = f"done: {quantity(trainer.epochs, 'epoch')}"
    if trainer.stop_reason:
        done = f"training stops: {trainer.stop_reason}"
    has_best = trainer.mnt_metric and trainer.best_epoch  # which an old trainer may count for itself
    best = f"{trainer.mnt_metric} {trainer.mnt_best:.6g} in epoch {trainer.best_epoch}" if has_best else ""
    lines = [("best", best), *([("files", "nothing is kept")] if trainer.config.keeps_nothing else _places(trainer))]
    return "\n".join([done, *(f"{head:<7}{text}" for head, text in lines if text)])


def tell_end(trainer: "BaseTrainer") -> None:
    """Log the report of a run that ends, after report.html is written, if the config asks for it."""
    if is_main() and trainer.settings.report and not trainer.config.keeps_nothing:
        from logger.report import write_report

        try:
            write_report(trainer.checkpoint_dir, trainer.config.log_dir)
        except UserError as error:  # the run is complete without it
            trainer.logger.warning("no report: %s", error)
    trainer.logger.info(run_report(trainer))


def tell_how_to_resume(trainer: "BaseTrainer") -> None:
    """Log, in the first process, that the run was stopped, and the command that resumes it."""
    if is_main():
        trainer.logger.warning(how_to_resume(trainer))


def how_to_resume(trainer: "BaseTrainer") -> str:
    """Return that the run was stopped, and the command that resumes it, after any save under way."""
    trainer.saver.wait()
    newest = trainer.saver.newest
    resume = f"resume with: {command(_script(), '-r', newest)}" if newest else "no checkpoint was saved yet"
    what = "nothing is kept" if trainer.config.keeps_nothing else resume
    return f"stopped{trainer.stop_signal.by} in epoch {trainer.epoch}; {what}"


@contextlib.contextmanager
def result_shown(trainer: "BaseTrainer", show: Callable[[dict[str, Any]], None] | None) -> Iterator[None]:
    """A context in which a run trains; at its end, also by a signal, show is called with its result, if there is one.

    show: None without --json.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if show and is_main():
            show(run_result(trainer))
        raise
    if show and is_main():
        show(run_result(trainer))


def run_result(trainer: "BaseTrainer") -> dict[str, Any]:
    """Return what a run has come to, as plain values; docs/runs.md describes it."""
    folder, newest = trainer.checkpoint_dir, trainer.saver.newest
    run, best = summarize(folder), folder / BEST_MODEL
    keys = ("folder", "name", "run", "state", "epoch", "batch", "epochs", "monitor", "best", "best_epoch", "values")
    return {
        **{key: getattr(run, key) for key in keys},
        "reason": run.reason if run.state != "finished" else trainer.stop_reason or "",
        "logs": str(trainer.config.log_dir),
        "best_checkpoint": str(best) if best.exists() else None,
        "last_checkpoint": str(newest) if newest else None,
    }


def command(*words: str | Path, start: str | None = None) -> str:
    """Return a command as typed into a shell. start: its first words, by default what starts as many processes."""
    texts = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return f"{start or launcher()} {shlex.join(texts)}"


def _places(trainer):
    """(head, text) of the lines that name a run's files and the next commands."""
    newest, best = trainer.saver.newest, trainer.checkpoint_dir / BEST_MODEL
    resume = f"{command(_script(), '-r', trainer.checkpoint_dir)} --set ..."
    measured = best if best.exists() else trainer.checkpoint_dir
    test = f"{command('test.py', '-r', measured, start='python')}{_split(trainer)}"
    return [
        ("files", trainer.checkpoint_dir),
        ("logs", trainer.config.log_dir),
        ("resume", resume if newest and trainer.stop_reason else ""),
        ("test", test if newest and Path("test.py").is_file() else ""),  # an older project may have none
    ]


def _script():
    """The script that trains: train.py, or in an older project without one, the script that was started."""
    started = Path(sys.argv[0])
    is_here = not Path("train.py").is_file() and started.is_file() and started.resolve().parent == Path.cwd()
    return started.name if is_here else "train.py"


def _split(trainer):
    """The flag --split for test.py, if the config names no test data."""
    config = trainer.config
    if "data_loader" not in config.parts or config.get("test_data_loader"):  # without it, test.py may be its own
        return ""
    takes = config.parameters("data_loader", importlib.import_module(config.parts["data_loader"].module))
    given = config["data_loader"].get("args", {})
    named = [given.get(name) for name in takes if name.startswith("test_") and name != "test_split"]
    if "training" in takes and (given.get("test_split") or all(value is not None for value in named)):
        return ""
    return " --split valid" if trainer.do_validation else " --split train"
