"""The commands, run as a user types them, on the real MNIST in a shortened form."""

import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time

import pytest
from forked import run_forked, start_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from comparing.same import comparable_state, tensorboard_scalars
from helpers import PROJECT, SHORT, copy_project, run, run_here, same
from utils.files import read_json
from utils.runs.checkpoint import load_checkpoint, save_checkpoint

NAME = read_json(PROJECT / "config.json")["name"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a copy of the project, folder of a run of 2 short epochs in it)."""
    folder = copy_project(tmp_path_factory.mktemp("trained") / "project")
    two = ("--set", "trainer.epochs=2", "--set", "trainer.len_epoch=20", "--set", "trainer.log_step=5")
    run("train.py", "-c", "config.json", "--lr", "0.01", "--bs", "128", *two, cwd=folder)
    return folder, only(folder / "saved/models" / NAME)


def only(folder):
    (child,) = folder.iterdir()
    return child


def logs(run_folder):
    return run_folder.parents[2] / "log" / run_folder.parent.name / run_folder.name


def table(run_folder):
    with open(logs(run_folder) / "metrics.csv") as file:
        return list(csv.DictReader(file))


def graphs(run_folder):
    events = [EventAccumulator(str(path)).Reload() for path in logs(run_folder).glob("events*")]
    return sum(bool(event.Tags()["graph"]) for event in events)


@pytest.mark.command
@pytest.mark.slow
def test_a_run_leaves_everything_behind(trained):
    _, folder = trained
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "checkpoint-epoch1.pth",
        "checkpoint-epoch2.pth",
        "model_best.pth",
        "config.json",
        "environment.json",
    }
    assert [row["epoch"] for row in table(folder)] == ["1", "2"]
    assert float(table(folder)[1]["val_accuracy"]) > 0.5
    info = (logs(folder) / "info.log").read_text()
    assert "fc1         Linear     2 x 50                  16,050" in info and "epoch 2/2" in info
    assert (logs(folder) / "model.txt").read_text().startswith("MnistModel: ")
    report = (logs(folder) / "report.html").read_text()
    assert "This run ended after epoch 2 of 2." in report and "batches per second" in report
    assert "<th scope=row>optimizer.args.lr</th><td>0.002 -&gt; 0.01</td>" in report
    start = read_json(folder / "environment.json")[0]
    assert start["command"][1:4] == ["train.py", "-c", "config.json"] and start["libraries"]["torch"]


@pytest.mark.command
@pytest.mark.slow
def test_tensorboard_has_steps_epochs_images_histograms_and_the_graph(trained):
    events = EventAccumulator(str(logs(trained[1])))
    events.Reload()
    steps = [event.step for event in events.Scalars("loss/train")]
    assert steps == [5, 10, 15, 20, 25, 30, 35, 40] == [event.step for event in events.Scalars("lr/train")]
    scalars = tensorboard_scalars(logs(trained[1]))
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < scalars.keys()
    for name in ("loss", "val_accuracy"):
        rows = zip((20, 40), table(trained[1]), strict=True)
        assert scalars[name] == [(step, pytest.approx(float(row[name]), rel=1e-6)) for step, row in rows]
    assert [event.step for event in events.Images("input/train")][:1] == [1]
    assert "parameters/conv1.weight/train" in events.Tags()["histograms"] and events.Tags()["graph"] is True
    assert '"type": "MnistModel"' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.command
@pytest.mark.slow
def test_test_on_the_validation_data_gives_the_training_scripts_figures_exactly(trained):
    folder, run_folder = trained
    before = times_below(folder / "saved")
    run("test.py", "-r", run_folder / "checkpoint-epoch2.pth", "--split", "valid", cwd=folder)
    results = read_json(run_folder / "test_results.json")["checkpoint-epoch2.pth"]["valid"]
    last = table(run_folder)[-1]
    assert (results["epoch"], results["samples"]) == (2, 6000)
    for name in ("loss", "accuracy", "top_k_acc"):
        assert results[name] == float(last[f"val_{name}"])
    (run_folder / "test_results.json").unlink()
    assert before == times_below(folder / "saved")


def times_below(folder):
    """{path: when it was written} of the files below a folder, without what test.py adds to a report."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if path.name not in ("report.html", "test_details.json")}


@pytest.mark.slow
@pytest.mark.old_defect(14)
def test_test_takes_loader_split_and_batch_size_from_config_and_flags(trained):
    folder, run_folder = trained
    values = {}
    for batch_size in (100, 999):
        done = run_here("test.py", "-r", run_folder / "model_best.pth", "--bs", batch_size, cwd=folder)
        assert "on 10,000 test samples" in done.stdout and f"{run_folder / 'test_results.json'}\n" in done.stdout
        values[batch_size] = read_json(run_folder / "test_results.json")["model_best.pth"]["test"]
    assert values[100]["accuracy"] == pytest.approx(values[999]["accuracy"], abs=1e-12)
    assert values[100]["loss"] == pytest.approx(values[999]["loss"], rel=1e-6)
    report = (logs(run_folder) / "report.html").read_text()
    assert "<h2>Confusion matrix</h2>" in report and "10,000 test samples" in report and report.count("<img") == 50
    few = ("--set", "data_loader.args.validation_split=0.9")
    done = run_here("test.py", "-r", run_folder / "model_best.pth", "--split", "train", *few, cwd=folder)
    assert "on 6,000 train samples" in done.stdout
    assert read_json(run_folder / "test_results.json")["model_best.pth"].keys() == {"test", "train"}


@pytest.mark.slow
def test_resume_of_the_real_job_gives_the_same_bits(trained, tmp_path):
    folder, straight = trained
    two = ("--set", "trainer.len_epoch=20", "--set", "trainer.log_step=5", "--set", f"trainer.save_dir={tmp_path}")
    run_forked(
        "train.py", "-c", "config.json", "--lr", "0.01", "--bs", "128", "--set", "trainer.epochs=1", *two, cwd=folder
    )
    resumed = only(tmp_path / "models" / NAME)
    done = run_forked("train.py", "-r", resumed / "checkpoint-epoch1.pth", "--set", "trainer.epochs=2", cwd=folder)
    assert "changed since: trainer.epochs: 1 -> 2" in done.stdout
    left, right = (comparable_state(place / "checkpoint-epoch2.pth") for place in (straight, resumed))
    for key in ("state_dict", "optimizer", "attributes", "monitor_best", "not_improved_count", "rng"):
        assert same(left[key], right[key]), key
    assert table(straight) == table(resumed)
    assert len(read_json(resumed / "environment.json")) == 2
    assert len(list(logs(resumed).glob("events*"))) == 2 and graphs(resumed) == 1


@pytest.mark.slow
def test_resume_passes_over_a_damaged_newest_checkpoint(trained, tmp_path):
    folder, run_folder = trained
    copy = tmp_path / "models" / NAME / "copy"
    copy.mkdir(parents=True)
    for path in run_folder.glob("*.pth"):
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "environment.json").write_text("[]")  # what makes it a run's folder
    content = bytearray((copy / "checkpoint-epoch2.pth").read_bytes())
    content[1000] ^= 1
    (copy / "checkpoint-epoch2.pth").write_bytes(content)
    done = run_forked("train.py", "-r", copy, "--set", "trainer.epochs=2", cwd=folder)
    assert re.search(r"warning: .*checkpoint-epoch2\.pth: damaged: .*; passed over", done.stderr)
    assert "checkpoint-epoch1.pth, epoch 1" in done.stdout and "epoch 2/2" in done.stdout
    assert load_checkpoint(copy / "checkpoint-epoch2.pth")["epoch"] == 2
    refused = run_here("train.py", "-r", run_folder / "nothing.pth", cwd=folder, status=2)
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.old_defect(12)
def test_resume_with_a_config_starts_a_new_run_and_merges_deeply(trained, tmp_path):
    folder, run_folder = trained
    partial = tmp_path / "more.yaml"
    partial.write_text(f"optimizer: {{args: {{lr: 1e-3}}}}\ntrainer: {{epochs: 3, save_dir: {tmp_path}}}\n")
    done = run_forked("train.py", "-r", run_folder / "checkpoint-epoch2.pth", "-c", partial, cwd=folder)
    child = only(tmp_path / "models" / NAME)
    config = read_json(child / "config.json")
    assert config["trainer"]["len_epoch"] == 20 and config["optimizer"]["args"] == {
        "lr": 1e-3,
        "weight_decay": 0,
        "amsgrad": True,
    }
    assert float(table(child)[0]["lr"]) == 1e-3 and "optimizer.args.lr: 0.01 -> 0.001" in done.stdout
    assert read_json(child / "environment.json")[0]["resumed_from"].endswith("checkpoint-epoch2.pth")


@pytest.mark.slow
def test_deterministic_switch_reaches_torch(tmp_path):
    program = """
        import runpy, sys, torch
        sys.argv = ["train.py", *sys.argv[1:]]
        runpy.run_path("train.py", run_name="__main__")
        print("deterministic", torch.are_deterministic_algorithms_enabled())
    """
    short = ("-c", "config.json", "--set", "deterministic=true", *SHORT, "--set", f"trainer.save_dir={tmp_path}")
    assert "deterministic True" in run_forked("-c", textwrap.dedent(program), *short).stdout


# tests/template/test_jobs.py runs these, some on data that it makes.
TESTED_THERE = ("char_lm", "cifar_resnet", "image_folder", "autoencoder", "mlp", "tabular")
TESTED_THERE += ("fashion_mnist", "mnist1d", "ucr")


@pytest.mark.command
@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    sorted(
        str(path.relative_to(PROJECT))
        for path in PROJECT.glob("examples/*/config.*")
        if path.parent.name not in TESTED_THERE
    ),
)
def test_every_config_checks_and_trains(config, tmp_path):
    run_here("train.py", "-c", config, "--check")
    short = ("--set", f"trainer.save_dir={tmp_path}", "--set", "trainer.epochs=1", "--set", "trainer.len_epoch=5")
    done = run_forked("train.py", "-c", config, *short)
    assert "epoch 1/1" in done.stdout
    run_here("test.py", "-r", next(tmp_path.rglob("checkpoint-epoch1.pth")))


@pytest.mark.slow
def test_piped_output_is_plain_lines_within_80_columns(tmp_path):
    short = (
        "--set",
        "trainer.len_epoch=5",
        "--set",
        "trainer.log_step=5",
        "--set",
        "trainer.epochs=1",
        "--set",
        f"trainer.save_dir={tmp_path}",
    )
    done = run_forked("train.py", "-c", "config.json", *short)
    lines = done.stdout.splitlines()
    assert done.stderr == "" and "\r" not in done.stdout
    assert "epoch 1/1 [5/5 (100%)]  loss" in done.stdout
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path):
    short = ["--set", "trainer.len_epoch=5", "--set", "trainer.epochs=2", "--set", f"trainer.save_dir={tmp_path}"]
    reader, writer = os.pipe()
    with open(reader) as pipe, open(tmp_path / "errors", "w+") as errors:
        with open(writer, "w") as output:
            process = start_forked("train.py", "-c", "config.json", *short, cwd=PROJECT, output=output, errors=errors)
        pipe.readline()
        pipe.close()
        process.join(120)
        errors.seek(0)
        (told,) = errors.read().splitlines()
        assert told.startswith("warning: nothing more is printed on standard output (Broken pipe)")
        assert process.exitcode == 0
    (info,) = tmp_path.rglob("info.log")
    assert "epoch 2/2" in info.read_text()


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_no_progress_lines(tmp_path):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    short = ["--set", "trainer.len_epoch=40", "--set", "trainer.epochs=1", "--set", f"trainer.save_dir={tmp_path}"]
    short += ["--set", "trainer.log_step=5"]
    with open(follower, "w") as terminal:
        process = start_forked("train.py", "-c", "config.json", *short, cwd=PROJECT, output=terminal, errors=terminal)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:  # the other side has closed
            break
    os.close(leader)
    text = shown.decode()
    process.join()
    assert process.exitcode == 0 and "epoch 1/1:" in text and "it/s" in text and "loss=" in text
    assert "[5/40" not in text
    assert all(len(line) <= 80 for line in re.split("[\r\n]", text) if str(tmp_path) not in line)


def _heed_ctrl_c():
    """A shell starts its background jobs deaf to Ctrl-C, and their children with them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_says_what_to_resume_from(tmp_path):
    command = [sys.executable, "train.py", "-c", "config.json", "--set", "trainer.len_epoch=30"]
    command += [
        "--set",
        f"trainer.save_dir={tmp_path}",
        "--set",
        "trainer.epochs=1000",
        "--set",
        "trainer.verbosity=1",
        "--json",
    ]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True, preexec_fn=_heed_ctrl_c)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint-epoch2.pth")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output + errors
    result = json.loads(output.splitlines()[-1])
    assert (result["state"], result["reason"], result["epochs"]) == ("stopped", "by Ctrl-C", 1000)
    resume = re.search(r"resume with: python train\.py -r (\S+)", output)[1]
    assert result["last_checkpoint"] == resume and result["epoch"] >= 2 and result["best_checkpoint"]
    done = run_forked("train.py", "-r", resume, *SHORT)
    assert "nothing left to train" in done.stdout


@pytest.fixture(scope="module")
def own_copy(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("own") / "project")


WRONG = [
    (["-c", "none.json"], "none.json: cannot read the config: No such file"),
    (["-c", "README.md"], "a config ends in .json"),
    (["-r", "config.json"], "config.json: a config, not a checkpoint"),
    (["-r", "none.pth"], "none.pth: no such checkpoint"),
    (
        ["-c", "config.json", "--set", "trainer.monitor=min val_los"],
        "trainer.monitor: nothing called 'val_los' is logged",
    ),
    (["-c", "config.json", "--set", "data_loader.args.data_dir=none"], "no train-images-idx3-ubyte.gz in none"),
    (["-c", "config.json", "--set", "data_loader.args.validation_split=1.0"], "validation_split: got 1.0"),
    (["-c", "config.json", "--set", "data_loader.args.validation_split=-0.5"], "validation_split: got -0.5"),
    (["-c", "config.json", "--set", "data_loader.args.validation_split=60000"], "validation_split: got 60000"),
    (["-c", "config.json", "--bs", "0"], "batch_size: got 0"),
    (["-c", "config.json", "--lr", "inf"], "got inf, which is no number of a config"),
    (["-c", "config.json", "--lr", "-1"], "optimizer.args: Adam: Invalid learning rate"),
    (["-c", "config.json", "--set", "optimizer.type=os.system"], "optimizer.type: 'os.system' is not allowed"),
    (["-c", "config.json", "--set", "arch.type=torch.hub.load"], "arch.type: 'torch.hub.load' is not allowed"),
    (["-c", "config.json", "--set", "optimizer.type=lr_scheduler"], "optimizer.type: "),
    (["-c", "config.json", "--set", "trainer.save_dir=README.md"], "trainer.save_dir: cannot make a run folder"),
    (["-c", "config.json", "--set", "device=mps"], "device: 'mps' given"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_bad_input_is_one_line_exit_2_and_nothing_written(arguments, message, own_copy):
    before = sorted(own_copy.rglob("*"))
    done = run_here("train.py", *arguments, cwd=own_copy, status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert sorted(own_copy.rglob("*")) == before


def test_a_process_with_bad_input_ends_as_it_does_within_one(own_copy):
    for arguments, message in (WRONG[1], WRONG[7]):
        done = run("train.py", *arguments, cwd=own_copy, status=2)
        assert message in done.stderr
        assert done.stderr == run_here("train.py", *arguments, cwd=own_copy, status=2).stderr


@pytest.mark.slow
def test_test_refuses_what_it_cannot_measure(trained, tmp_path):
    folder, run_folder = trained
    checkpoint = run_folder / "checkpoint-epoch1.pth"
    assert "give a checkpoint with -r" in run_here("test.py", "-c", "config.json", cwd=folder, status=2).stderr
    split = ("--set", "data_loader.args.validation_split=0")  # what the config monitors does not matter here
    done = run_here("test.py", "-r", checkpoint, "--split", "valid", *split, cwd=folder, status=2)
    assert "the config sets no samples aside" in done.stderr
    done = run_here("test.py", "-r", checkpoint, "--set", "arch.args.num_classes=7", cwd=folder, status=2)
    assert "does not fit the model MnistModel" in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("take the arch out of -c and --set, so that the checkpoint's own is built\n")
    other = ("--set", 'arch={"type":"examples.mlp.model.ShrinkingMlp","args":{"in_features":784,"num_classes":10}}')
    done = run_here("test.py", "-r", checkpoint, *other, cwd=folder, status=2)
    assert "checkpoint of the model MnistModel does not fit the model ShrinkingMlp: " in done.stderr
    save_checkpoint({"state_dict": {}, "epoch": 1}, tmp_path / "bare.pth")
    assert "holds no config; give one with -c" in run_here("test.py", "-r", tmp_path / "bare.pth", status=2).stderr


@pytest.mark.slow
def test_a_checkpoint_within_an_epoch_is_tested_as_what_it_is(tmp_path):
    run_here(
        "train.py",
        "-c",
        "config.json",
        *SHORT,
        "--set",
        f"trainer.save_dir={tmp_path}",
        "--set",
        "trainer.save_every_steps=2",
    )
    checkpoint = next(tmp_path.rglob("checkpoint-epoch1-batch4.pth"))
    done = run_here("test.py", "-r", checkpoint, "--json")
    assert "epoch 0 and 4 batches, on 10,000 test samples" in done.stderr
    result = read_json(checkpoint.parent / "test_results.json")[checkpoint.name]["test"]
    assert (result["epoch"], result["batch"]) == (0, 4)
    shown = json.loads(done.stdout)
    assert shown.pop("values") == {key: result[key] for key in ("loss", "accuracy", "top_k_acc")}
    position = {"epoch": 0, "batch": 4, "samples": 10_000}
    assert shown == {"checkpoint": str(checkpoint), "split": "test", "tables": {}, **position}
