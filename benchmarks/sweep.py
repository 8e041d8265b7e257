"""Kill a sweep and its trials again and again, or measure how well a sweep keeps the cores at work.

    python benchmarks/sweep.py --kills 20
    python benchmarks/sweep.py --pairs 3 --trials 10

The first kills the sweep and its trials with SIGKILL in turn, and starts the same command again. In the end each trial
must be complete once, with the same metrics.csv and the same weights as a run that nobody disturbed. The second trains
the same settings with sweep.py and with xargs, one after the other, and compares the times.
"""

import argparse
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chaos import make_project

from harness import PROJECT, print_circumstances, print_table

sys.path.insert(0, str(PROJECT))
SPACE = ["optimizer.args.lr=0.01,0.02,0.05,0.1", "optimizer.args.momentum=0.5,0.7,0.8,0.9,0.95"]


def main(kills, pairs, trials, jobs, seed):
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder))
        if kills:
            return chaos(project, kills, trials, jobs, random.Random(seed))
        measure(project, pairs, trials, jobs)
        return False


def command(study, trials, jobs):
    options = ["--trials", str(trials), "--jobs", str(jobs), "--study", study, "--pruner", "Nop", "--sampler", "grid"]
    return [sys.executable, "sweep.py", "-c", "chaos.json", *SPACE, *options, "--no-report"]


def chaos(project, kills, trials, jobs, chance):
    """Whether anything was lost, counted twice, left running or differs."""
    done, told = {"sweep": 0, "trial": 0}, open(project / "told.txt", "w")  # noqa: SIM115
    sweep = None
    while sum(done.values()) < kills:
        if sweep is None or sweep.poll() is not None:
            if sweep is not None and sweep.returncode == 0:
                break
            sweep = subprocess.Popen(command("killed", trials, jobs), cwd=project, stdout=told, stderr=told)
        time.sleep(chance.uniform(2, 12))
        kind = "sweep" if done["sweep"] <= done["trial"] else "trial"
        victims = [sweep.pid] if kind == "sweep" else trial_processes(project)
        if victims and sweep.poll() is None:
            os.kill(chance.choice(victims), signal.SIGKILL)
            done[kind] += 1
            print(f"{sum(done.values())} kills", file=sys.stderr)
        if kind == "sweep":
            sweep.wait()
    if sweep is not None:
        sweep.wait()
    last = subprocess.run(command("killed", trials, jobs), cwd=project, stdout=told, stderr=told)
    told.close()
    if last.returncode:
        raise SystemExit((project / "told.txt").read_text()[-3000:])
    left = trial_processes(project)
    study = stored(project)
    states = [trial.state.name for trial in study]
    wrong = [] if states == ["COMPLETE"] * trials else [f"states: {states}"]
    for trial in study:
        wrong += differences(project, trial)
    print_circumstances()
    heads = ["trials", "kills of the sweep", "kills of trials", "complete", "left running", "differences"]
    print_table(heads, [[trials, done["sweep"], done["trial"], states.count("COMPLETE"), len(left), len(wrong)]])
    print("\n".join(wrong))
    return bool(wrong or left)


def stored(project):
    import optuna

    from sweeping.storage import open_storage

    journal = project / "saved" / "sweeps" / "killed" / "journal.log"
    return optuna.load_study(study_name="killed", storage=open_storage(journal)).trials


def trial_processes(project):
    """Numbers of the processes that train a trial of the project, each the first of its session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            here = (folder / "cwd").resolve() == project.resolve()
        except OSError:
            continue
        if here and "train.py" in words and os.getsid(int(folder.name)) == int(folder.name):
            found.append(int(folder.name))
    return found


def differences(project, trial):
    """What differs between a trial and an undisturbed run with its settings."""
    from comparing.same import comparable_state, differing_values

    name = f"alone-{trial.number}"
    sets = [word for key, value in trial.user_attrs["settings"].items() for word in ("--set", f"{key}={value}")]
    train = [sys.executable, "train.py", "-c", "chaos.json", *sets, "--set", f"name={name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(train, cwd=project, env=environment, check=True, capture_output=True)
    (alone,) = (project / "saved" / "models").glob(f"{name}/*")
    run = project / trial.user_attrs["run"].replace("/log/", "/models/")
    logs = [project / "saved" / "log" / path.parent.name / path.name for path in (alone, run)]
    found = []
    if (logs[0] / "metrics.csv").read_bytes() != (logs[1] / "metrics.csv").read_bytes():
        found.append(f"trial {trial.number}: metrics.csv")
    for file in ("checkpoint-epoch6.pth", "model_best.pth"):
        states = [comparable_state(path / file) for path in (alone, run)]
        found += [f"trial {trial.number}: {file} {place}" for place in differing_values(*states)]
    return found


def measure(project, pairs, trials, jobs):
    grid = [(lr, momentum) for lr in (0.01, 0.02, 0.05, 0.1) for momentum in (0.5, 0.7, 0.8, 0.9, 0.95)][:trials]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    rows = []
    for pair in range(pairs):
        began = time.monotonic()
        done = command(f"pace{pair}", trials, jobs)
        subprocess.run(done, cwd=project, env=environment, check=True, capture_output=True)
        swept = time.monotonic() - began
        lines = []
        for i, (lr, momentum) in enumerate(grid):
            sets = {"optimizer.args.lr": lr, "optimizer.args.momentum": momentum, "name": f"hand{pair}-{i}"}
            words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
            lines.append(shlex.join([sys.executable, "train.py", "-c", "chaos.json", *words]))
        began = time.monotonic()
        by_hand = ["xargs", "-P", str(jobs), "-I{}", "sh", "-c", "{}"]
        text = "\n".join(lines)
        subprocess.run(by_hand, cwd=project, env=environment, input=text, text=True, check=True, capture_output=True)
        rows.append([pair + 1, swept, time.monotonic() - began])
        print(rows[-1], file=sys.stderr)
    print_circumstances()
    shown = [[pair, f"{swept:.1f}", f"{hand:.1f}", f"{hand / swept:.2f}"] for pair, swept, hand in rows]
    print_table(["pair", "sweep.py, s", "xargs, s", "pace of xargs reached"], shown)
    print(f"\nmedian {statistics.median(hand / swept for _, swept, hand in rows):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="number of kills")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="measurements of each, one after the other")
    parser.add_argument("--trials", type=int, default=10, metavar="N", help="trials of a sweep, at most 20")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments to kill at")
    flags = parser.parse_args()
    if flags.trials > 20:
        parser.error(f"--trials: got {flags.trials}; the space has 20 settings")
    raise SystemExit(main(**vars(flags)))
