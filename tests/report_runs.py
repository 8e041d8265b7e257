"""Runs as files alone, of which reports and plots are made."""

import random

from logger import CsvLog, EpochClock
from logger.details import NUM_BINS, Classes, Mistake, Picture, TestDetails, Values, save_details
from utils.files import write_json

# one white pixel
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAGykZiwAAAABJRU5ErkJggg=="
)


def make_run(root, name="job", epochs=3, ended=True, starts=({},), **config):
    """(folder of checkpoints, folder of logs) of a run with curves, but without tests."""
    save_dir, log_dir = (root / room / name / "20261129_120000" for room in ("models", "log"))
    for folder in (save_dir, log_dir):
        folder.mkdir(parents=True)
    trainer = {"epochs": 3, "monitor": "min val_loss"}
    write_json(
        {"name": name, "data_loader": {"args": {"batch_size": 8}}, "trainer": trainer, **config},
        save_dir / "config.json",
    )
    common = {"started": "2026-11-29T12:00:00+00:00", "git_commit": "c0ffee", "git_dirty": False, "overridden": []}
    known = [common | start for start in starts]
    known[-1] |= {"ended": "2026-11-29T12:01:00+00:00"} if ended else {}
    write_json(known, save_dir / "environment.json")
    table = CsvLog(log_dir / "metrics.csv")
    for epoch in range(1, epochs + 1):
        table.append({"epoch": epoch, "loss": 1 / epoch, "lr": 0.1**epoch, "val_loss": 2 / epoch})
        clock = EpochClock()
        clock.start(log_dir, epoch, batches_done=0, step=0)
        clock.record(seconds=2.0, step=10)
    return save_dir, log_dir


def details_of_classes(num_classes, samples=2_000, names=None):
    """TestDetails of predictions drawn at random, two thirds of them right."""
    draw = random.Random(0)
    table = {}
    for _ in range(samples):
        target = draw.randrange(num_classes)
        place = target, target if draw.random() < 0.67 else draw.randrange(num_classes)
        table[place] = table.get(place, 0) + 1
    names = names or [f"class number {i}" for i in range(num_classes)]
    sums = [[0, 0, 0] for _ in names]
    for (target, prediction), count in table.items():
        sums[target][0] += count
        sums[prediction][1] += count
        sums[target][2] += count if target == prediction else 0
    mistakes = [
        Mistake(
            source=f"test:{i}",
            target=names[0],
            prediction=names[1],
            probability=1 - i / 100,
            picture=Picture(uri=DOT, width=1, height=1),
        )
        for i in range(50)
    ]
    classes = Classes(
        names=names,
        per_class=[tuple(row) for row in sums],
        pairs=[(*place, count) for place, count in sorted(table.items())],
        bins=[(i, i * (i + 0.5) / NUM_BINS, i // 2) for i in range(NUM_BINS)],
        num_mistakes=60,
        mistakes=mistakes,
    )
    return TestDetails(checkpoint="model_best.pth", split="test", samples=samples, classes=classes)


def details_of_values():
    """TestDetails of predictions of a number."""
    draw = random.Random(0)
    pairs = [(target, target + draw.gauss(0, 0.3)) for target in (draw.gauss(5, 2) for _ in range(300))]
    values = Values(
        name="",
        count=300,
        mean_error=0.01,
        mean_absolute_error=0.2,
        root_mean_squared_error=0.3,
        r_squared=0.9,
        pairs=pairs,
    )
    return TestDetails(checkpoint="model_best.pth", split="test", samples=300, values=[values])


def run_with_test(root, details, values=None, **more):
    """As make_run, with the details and results of a test."""
    save_dir, log_dir = make_run(root, **more)
    save_details(details, log_dir)
    result = {"epoch": 3, "samples": details.samples, **(values or {"loss": 0.25})}
    write_json({details.checkpoint: {details.split: result}}, save_dir / "test_results.json")
    return save_dir, log_dir
