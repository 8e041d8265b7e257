"""Kill a run again and again, and compare it with an undisturbed run: they must be equal, bit for bit.

    python benchmarks/chaos.py [--runs 20] [--kills 200] [--seed 0]
    python benchmarks/chaos.py --processes 2 [--parallel fsdp] [--runs 4] [--kills 30]

A new project trains a small model with everything that has a state or draws random numbers (batch norm, dropout,
momentum, a schedule by steps, accumulated gradients, validation within epochs, augmentation with three random
generators). The process is killed with SIGKILL between steps, half-way through a save, in validation and at random
moments, and started again with the same command line, -r auto, but with another number of workers and threads for them.
If torchrun starts several processes, any one of them is killed; the others must end soon.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness import PROJECT, print_circumstances, print_table

sys.path.insert(0, str(PROJECT))
JOB = PROJECT / "benchmarks" / "chaos_job"
END_SECONDS = 15  # within which all processes must end when one is killed
KINDS = {
    "step": (1, 30),
    "file": (1, 300),
    "valid": (1, 12),
    "ms": (1500, 4500),
}  # what to count, and the range to kill in


@dataclass
class Ended:
    """How a training command ended."""

    status: int
    errors: str
    seconds_after_kill: float | None
    """Seconds until the last process ended after one was killed; None if none was."""


def main(runs, kills, kills_in_a_run, seed, processes, parallel):
    chance = random.Random(seed)
    killed, differences, unreadable, seconds, named = Counter(), [], [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder))
        number = 0
        while number < runs or sum(killed.values()) < kills:
            number += 1
            job = ["-c", "chaos.json", "--set", f"seed={number}", "--set", f"parallel.type={parallel}"]
            straight = train(project, [*job, "--set", "name=straight"], processes)
            if straight.status:
                raise SystemExit(straight.errors[-3000:])
            job += ["-r", "auto", "--set", "name=killed"]
            for _ in range(kills_in_a_run):
                kind = chance.choice(list(KINDS))
                trap = [kind, str(chance.randint(*KINDS[kind]))]
                victim = chance.randrange(processes)
                ended = train(project, [*job, *other_workers(chance)], processes, trap, victim)
                if ended.status == 0:
                    break
                if ended.seconds_after_kill is None:
                    raise SystemExit(f"run {number} failed by itself:\n{ended.errors[-3000:]}")
                killed[kind] += 1
                seconds.append(ended.seconds_after_kill)
                named += f"lost contact with rank {victim}" in ended.errors
                unreadable += [path for path in project.glob("saved/models/killed/*/*.pth") if not loads(path)]
            last = train(project, [*job, *other_workers(chance)], processes)
            if last.status:
                raise SystemExit(f"run {number} did not go on after a kill:\n{last.errors[-3000:]}")
            found = compare_runs(project)
            differences += [f"run {number}: {name}" for name in found]
            print(f"run {number}: {sum(killed.values())} kills so far, {len(found)} differences", file=sys.stderr)
            shutil.rmtree(project / "saved")
    print_circumstances()
    print_table(
        ["runs", *(f"killed at {kind}" for kind in KINDS), "kills", "unreadable checkpoints", "differences"],
        [[number, *(killed[kind] for kind in KINDS), sum(killed.values()), len(unreadable), len(differences)]],
    )
    if processes > 1:
        print(
            f"\n{processes} processes, {parallel}: the last one ended at most {max(seconds):.1f} s after the kill; "
            f"{named} of {len(seconds)} times the others named the one that was killed"
        )
    for line in [*differences, *map(str, unreadable)]:
        print(line)
    late = processes > 1 and max(seconds, default=0) > END_SECONDS
    return bool(differences or unreadable or late)


def make_project(folder):
    """Make a project with the job's model, data and config."""
    project = folder / "project"
    subprocess.run([sys.executable, "new_project.py", str(project)], cwd=PROJECT, check=True, capture_output=True)
    shutil.copy(JOB / "small_net.py", project / "model")
    shutil.copy(JOB / "small_images.py", project / "data_loader")
    shutil.copy(JOB / "config.json", project / "chaos.json")
    return project


def train(project, arguments, processes, trap=None, victim=0):
    """Run train.py in several processes; the victim kills itself when the trap (KIND, COUNT) says."""
    program = [str(PROJECT / "tests" / "killed.py"), *trap] if trap else ["train.py"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else ()), *program, *arguments]
    killed_at = project / "killed_at"
    killed_at.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": "", "KILLED_RANK": str(victim), "KILLED_AT": str(killed_at)}
    # a worker whose parent is killed before torch's watchdog knows it lives on, and would keep a pipe open
    with tempfile.TemporaryFile("w+") as errors:
        how = {"stdout": subprocess.DEVNULL, "stderr": errors, "start_new_session": True}
        with subprocess.Popen(command, cwd=project, env=environment, **how) as process:
            try:
                status = process.wait(timeout=600)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        errors.seek(0)
        text = errors.read()
    after = time.time() - float(killed_at.read_text()) if killed_at.exists() else None
    return Ended(status, text, after)


def other_workers(chance):
    return ["--set", f"data_loader.args.num_workers={chance.choice([0, 0, 1, 2, 4])}"]


def loads(path):
    from utils.runs.checkpoint import load_checkpoint

    try:
        return bool(load_checkpoint(path))
    except ValueError:
        return False


def compare_runs(project):
    """Return the names of what differs between the undisturbed run and the one that was killed."""
    from comparing.same import comparable_state, differing_values, tensorboard_scalars

    (straight,) = project.glob("saved/models/straight/*")
    newest = max(project.glob("saved/models/killed/*"), key=lambda run: run.stat().st_mtime)
    logs = [project / "saved/log" / run.parent.name / run.name for run in (straight, newest)]
    found = []
    for name in ("checkpoint-epoch6.pth", "model_best.pth"):
        states = [comparable_state(run / name) for run in (straight, newest)]
        found += [f"{name} {path}" for path in differing_values(*states)]
    if (logs[0] / "metrics.csv").read_bytes() != (logs[1] / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    scalars = [tensorboard_scalars(log) for log in logs]
    names = sorted(scalars[0].keys() | scalars[1].keys())
    return found + [f"TensorBoard {name}" for name in names if scalars[0].get(name) != scalars[1].get(name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="smallest number of runs")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="smallest number of kills over all runs")
    parser.add_argument("--kills-in-a-run", type=int, default=12, metavar="N", help="largest number of kills in a run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments to kill at")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes that train together")
    parser.add_argument("--parallel", default="ddp", choices=("ddp", "fsdp"), help="how they train")
    raise SystemExit(main(**vars(parser.parse_args())))
