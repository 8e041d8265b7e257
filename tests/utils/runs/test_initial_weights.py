"""Weights from a file into a model: renamed, partly, and with a word on each entry that does not fit."""

import copy
from argparse import Namespace

import pytest
import torch
from forked import run_forked

from helpers import PROJECT, SHORT, copy_project, run_here, same, tiny_config
from parse_config import PARTS, ConfigParser
from train import build
from utils import UserError
from utils.config.command_line import read_command_line
from utils.config.files import read_config
from utils.files import read_json, write_json
from utils.runs.checkpoint import load_checkpoint, save_checkpoint
from utils.runs.initial_weights import load_initial_weights, other_meanings

torchvision = pytest.importorskip("torchvision")


class Net(torch.nn.Module):
    def __init__(self, classes=3, width=4):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width))
        self.head = torch.nn.Linear(width, classes)
        self.head2 = torch.nn.Linear(width, 1)


@pytest.fixture
def source():
    torch.manual_seed(1)
    return Net()


def saved(state, folder, name="weights.pth"):
    torch.save(state, folder / name)
    return folder / name


def mistakes(*args, **kwargs):
    with pytest.raises(UserError) as error:
        load_initial_weights(*args, **kwargs)
    return [line.removeprefix("init_weights: ") for line in str(error.value).splitlines()]


@pytest.mark.parametrize("form", ["alone", "checkpoint", "wrapped", "ours", "safetensors"])
def test_all_forms_of_a_file_are_read(tmp_path, source, form):
    state = source.state_dict()
    if form == "ours":
        save_checkpoint({"state_dict": state, "epoch": 3}, path := tmp_path / "checkpoint-epoch3.pth")
    elif form == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state, path := tmp_path / "weights.safetensors")
    else:
        wrapped = {f"module.{name}": value for name, value in state.items()}
        path = saved({"alone": state, "checkpoint": {"state_dict": state}, "wrapped": wrapped}[form], tmp_path)
    model = Net()
    told = load_initial_weights(model, path)
    assert (
        same(model.state_dict(), dict(state)) and told == f"weights of {path}: taken for 11 of the model's 11 entries"
    )


def test_a_replaced_head_stays_as_it_is_initialised(tmp_path, source):
    model = Net(classes=7)
    before = model.head.weight.clone()
    told = load_initial_weights(model, saved(source.state_dict(), tmp_path), skip=["head.*"])
    assert torch.equal(model.head.weight, before) and same(model.body.state_dict(), source.body.state_dict())
    assert same(model.head2.state_dict(), source.head2.state_dict())
    assert "left as initialised: head.weight, head.bias" in told and "taken for 9 of the model's 11" in told


def test_names_are_changed_one_pattern_after_the_other(tmp_path, source):
    state = {f"net.{name.replace('head', 'fc')}": value for name, value in source.state_dict().items()}
    model = Net()
    load_initial_weights(model, saved(state, tmp_path), rename={r"^net\.": "", r"fc(\d?)": r"head\1"})
    assert same(model.state_dict(), dict(source.state_dict()))


def test_part_of_a_file_and_of_a_model_with_strict_off_is_reported(tmp_path, source):
    state = {f"{'x' * (name[:4] == 'head')}{name}": value for name, value in source.state_dict().items()}
    told = load_initial_weights(Net(), saved(state, tmp_path), strict=False)
    assert "left as initialised: head.weight, head.bias, head2.weight, head2.bias" in told
    assert "not used: xhead.weight, xhead.bias, xhead2.weight, xhead2.bias" in told


def test_files_from_before_batch_norm_counted_batches_fit(tmp_path, source):
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    assert "taken for 10 of the model's 11" in load_initial_weights(Net(), saved(state, tmp_path))


def test_all_shapes_that_do_not_fit_are_told_at_once_and_the_model_is_untouched(tmp_path, source):
    model = Net(classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert mistakes(model, saved(source.state_dict(), tmp_path), strict=False) == [
        f"head.{name} is {was} in weights.pth and {now} in the model; "
        r'to leave it as it is initialised: "skip": ["head.*"]'
        for name, was, now in (("weight", (3, 4), (5, 4)), ("bias", (3,), (5,)))
    ]
    assert same(model.state_dict(), before)


def test_missing_and_unexpected_names_are_told_with_the_rename_that_would_do(tmp_path, source):
    state = source.state_dict()
    longer = saved({f"net.backbone.{name}": value for name, value in state.items()}, tmp_path, "longer.pth")
    told = mistakes(Net(), longer)
    assert told[0].startswith("not in longer.pth: body.0.weight, body.0.bias, body.1.weight, ")
    assert told[0].endswith(r' and 5 more; "rename": {"^net\\.backbone\\.": ""} would do')
    assert told[1].startswith("not in the model Net: net.backbone.body.0.weight, ")
    inner = saved(source.body.state_dict(), tmp_path, "inner.pth")
    assert mistakes(Net(), inner, skip=["head*"])[0].endswith('; "rename": {"^": "body."} would do')
    load_initial_weights(Net(), inner, skip=["head*"], rename={"^": "body."})


def test_patterns_that_match_nothing_are_refused_with_the_nearest_name(tmp_path, source):
    told = mistakes(Net(), saved(source.state_dict(), tmp_path), skip=["heat.*"], rename={r"^backbone\.": ""})
    assert told == [
        r"init_weights.rename: '^backbone\\.' matches no name; they begin with body, head, head2",
        "init_weights.skip: no parameter is called 'heat.*'; is 'head.bias' meant?",
    ]


@pytest.mark.parametrize(
    ("rename", "mistake"),
    [
        ({r"^head2?": "head"}, "two entries are renamed to 'head.weight'"),
        ({r"^head": r"\3"}, r"'\\3' cannot replace '^head': invalid group reference 3"),
    ],
)
def test_renames_that_cannot_be_are_refused(tmp_path, source, rename, mistake):
    assert any(
        line.startswith(f"init_weights.rename: {mistake}")
        for line in mistakes(Net(), saved(source.state_dict(), tmp_path), rename=rename)
    )


def test_a_file_of_which_nothing_is_used_is_refused(tmp_path, source):
    assert mistakes(Net(), saved({"x": torch.ones(1)}, tmp_path), strict=False)[-1] == (
        "nothing of weights.pth is left to be used"
    )


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": Evil()}}, path)
    with pytest.raises(UserError, match=r"^init_weights.path: .*evil.pth: refused: it refers to"):
        load_initial_weights(Net(), path)


def test_a_model_of_torchvision_takes_a_local_file_with_a_new_head(tmp_path):
    torch.manual_seed(0)
    original = torchvision.models.squeezenet1_1(num_classes=6)
    path = saved(original.state_dict(), tmp_path)
    arch = {"type": "torchvision.models.squeezenet1_1", "args": {"num_classes": 4}}
    section = {"path": str(path), "skip": ["classifier.1.*"]}
    config = ConfigParser({**read_config(PROJECT / "config.json"), "arch": arch, "init_weights": section}, parts=PARTS)
    import model.model as module

    model = config.init_obj("arch", module)
    load_initial_weights(model, **config["init_weights"])
    assert same(model.features.state_dict(), original.features.state_dict()) and len(model.classifier[1].bias) == 4


@pytest.mark.parametrize(
    ("section", "mistake"),
    [
        ({"path": "none.pth"}, "init_weights.path: there is no file none.pth"),
        ({"path": "README.md", "rename": {"[": ""}}, r"init_weights.rename: '\[' is not a regular expression"),
        ({"path": "README.md", "skp": []}, r"init_weights.skp: no such key; did you mean 'skip'\?"),
        ({"path": "README.md", "skip": "fc"}, "init_weights.skip: got 'fc'; it should be a list"),
        ({}, "init_weights.path: missing"),
        ("a.pth", "init_weights: got 'a.pth'; it should be an object"),
    ],
)
def test_mistakes_are_found_before_torch_is_there(section, mistake, monkeypatch):
    monkeypatch.chdir(PROJECT)
    with pytest.raises(UserError, match=mistake):
        ConfigParser({**read_config("config.json"), "init_weights": section}, parts=PARTS)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a run of one short epoch."""
    folder = copy_project(tmp_path_factory.mktemp("fine") / "project")
    run_here("train.py", "-c", "config.json", *SHORT, cwd=folder)
    return folder


def newest_run(folder, job=None):
    job = job or read_json(folder / "config.json")["name"]
    return max((folder / "saved/models" / job).iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.slow
def test_weights_only_is_a_new_run_from_epoch_1_and_goes_on_without_the_file(project):
    before = newest_run(project)
    source = before / "checkpoint-epoch1.pth"
    two = (*SHORT, "--set", "trainer.epochs=2", "--set", "trainer.tensorboard=false")
    told = run_here("train.py", "-r", source, "--weights-only", *two, cwd=project).stdout
    assert "taken for 8 of the model's 8 entries" in told and "epoch 1/2" in told
    straight = newest_run(project)
    assert straight != before and read_json(straight / "config.json")["init_weights"] == {"path": str(source)}

    write_json(
        {"base": "config.json", "name": "again", "init_weights": {"path": "weights.pth"}}, project / "again.json"
    )
    (project / "weights.pth").write_bytes(source.read_bytes())
    stop = (
        "import sys, runpy; from base.base_trainer import BaseTrainer as B; run = B._finish_epoch\n"
        'def stop(self, *a, **k):\n    self.stop("enough")\n    return run(self, *a, **k)\n'
        'B._finish_epoch = stop; sys.argv = sys.argv[1:]; runpy.run_path("train.py", run_name="__main__")'
    )
    run_forked("-c", stop, "train.py", "-c", "again.json", *two, cwd=project)
    (project / "weights.pth").unlink()
    told = run_here("train.py", "-c", "again.json", "--check", cwd=project, status=2).stderr
    assert "there is no file weights.pth" in told
    run_here("train.py", "-c", "again.json", "-r", "auto", *two, "--set", "description=goes on", cwd=project)
    left, right = (
        load_checkpoint(folder / "checkpoint-epoch2.pth") for folder in (straight, newest_run(project, "again"))
    )
    for key in ("state_dict", "optimizer", "rng", "step", "monitor_best"):
        assert same(left[key], right[key]), key
    assert left["log"]["epoch"] == 2 and left["step"] == 10


@pytest.fixture
def command(tmp_path):
    """Read a command line in-process; the checkpoint that it may resume from began with the weights a.pth itself."""
    save_checkpoint(
        {"state_dict": {}, "config": {"init_weights": {"path": "a.pth", "skip": ["x"]}}}, tmp_path / "c.pth"
    )

    def read(section, resume=tmp_path / "c.pth", weights_only=True):
        write_json({"init_weights": section} if section else {"n_gpu": 0}, tmp_path / "given.json")
        resume = resume and str(resume)
        given = Namespace(config=str(tmp_path / "given.json"), resume=resume, weights_only=weights_only)
        return read_command_line(given, ())

    return read


def test_weights_only_names_the_checkpoint_and_takes_what_the_config_says_of_it(command, tmp_path):
    path = str(tmp_path / "c.pth")
    assert command(None).config == {"n_gpu": 0, "init_weights": {"path": path}} and command(None).resume is None
    assert command({"skip": ["fc"]}).config["init_weights"] == {"path": path, "skip": ["fc"]}
    assert command([3]).config["init_weights"] == [3]  # which the check of the config refuses


def test_two_sources_of_weights_are_refused(command):
    with pytest.raises(UserError, match=r"init_weights.path: got 'b.pth', but -r names the weights already"):
        command({"path": "b.pth"})
    with pytest.raises(UserError, match=r"init_weights.path: got 'b.pth', but -r names the weights already"):
        command({"path": "b.pth"}, weights_only=False)
    command({"path": "a.pth"}, weights_only=False)  # with which the run has begun


@pytest.mark.parametrize("resume", [None, "auto"])
def test_weights_only_needs_a_checkpoint(command, resume):
    with pytest.raises(UserError, match=r"--weights-only: needs a checkpoint with -r"):
        command(None, resume=resume)


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        ({"(a+)+$": ""}, r"the patterns take more than 0.05 seconds; make them simpler"),
        ({"a": "aaaaaaaaaa", "^": "", "a+": r"\g<0>" * 30}, "an entry of the file has a name of more than 1,000"),
        ({"a": "b" * 201}, r"rename: got .*; it should be at most 100 patterns"),
        ({f"a{i}": "" for i in range(101)}, r"rename: got .*; it should be at most 100 patterns"),
    ],
)
def test_renaming_comes_to_an_end(tmp_path, monkeypatch, source, rename, told):
    monkeypatch.setattr("utils.patterns._SECONDS", 0.05)
    path = saved({"a" * 40 + "!": torch.zeros(1)}, tmp_path)
    with pytest.raises(UserError, match=f"^init_weights.*{told}"):
        load_initial_weights(source, path, rename=rename)


def test_names_in_a_file_are_shown_in_one_line(tmp_path, source):
    odd = {"body.0.weight\x1b[2J": torch.zeros(1), **source.state_dict(), "head.bias": torch.zeros(9)}
    lines = mistakes(source, saved(odd, tmp_path, "a\nb.pth"))
    assert len(lines) == 1 and lines[0].isprintable()
    (line,) = mistakes(source, saved(odd, tmp_path))
    assert line.isprintable() and "holds control characters" in line


@pytest.mark.parametrize(
    ("classes", "skip", "differs"),
    [
        (["high", "low", "mid"], [], False),
        (["high", "low", "mid", "top"], [], False),  # a further class changes no number
        (["high", "mid", "zlow"], [], True),
        (["high", "low"], [], True),
        (["high", "mid", "zlow"], ["head.*"], False),
        (None, [], False),
    ],
)
def test_classes_of_other_numbers_than_those_of_the_weights_are_named(tmp_path, source, classes, skip, differs):
    loader = {"classes": ["high", "low", "mid"]}
    content = {"state_dict": source.state_dict(), "epoch": 1, "attributes": {"data_loader": loader}}
    save_checkpoint(content, path := tmp_path / "model_best.pth")
    load_initial_weights(model := copy.deepcopy(source), path)
    lines = list(other_meanings(model, {"path": str(path), "skip": skip}, {"classes": classes}))
    start = f"init_weights: the classes of model_best.pth are {loader['classes']}, and those of the data {classes}: "
    assert [line.startswith(start) for line in lines] == [True] * differs


@pytest.mark.parametrize(
    ("towns", "differs"),
    [(["Bonn", "Ulm"], False), (["Bonn", "Ulm", "Zell"], False), (["Aachen", "Bonn", "Ulm"], True), (["Ulm"], True)],
)
def test_a_table_whose_codes_are_others_than_those_of_the_weights_says_so_at_the_start_of_a_run(
    tmp_path, capsys, towns, differs
):
    def table(name, towns):
        rows = [f"{towns[i % len(towns)]},{i % 7},{i % 2}" for i in range(40)]
        (tmp_path / name).write_text("\n".join(["town,rooms,sold", *rows]))
        return str(tmp_path / name)

    def trained(path, **changes):
        config = (
            tiny_config(tmp_path, epochs=1, verbosity=2)
            | {
                "arch": {"type": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 2}},
                "data_loader": {
                    "type": "TableDataLoader",
                    "args": {
                        "path": path,
                        "target": "sold",
                        "task": "classification",
                        "numeric": ["rooms"],
                        "categorical": ["town"],
                        "batch_size": 8,
                    },
                },
                "loss": "cross_entropy",
                "metrics": [],
            }
            | changes
        )
        trainer = build(ConfigParser(config, parts=PARTS))
        trainer.train()
        return trainer.checkpoint_dir / "checkpoint-epoch1.pth"

    weights = trained(table("old.csv", ["Bonn", "Ulm"]))
    assert "stand for" not in "".join(capsys.readouterr())
    trained(table("new.csv", towns), init_weights={"path": str(weights)})
    said = f"init_weights: the codes of column 'town' stand for ['Bonn', 'Ulm'] in {weights.name}, and for {towns}"
    assert (said in "".join(capsys.readouterr())) == differs
