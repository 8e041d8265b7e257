"""Search for the best settings of a job: python sweep.py -c config.json optimizer.args.lr=log:1e-4..1e-1 --trials 30.

A trial is an ordinary run of train.py in a process of its own. Repeat the command to continue a study, here or,
with one --storage, on several machines at once.
"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.stop_signal import StopSignal

if TYPE_CHECKING:
    from sweeping.plan import Plan
    from sweeping.space import Space

SPACE = "a key of the config and its values, as optimizer.args.lr=log:1e-4..1e-1 or arch.args.dropout=0.1,0.3"


def main(flags: argparse.Namespace) -> None:
    """Sweep, and write the report; with --report write the report alone."""
    if find_spec("optuna") is None:
        raise UserError("sweeps need the package optuna, which is not installed: pip install '.[sweep]'")
    if flags.report:
        named = Path(flags.report)
        config = read_job(flags) if flags.config and not named.is_dir() else {}
        return report(named if named.is_dir() else places(config, flags.report)[1], flags)
    from sweeping.plan import given_plan, read_plan

    config = read_job(flags)
    plan, space = read_plan(given_plan(flags), config)
    with StopSignal() as stop:
        try:
            sweep(plan, space, config, flags, stop)
        finally:
            if stop.received:
                stop.end()
    if not flags.no_report:
        report(places(config, plan.study)[1], flags)


def sweep(plan: "Plan", space: "Space", config: dict[str, Any], flags: argparse.Namespace, stop: StopSignal) -> None:
    """Train the trials that the plan asks for and the study does not have yet. Raises UserError."""
    from sweeping.grid import GridOfSettings
    from sweeping.plan import make_pruner, make_sampler
    from sweeping.runner import LiveLine, Sweep
    from sweeping.shared_study import SharedStudy, open_study, settings_of_grid
    from sweeping.storage import Patience, open_storage
    from sweeping.trial_run import Launch, TrialRun, command_of
    from utils.files import write_json

    command = command_of(flags.script, flags.launcher)
    save_dir, folder = places(config, plan.study)
    pruner = make_pruner(plan)
    sampler = make_sampler(plan)
    storage = open_storage(flags.storage or folder / "journal.log")
    line = LiveLine()
    patience = Patience(line.tell, stop.asks)
    study = patience(open_study, storage, plan, space, config, flags.extend)
    if sampler is None:
        settings = patience(settings_of_grid, study, space.grid(config))
        sampler, trials = GridOfSettings(settings), min(plan.trials or len(settings), len(settings))
        plan = plan.model_copy(update={"trials": trials})
    study.sampler, study.pruner = sampler, pruner
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config, folder / "config.json")
    first = config.get("seed", 123)
    seeds = [None] if plan.seeds == 1 else [first + i for i in range(plan.seeds)]
    threads = max(1, (os.cpu_count() or 1) // flags.jobs)

    def start(number: int, settings: dict[str, Any], job: int, former: Any) -> TrialRun:
        device = flags.device and flags.device.split(",")[job % len(flags.device.split(","))]
        launch = Launch(folder / "config.json", save_dir, folder, command, device, threads)
        return TrialRun(f"{plan.study}-{number:03d}", settings, plan, launch, seeds, former)

    shared = SharedStudy(study, storage, plan.trials, patience)
    Sweep(shared, plan, space, config, start, flags.jobs, line).run(stop)


def report(folder: Path, flags: argparse.Namespace) -> None:
    """Print the table of the study in this folder, and write its report there."""
    from sweeping.report import write_report
    from sweeping.storage import open_storage

    where = flags.storage or folder / "journal.log"
    if "://" not in str(where) and not Path(where).exists():
        raise UserError(f"--report {shown(folder.name)}: there is no {shown(where)}; say where with -c, or --storage")
    print(write_report(open_storage(where), folder, flags.script, flags.json))


def read_job(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the config with the values of --set. Raises UserError."""
    from sweeping.space import with_settings
    from utils.config.files import parse_assignment, read_config

    if not flags.config:
        raise UserError("-c: give the config of the job to sweep, as -c config.json")
    config = read_config(flags.config)
    for key, value in map(parse_assignment, flags.set):  # one after another, as train.py does: a key may come twice
        config = with_settings(config, {key: value})
    return config


def places(config: dict[str, Any], study: str | None) -> tuple[Path, Path]:
    """Return (the folder of all runs, the folder of the study within it)."""
    save_dir = Path(config.get("trainer", {}).get("save_dir", "saved/"))
    return save_dir, save_dir / "sweeps" / str(study)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Search for the best settings of a job.", allow_abbrev=False)
    add = parser.add_argument
    add("space", nargs="*", metavar="KEY=VALUES", help=SPACE)
    add("-c", "--config", metavar="FILE", help="config of the job")
    add("-s", "--sweep", metavar="FILE", help="sweep.json: the space, and what the flags below say")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="set any value of the config; repeatable")
    add("--trials", type=int, metavar="N", help="number of trials in all, those of earlier starts included")
    add("--budget", metavar="H:MM:SS", help="time to sweep in all")
    add("--objective", action="append", metavar="'max NAME'", help="by default the config's monitor; repeatable")
    add("--seeds", type=int, metavar="N", help="seeds to train each setting with (1)")
    add("--sampler", metavar="NAME", help="a class of optuna.samplers (TPESampler), or grid")
    add("--pruner", metavar="NAME", help="a class of optuna.pruners (MedianPruner)")
    add("--study", metavar="NAME", help="name of the study and its runs (the config's name and -sweep)")
    add("--storage", metavar="FILE|URL", help="a journal in a shared folder, or a database, for several machines")
    add("--extend", action="store_true", help="continue a study whose space has changed")
    add("--jobs", type=int, default=1, metavar="N", help="trials at a time (1)")
    add("-d", "--device", metavar="DEVICES", help="as in 0,1: the jobs take turns at these GPUs")
    add("--script", default="train.py", metavar="FILE", help="what trains (train.py)")
    add("--launcher", metavar="COMMAND", help="in place of python, as 'torchrun --standalone --nproc-per-node=2'")
    add("--report", metavar="STUDY", help="write the report of a study, and stop")
    add("--no-report", action="store_true", help="write no report at the end")
    add("--json", action="store_true", help="print the results as a JSON object")
    return parser


if __name__ == "__main__":
    parser = in_one_line(make_parser())
    flags = parser.parse_intermixed_args()
    with clean_exit():
        refuse_several("sweep.py")
        if flags.jobs < 1:
            raise UserError(f"--jobs: got {flags.jobs}; it should be at least 1")
        main(flags)
