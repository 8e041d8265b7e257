"""Folders of runs written by hand, as training leaves them, in milliseconds."""

import csv
import io
import json
import platform

CONFIG = {
    "name": "job",
    "seed": 1,
    "arch": {"type": "Net", "args": {"width": 8}},
    "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "trainer": {"epochs": 3, "monitor": "max val_accuracy", "save_dir": "saved/"},
}
ACCURACIES = (0.5, 0.75, 0.625)


def make_run(
    root,
    run,
    name="job",
    accuracies=ACCURACIES,
    ended=True,
    log="",
    diff=None,
    commit="a" * 40,
    fingerprint="ab",
    **changes,
):
    """Write a run below the save_dir `root`; returns its folder.

    changes: {key of the config: value}, "__" for dots. diff: name of the file of the uncommitted changes, "" for none.
    fingerprint: of its data.
    """
    config = json.loads(json.dumps(CONFIG | {"name": name}))
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    folder, logs = root / "models" / name / run, root / "log" / name / run
    folder.mkdir(parents=True)
    logs.mkdir(parents=True)
    start = {"started": "2026-01-02T03:00:00+00:00", "host": platform.node(), "python": "3.11.7", "git_commit": commit}
    start |= {
        "data": {"samples": 60, "fingerprint": fingerprint, "part": "all"},
        "git_dirty": diff is not None,
        **({"git_diff": diff} if diff else {}),
        **({"ended": "2026-01-02T03:01:00+00:00"} if ended else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps([start]))
    for file in (".lock", f"checkpoint-epoch{len(accuracies)}.pth"):
        (folder / file).touch()
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["epoch", "loss", "lr", "val_loss", "val_accuracy"])
    for epoch, accuracy in enumerate(accuracies, start=1):
        writer.writerow([epoch, 1 / epoch, 0.1, 1 - accuracy, accuracy])
    (logs / "metrics.csv").write_text(table.getvalue())
    lines = [f"2026-01-02 03:00:0{i},000 INFO trainer: epoch {i}/3  1.5 s\n" for i in range(1, len(accuracies) + 1)]
    (logs / "info.log").write_text("".join(lines) + log)
    return folder


def make_old_run(root, run="0102_030405", epochs=2, planned=2):
    """Write a run as the old template leaves it: config.json, a checkpoint and info.log."""
    folder, logs = root / "models" / "old" / run, root / "log" / "old" / run
    folder.mkdir(parents=True)
    logs.mkdir(parents=True)
    trainer = {"epochs": planned, "monitor": "min val_loss", "save_dir": "saved/"}
    (folder / "config.json").write_text(json.dumps({"name": "old", "loss": "nll_loss", "trainer": trainer}))
    (folder / f"checkpoint-epoch{epochs}.pth").touch()
    head, lines = " - trainer - INFO - ", ["2020-01-02 03:04:05,000 - train - INFO - Net(\n  (fc): Linear()\n)\n"]
    for epoch in range(1, epochs + 1):
        for key, value in (("epoch", epoch), ("loss", 0.5), ("val_loss", 1 / epoch)):
            lines.append(f"2020-01-02 03:04:{10 * epoch:02},000{head}    {key:15s}: {value}\n")
        lines.append(f"2020-01-02 03:04:{10 * epoch:02},000{head}Saving checkpoint: x.pth ...\n")
    (logs / "info.log").write_text("".join(lines))
    return folder
