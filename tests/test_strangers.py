"""Configs, checkpoints and folders made to attack: nothing runs, nothing is written outside, each gets one clear line.

The attacks run in a process of their own under sys.addaudithook, which ends it at once if a process is started, a
socket opened, a module imported that no honest config needs, or a file opened for writing.
"""

import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile

import hypothesis
import pytest
import torch
from forked import run_forked
from hypothesis import strategies

from helpers import PROJECT, copy_project, run, run_here
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.runs.checkpoint import save_checkpoint

TYPES = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "eval",
    "__import__",
    "subprocess.Popen",
    "importlib.import_module",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline",
    "torch.jit.load",
    "torch.classes.load_library",
    "torch.ops.load_library",
    "torch.distributed.run.main",
    "torch.multiprocessing.spawn",
    "torch.serialization.os.system",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.modules.module.torch.hub.load",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.functional.handle_torch_function",
    "torch.nn.parallel.distributed.os.system",
    "torch.optim.optimizer.functools.partial",
    "torchvision.models._api.importlib.import_module",
    "torchvision.models._utils.os.system",
    "torchvision.io.read_image",
    "torchvision.datasets.utils.download_url",
    "numpy.load",
    "files.write_json",
    "utils.files.write_json",
    "utils.runs.checkpoint.copy_checkpoint",
    "parse_config.ConfigParser",
    "new_project.main",
    "model.os.system",
    "model.__loader__.load_module",
    "..model.MnistModel",
    "/tmp/evil.Evil",
    "../evil.Evil",
    "evil.py",
    "torch",
    "torch.nn",
    "",
    ".",
    "a b",
    "torch.nn.Linear; import os",
]
SECTIONS = ("arch", "data_loader", "optimizer", "loss", "metrics", "lr_scheduler")

_AUDITED = """
import io, json, os, sys
import torch, torchvision.models, torch.utils.tensorboard, yaml
sys.path.insert(0, {project!r})
import data_loader.data_loaders, model.loss, model.metric, model.model
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.config.check import check_types
from utils.config.files import read_config
from utils.runs.checkpoint import load_checkpoint
from utils.config.types import resolve
import utils.config.yaml_loader, utils.old_forms.checkpoint

honest = read_config({project!r} + "/config.json")
rooms = dict(arch=model.model, data_loader=data_loader.data_loaders, optimizer=torch.optim, loss=model.loss,
             metrics=model.metric, lr_scheduler=torch.optim.lr_scheduler)

def attack(attempt):
    try:
        attempt()
    except UserError as error:
        return str(error)
    raise SystemExit(f"let through: {{attempt}}")

def as_config(section, name):
    value = {{"type": name}}
    trainer = {{**honest["trainer"], "monitor": "off"}}
    config = {{**honest, "trainer": trainer, section: [value] if section == "metrics" else value}}
    check_types(ConfigParser(config, parts=PARTS).config, PARTS)

attack(lambda: as_config("arch", "Nothing"))  # so that what any refusal, or any reading of a file, imports is there
for zipped in (True, False):
    buffer = io.BytesIO()
    torch.save({{"w": torch.zeros(1)}}, buffer, _use_new_zipfile_serialization=zipped)
    torch.load(io.BytesIO(buffer.getvalue()), map_location="cpu", weights_only=True)
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.", "import",
             "shutil.", "os.remove", "os.rename", "os.mkdir", "urllib.", "ctypes.dlopen")

def watch(event, arguments):
    wrote = event == "open" and arguments[1] is not None and any(flag in str(arguments[1]) for flag in "wax+")
    if wrote or event.startswith(FORBIDDEN):
        print("AUDIT", event, arguments, flush=True)
        os._exit(3)

types, sections, files = json.loads(sys.argv[1])
sys.addaudithook(watch)
for section in sections:
    for name in types:
        said = attack(lambda: as_config(section, name))
        assert section in said, (section, name, said)
        attack(lambda: resolve(name, rooms[section], PARTS[section]))
for path in files:
    read = load_checkpoint if path.endswith(".pth") else lambda path: ConfigParser(read_config(path), parts=PARTS)
    said = attack(lambda: read(path))
    assert path.rpartition("/")[0] in said and len(said.splitlines()) == 1 and len(said) < 500, said
print("refused", len(types) * len(sections) + len(files), flush=True)
os._exit(0)  # what torch imports while it ends is no attack
"""


def audited(types, files):
    program = _AUDITED.format(project=str(PROJECT))
    return run("-c", program, json.dumps([types, SECTIONS, [str(path) for path in files]])).stdout


class Payload:
    """Unpickled, it runs a command."""

    def __reduce__(self):
        return os.system, ("touch /tmp/never-made-by-a-checkpoint",)


def hostile_files(folder):
    """Configs and checkpoints of every kind that ought to be refused."""
    state = {"w": torch.zeros(2)}
    payloads = {
        "nested": {"state_dict": state, "epoch": 1, "config": {"a": [Payload()]}},
        "key": {"state_dict": {"w": torch.zeros(1)}, Payload: 1},
        "weights": {"state_dict": {"w": Payload()}},
        "top": Payload(),
        "class": {"state_dict": state, "config": subprocess.Popen},
        "module": {"state_dict": state, "model": torch.nn.Linear(2, 2)},
    }
    for name, content in payloads.items():
        torch.save(content, folder / f"{name}.pth")
        torch.save(content, folder / f"{name}-legacy.pth", _use_new_zipfile_serialization=False)
        (folder / f"{name}-bare.pth").write_bytes(pickle.dumps(content, protocol=2))
    save_checkpoint({"state_dict": state}, folder / "sealed.pth")
    with zipfile.ZipFile(folder / "nested.pth") as archive, zipfile.ZipFile(folder / "second.pth", "w") as other:
        for entry in archive.namelist():
            other.writestr(entry, archive.read(entry))
    (folder / "sealed-then-more.pth").write_bytes((folder / "sealed.pth").read_bytes() + b"PK\x05\x06" + bytes(18))
    (folder / "sealed.pth").unlink()
    texts = {
        "tag.yaml": "name: !!python/object/apply:os.system ['touch /tmp/never']\n",
        "new.yaml": "name: !!python/object/new:subprocess.Popen [['touch', '/tmp/never']]\n",
        "self.json": '{"base": "self.json"}',
        "deep.json": '{"a": ' * 100_000 + "1" + "}" * 100_000,
        "nan.json": '{"trainer": {"epochs": NaN}}',
        "infinity.json": '{"trainer": {"epochs": -Infinity}}',
        "bomb.yaml": "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "huge.json": '{"a": "' + "x" * 100_000_000 + '"}',
        "up.json": '{"base": "../../../../../../etc/passwd"}',
        "number.json": '{"a": ' + "9" * 5000 + "}",
        "control.json": json.dumps({"name": "../out", "trainer": {"epochs": 1}}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return sorted(path for path in folder.iterdir() if path.name != "control.json")


@pytest.mark.slow
def test_attacks_run_nothing_and_are_refused_in_one_line(tmp_path):
    files = hostile_files(tmp_path)
    assert audited(TYPES, files).split() == ["refused", str(len(TYPES) * len(SECTIONS) + len(files))]


@pytest.mark.slow
def test_the_watch_sees_what_it_watches_for(tmp_path):
    program = _AUDITED.format(project=str(PROJECT))
    for deed in ("open('x', 'w')", "__import__('os').system('true')"):
        watched = program.replace("for section in sections:", f"exec({deed!r})\nfor section in sections:")
        done = run_forked("-c", watched, json.dumps([[], [], []]), cwd=tmp_path, status=3)
        assert "AUDIT" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["..", ".", "", "a/../b", "../x", "/tmp/x", "a\\b", "x\n", "\x00"])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(UserError, match="name"):
        ConfigParser({"name": name, "trainer": {"epochs": 1}})


@pytest.mark.parametrize("link", ["models", "models/x", "log", "log/x"])
def test_links_that_lead_out_of_save_dir_are_not_followed(tmp_path, link):
    outside, inside = tmp_path / "outside", tmp_path / "saved"
    outside.mkdir()
    (inside / link).parent.mkdir(parents=True)
    (inside / link).symlink_to(outside)
    config = ConfigParser({"name": "x", "trainer": {"epochs": 1, "save_dir": str(inside)}})
    with pytest.raises(UserError, match="leads out of"):
        _ = config.save_dir
    assert not [path for path in outside.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_run_folder_full_of_links_writes_nothing_outside(tmp_path):
    project = copy_project(tmp_path / "project")
    job = ("train.py", "-c", "config.json", "--set", "trainer.len_epoch=2", "--set", "trainer.verbosity=0")
    run_here(*job, "--set", "trainer.epochs=1", cwd=project)
    (folder,) = project.glob("saved/models/*/*")
    before = {}

    def link(name):
        path = next(project.rglob(f"saved/**/{name}"))
        outside = tmp_path / name
        before[outside] = path.read_bytes()
        path.replace(outside)
        path.symlink_to(outside)

    for name in ("metrics.csv", "config.json", "environment.json", "checkpoint-epoch1.pth", "model_best.pth"):
        link(name)
    run_here("train.py", "-r", folder, "--set", "trainer.epochs=2", cwd=project)
    link("info.log")
    refused = run_here("train.py", "-r", folder, "--set", "trainer.epochs=3", cwd=project, status=2)
    assert "info.log: is a link" in refused.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_plain_text_in_a_safe_checkpoint_chooses_no_code(tmp_path):
    config = {
        "name": "x",
        "arch": {"type": "os.system", "args": {"command": "touch never"}},
        "data_loader": {"type": "subprocess.Popen"},
        "optimizer": {"type": "torch.hub.load"},
        "loss": "builtins.eval",
        "trainer": {"epochs": 2},
    }
    path = tmp_path / "checkpoint-epoch1.pth"
    save_checkpoint({"state_dict": {}, "arch": "os.system", "epoch": 1, "config": config}, path)
    for script in ("train.py", "test.py"):
        done = run_here(script, "-r", path, status=2)
        assert "Traceback" not in done.stderr
        for section in ("arch", "data_loader", "optimizer", "loss"):
            assert any(line.startswith(f"error: {section}.type: ") for line in done.stderr.splitlines())


def small_configs_that_ask_for_much(folder):
    """Small files, each of which once took minutes to answer, or ended in a traceback."""
    merges = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 30)]
    honest = json.loads((PROJECT / "config.json").read_text())
    letters = "abcdefghijklmnopqrstuvwxyz" * 3
    flags = [{"flag": f"--f{i}", "target": letters[i:] + letters[:i]} for i in range(25)]
    texts = {
        "merge.yaml": "\n".join(["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}", *merges]),
        "keys.yaml": "\n".join(f"k{i}: 1" for i in range(9_000)),
        "lists.yaml": "a: &a [" + "1," * 9_000 + "]\nb: [" + "*a," * 9_000 + "]",
        "brackets.yaml": "[" * 90_000,
        "code.yaml": 'a: "\\UFFFFFFFF"',
        "digits.toml": "a = " + "9" * 5_000,
        "hex.toml": "seed = 0x" + "f" * 50_000,
        "dots.toml": "a." * 40_000 + "a = 1",
        "surrogate.json": json.dumps({**honest, "\ud800k": 1}),
        "control.json": json.dumps({**honest, "zz\x1b]0;x\x07": 1}),
        "name.json": json.dumps({**honest, "name": "a\x9b31mb"}),
        "long.json": json.dumps({**honest, "init_weights": {"path": "x" * 5_000}}),
        "own.json": json.dumps({**honest, "cli": flags, **{f"{letters}{i}": 1 for i in range(900)}}),
        "twice.json": '{"a": 1, ' + "".join(f'"k{i}": 1, ' for i in range(8_000)) + '"k7999": 1}',
        **{f"chain{i}.json": json.dumps({"base": [f"chain{i + 1}.json"] * 2}) for i in range(26)},
        "chain26.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts if not name.startswith("chain")] + [folder / "chain0.json"]


_ANSWER_EACH = """
import contextlib, io, runpy, sys
sys.path.insert(0, ".")
for path in sys.argv[1:]:
    for arguments in (["-c", path, "--check"], ["-c", path, "-r", "latest"], ["-c", path, "--help"]):
        sys.argv = ["train.py", *arguments]
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                runpy.run_path("train.py", run_name="__main__")
                raise AssertionError(arguments)
            except SystemExit as ended:
                assert ended.code == 2 or "--help" in arguments, (ended.code, arguments)
        lines = errors.getvalue().splitlines() + out.getvalue().splitlines()
        assert lines and len(lines) < 200, arguments
        assert all(line.isprintable() and len(line) < 5_000 for line in lines), arguments
    print(path)
"""


@pytest.mark.slow
def test_small_configs_that_ask_for_much_work_are_answered_at_once(tmp_path):
    files = small_configs_that_ask_for_much(tmp_path)
    assert run_forked("-c", _ANSWER_EACH, *files, timeout=90).stdout.splitlines() == list(map(str, files))


_START_AT_ONCE = """
import os, sys, time
sys.path.insert(0, {project!r})
import torch
from parse_config import ConfigParser
from utils.runs.checkpoint import save_checkpoint
starts = time.monotonic() + 1
children = []
for number in range(50):
    child = os.fork()
    if child == 0:
        config = ConfigParser({{"name": "x", "trainer": {{"epochs": 1, "save_dir": {folder!r}}}}})
        time.sleep(max(0, starts - time.monotonic()))
        save_checkpoint({{"state_dict": {{}}, "epoch": number}}, config.save_dir / "checkpoint-epoch1.pth")
        config.get_logger("x").warning("this is %d", number)
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.slow
def test_fifty_runs_started_at_once_get_fifty_folders_and_lose_nothing(tmp_path):
    program = _START_AT_ONCE.format(project=str(PROJECT), folder=str(tmp_path))
    assert run_forked("-c", textwrap.dedent(program)).stdout.splitlines()[-1] == str([0] * 50)
    folders = list(tmp_path.glob("models/x/*"))
    epochs = [torch.load(path / "checkpoint-epoch1.pth", weights_only=True)["epoch"] for path in folders]
    assert sorted(epochs) == list(range(50))
    for folder, epoch in zip(folders, epochs, strict=True):
        log = tmp_path / "log" / "x" / folder.name / "info.log"
        assert log.read_text().count("this is") == 1 and f"this is {epoch}\n" in log.read_text()
        assert len(json.loads((folder / "environment.json").read_text())) == 1


_FLAGS = ["-c", "-r", "-d", "--set", "--lr", "--bs", "--check", "--print-config", "--epochs", "-x", "--", "--help"]
_VALUES = [
    "config.json",
    "latest",
    "auto",
    "nowhere",
    "cpu",
    "7",
    "trainer.epochs=2",
    "trainer.epochs=",
    "=",
    "a.b.c=1",
    "1e-3",
]


@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    strategies.lists(strategies.sampled_from(_FLAGS + _VALUES) | strategies.text(max_size=12), max_size=6)
)
def test_no_command_line_ends_in_a_traceback(monkeypatch, arguments):
    import argparse

    from parse_config import CustomArgs

    parser = argparse.ArgumentParser()
    for flags in (("-c", "--config"), ("-r", "--resume"), ("-d", "--device")):
        parser.add_argument(*flags)
    options = [
        CustomArgs(["--lr"], float, "optimizer;args;lr"),
        CustomArgs(["--bs"], int, "data_loader;args;batch_size"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *arguments])
        patch.chdir(PROJECT)
        try:
            ConfigParser.from_args(parser, options, parts=PARTS)
        except SystemExit as ended:
            assert ended.code in (0, 2)
