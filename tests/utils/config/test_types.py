import dataclasses
import gc
import importlib
import inspect
import traceback

import pytest
import torch

import data_loader.data_loaders
import model.loss
import model.metric
import model.model
import trainer.callbacks
import utils.config.types
from utils import UserError
from utils.config.check import imports_kept
from utils.config.components import OWN_SECTION, PARTS, Part
from utils.config.source import find_definition, public_names
from utils.config.types import argument_errors, call, find_in_source, resolve

MODULES = {
    "data_loader": data_loader.data_loaders,
    "arch": model.model,
    "optimizer": torch.optim,
    "loss": model.loss,
    "metrics": model.metric,
    "callbacks": trainer.callbacks,
}


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("arch", "MnistModel"),
        ("arch", "model.MnistModel"),
        ("arch", "model.model.MnistModel"),
        ("arch", "torch.nn.Linear"),
        ("arch", "torchvision.models.resnet18"),
        ("optimizer", "Adam"),
        ("optimizer", "torch.optim.AdamW"),
        ("loss", "nll_loss"),
        ("loss", "torch.nn.CrossEntropyLoss"),
        ("loss", "torch.nn.functional.cross_entropy"),
        ("metrics", "accuracy"),
        ("metrics", "torch.nn.functional.l1_loss"),
        ("metrics", "MacroF1"),
        ("metrics", "torchmetrics.classification.MulticlassF1Score"),
        ("metrics", "torchmetrics.F1Score"),
    ],
)
def test_names_that_fit_resolve(section, name):
    part = PARTS[section]
    assert find_in_source(name, part) is not None
    assert callable(resolve(name, MODULES[section], part))


@pytest.mark.parametrize(
    ("section", "name", "word"),
    [
        ("arch", "MnistModl", "did you mean 'MnistModel'"),
        ("arch", "mine.Net", "model"),
        ("arch", "torch.nn.Linaer", "did you mean 'torch.nn.Linear'"),
        ("arch", "torch.optim.Adam", "not allowed"),
        ("arch", "os.system", "model"),
        ("arch", "builtins.eval", "model"),
        ("arch", "torch.load", "not allowed"),
        ("arch", "torch.hub.load", "not allowed"),
        ("arch", "torch.utils.cpp_extension.load", "not allowed"),
        ("arch", "torch.nn.Module.__init__.__globals__", "is not a name"),
        ("arch", "__import__", "is not a name"),
        ("arch", "", "is not a name"),
        ("arch", "Mnist Model", "is not a name"),
        ("optimizer", "Adamm", "did you mean 'Adam'"),
        ("optimizer", "adamw.AdamW", "not allowed"),
        ("metrics", "torch.nn.Linear", "not allowed"),
        ("loss", "nll_los", "did you mean 'nll_loss'"),
        ("loss", "BCEWithLogitsLoss", "did you mean 'torch.nn.BCEWithLogitsLoss'"),
        ("loss", "mse_loss", "did you mean 'torch.nn.functional.mse_loss'"),
        ("arch", "resnet18", "did you mean 'torchvision.models.resnet18'"),
        ("metrics", "F1Score", "did you mean 'torchmetrics.F1Score'"),
        ("data_loader", "tables.TableDataLoder", "did you mean 'TableDataLoader'"),
        ("data_loader", "cifar10.Cifar10DataLodr", "did you mean 'examples.cifar_resnet.data.Cifar10DataLoader'"),
        ("callbacks", "EMAA", "did you mean 'EMA'"),
        ("callbacks", "Zzz", "; there are EMA, EarlyStopping, Freeze, GradientNorm, LearningRateMonitor, Param"),
        (
            "metrics",
            "torchmetrics.classification.MulticlasF1Score",
            "did you mean 'torchmetrics.classification.MulticlassF1Score'",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused_before_anything_is_imported(section, name, word):
    with pytest.raises(UserError, match=word.replace("(", ".")):
        find_in_source(name, PARTS[section])
    with pytest.raises(UserError, match=word.replace("(", ".")):
        resolve(name, MODULES[section], PARTS[section])


@pytest.mark.parametrize(
    ("section", "name", "word"),
    [
        ("arch", "torch.nn.functional.relu", "wrong kind of function"),
        ("arch", "torch.nn.Parameter", "wrong kind of class; a torch.nn.Module"),
        (
            "data_loader",
            "InMemoryDataset",
            "BaseDataLoader or base.data.streams.StreamDataLoader is needed: write one in",
        ),
        ("optimizer", "torch.optim.lr_scheduler.StepLR", "wrong kind of class; a torch.optim.Optimizer"),
        ("loss", "F", "neither a class nor a function"),
        ("arch", "torchvision.models.resnet.ResNet18_Weights", "wrong kind of class"),
        ("metrics", "torchmetrics.MetricCollection", "wrong kind of class; a torchmetrics.metric.Metric"),
        ("metrics", "torchmetrics.functional.accuracy", "wrong kind of function"),
    ],
)
def test_things_of_the_wrong_kind_are_refused(section, name, word):
    with pytest.raises(UserError, match=word):
        resolve(name, MODULES[section], PARTS[section])


def test_library_that_is_not_installed_is_told_before_anything_is_imported(monkeypatch):
    source_of = utils.config.types.source_of
    monkeypatch.setattr(utils.config.types, "source_of", lambda m: None if "torchmetrics" in m else source_of(m))
    with pytest.raises(UserError, match="not installed: pip install torchmetrics"):
        find_in_source("torchmetrics.F1Score", PARTS["metrics"])


def test_class_of_a_metric_must_have_its_methods(tmp_path, monkeypatch):
    methods = "".join(f"    def {name}(self): pass\n" for name in ("update", "reset", "state_dict"))
    source = f"class Half:\n{methods}class Whole(Half):\n    compute = load_state_dict = Half.update\n"
    part = dataclasses.replace(PARTS["metrics"], module=project(tmp_path, monkeypatch, source).module)
    lacking = "'Half' has no compute and no load_state_dict; a class here needs update, compute, reset,"
    module = importlib.import_module(part.module)
    with pytest.raises(UserError, match=lacking):
        resolve("Half", module, part)
    assert resolve("Whole", module, part) is module.Whole


def test_own_section_takes_what_the_script_passes_but_no_stranger():
    assert resolve("DataLoader", torch.utils.data, OWN_SECTION) is torch.utils.data.DataLoader
    assert resolve("torch.nn.Linear", model.model, OWN_SECTION) is torch.nn.Linear
    for name in ("torch.hub.load", "torch.nn.Parameter"):
        with pytest.raises(UserError):
            resolve(name, model.model, OWN_SECTION)


def test_an_unknown_name_lists_what_the_section_may_hold_of_the_ready_modules():
    with pytest.raises(UserError) as error:
        find_in_source("Zzz", PARTS["callbacks"])
    listed = str(error.value).partition("there are ")[2].split(", ")
    assert {"EMA", "SWA", "Profile", "SaveTopK"} <= set(listed) and not {"BaseCallback", "RunLength"} & set(listed)
    with pytest.raises(UserError, match=r"InMemoryDataset.*TableDataLoader, TextDataLoader") as error:
        find_in_source("Zzz", PARTS["data_loader"])
    assert "ImageFiles" not in str(error.value)


@pytest.mark.parametrize("name", ["tables.TableDataLoader", "data_loader.arrays.ArrayDataLoader"])
def test_own_section_takes_type_names_of_an_earlier_version(name):
    assert resolve(name, data_loader.data_loaders, OWN_SECTION).__name__ == name.rpartition(".")[2]
    with pytest.raises(UserError, match=r"has no 'TableDataLoder'; did you mean 'tables\.TableDataLoader'"):
        resolve("tables.TableDataLoder", data_loader.data_loaders, OWN_SECTION)


@pytest.mark.parametrize("name", ["Adam", "SGD", "AdamW", "LBFGS", "RMSprop"])
def test_signature_in_the_source_is_the_real_one(name):
    written = find_definition("torch.optim", name).parameters
    real = inspect.signature(getattr(torch.optim, name)).parameters
    assert [p.name for p in written] == list(real)
    assert [p.default is p.empty for p in written] == [p.default is p.empty for p in real.values()]
    assert [p.kind for p in written] == [p.kind for p in real.values()]


def test_every_public_optimizer_and_scheduler_of_torch_is_found():
    for module in (torch.optim, torch.optim.lr_scheduler):
        for name, found in vars(module).items():
            if inspect.isclass(found) and not name.startswith("_"):
                assert find_definition(module.__name__, name) is not None, name
    assert "Adam" in public_names("torch.optim")


def test_definition_that_cannot_be_read_is_left_to_the_real_look_up():
    assert find_definition("torch._C", "Anything").kind == "unsure"
    assert find_definition("torchvision.models", "resnet18").parameters is None  # decorated


def project(tmp_path, monkeypatch, source):
    """A room of a project, a folder in the search path whose name no other test uses."""
    room = tmp_path / tmp_path.name
    room.mkdir()
    (room / "__init__.py").touch()
    (room / "main.py").write_text(source)
    (room / "other.py").write_text("class Elsewhere:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Part(f"{room.name}.main")


def test_class_of_another_file_is_pointed_to(tmp_path, monkeypatch):
    part = project(tmp_path, monkeypatch, "")
    with pytest.raises(UserError, match=r"did you mean 'other.Elsewhere'"):
        find_in_source("Elsewhere", part)
    assert find_in_source("other.Elsewhere", part).kind == "class"


def test_names_in_branches_and_renamed_imports_are_found(tmp_path, monkeypatch):
    source = "try:\n    from .other import Elsewhere as There\nexcept ImportError:\n    class Fallback: pass\n"
    source += "Made = type('Made', (), {})\n"
    part = project(tmp_path, monkeypatch, source)
    kinds = [find_in_source(name, part).kind for name in ("There", "Fallback", "Made")]
    assert kinds == ["class", "class", "unsure"]
    with pytest.raises(UserError, match="has no 'Elsewher'"):
        find_in_source("Elsewher", part)


def test_names_made_at_run_time_are_not_called_missing(tmp_path, monkeypatch):
    part = project(tmp_path, monkeypatch, "globals()['Made'] = dict\n")
    assert find_in_source("Made", part).kind == "unsure"


@pytest.mark.parametrize(
    "line",
    ["for Made in (dict,): pass", "with open('x') as Made: pass", "match 1:\n    case Made: pass", "(Made := dict)"],
)
def test_names_bound_by_any_statement_are_found(tmp_path, monkeypatch, line):
    part = project(tmp_path, monkeypatch, f"{line}\n")
    assert find_in_source("Made", part).kind == "unsure"
    with pytest.raises(UserError, match="has no 'Maid'"):
        find_in_source("Maid", part)


@pytest.mark.parametrize("line", ["from os import system as Made", "from subprocess import Popen as Made"])
def test_names_that_a_room_imports_from_elsewhere_are_out_of_a_configs_reach(tmp_path, monkeypatch, line):
    part = project(tmp_path, monkeypatch, f"{line}\ndef own(): pass\nclass Own: pass\n")
    module = importlib.import_module(part.module)
    for kind in (part, dataclasses.replace(part, functions=True), OWN_SECTION):
        with pytest.raises(UserError, match="wrong kind"):
            resolve("Made", module, kind)
        assert resolve("Own", module, kind) is module.Own
    assert resolve("own", module, OWN_SECTION) is module.own


@pytest.mark.parametrize(("section", "base"), [("optimizer", "SGD"), ("lr_scheduler", "lr_scheduler.StepLR")])
def test_an_optimizer_or_schedule_of_the_project_is_named_in_full(tmp_path, monkeypatch, section, base):
    source = f"import torch\nclass Mine(torch.optim.{base}): pass\nclass No: pass\n"
    own, part = project(tmp_path, monkeypatch, source).module, PARTS[section]
    monkeypatch.setattr(utils.config.types, "_OWN_ROOMS", ("model", own.partition(".")[0]))
    assert find_in_source(f"{own}.Mine", part).kind == "class"
    module = importlib.import_module(part.module)
    assert resolve(f"{own}.Mine", module, part).__name__ == "Mine"
    with pytest.raises(UserError, match=r"wrong kind of class; a torch\.optim\..* is needed"):
        resolve(f"{own}.No", module, part)
    with pytest.raises(UserError, match=rf"give a name of {part.module}, or in full one of the project, such as "):
        resolve("mine.Mine", module, part)


def test_inherited_constructor_is_the_one_checked(tmp_path, monkeypatch):
    source = "class A:\n    def __init__(self, width, depth=2): pass\nclass B(A):\n    pass\n"
    part = project(tmp_path, monkeypatch, source)
    assert argument_errors(find_in_source("B", part).parameters, {"widht": 1}, 0) == [
        "widht: no such argument; did you mean 'width'?",
        "width: missing; it has no default",
    ]


def test_a_class_that_takes_the_name_of_its_base_is_read_without_end(tmp_path, monkeypatch):
    part = project(tmp_path, monkeypatch, "from .other import Elsewhere\nclass Elsewhere(Elsewhere):\n    pass\n")
    assert find_in_source("Elsewhere", part).kind == "class"


def test_a_relative_path_at_which_there_is_nothing_is_told_in_full(tmp_path, monkeypatch):
    def read(path):
        raise UserError(f"path: {path}: no such file") if path.endswith("csv") else FileNotFoundError(2, "none", path)

    monkeypatch.chdir(tmp_path)
    for given in ("data/x.csv", "data/x.png"):
        with pytest.raises(UserError, match=f"data_loader.*{given}.*; looked for at {tmp_path / given}$"):
            call("data_loader", read, (), {"path": given})
    (tmp_path / "x.csv").touch()  # it is there, so something else is wrong with it
    for given in ("x.csv", str(tmp_path / "y.csv"), "https://host/y.csv"):
        with pytest.raises(UserError, match=r"no such file$"):
            call("data_loader", read, (), {"path": given})


def test_the_name_of_a_column_is_not_looked_for_as_a_path():
    def read(target):
        raise UserError(f"row 60, column {target!r}: a value is missing")

    with pytest.raises(UserError, match=r"missing$"):
        call("data_loader", read, (), {"target": "label"})


def test_imports_are_made_without_collections_of_garbage_which_go_on_later():
    with imports_kept():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("kind", [RuntimeError, AttributeError, AssertionError])
def test_an_error_of_code_of_the_projects_own_names_the_place_in_the_config_last(kind):
    def broken():
        raise kind("trouble")

    with pytest.raises(kind, match="trouble") as caught:
        call("arch", broken, (), {})
    assert "".join(traceback.format_exception(caught.value)).endswith("\narch: raised while broken was built\n")


def test_a_loss_of_three_arguments_is_told_what_it_is_given(tmp_path, monkeypatch):
    part = dataclasses.replace(project(tmp_path, monkeypatch, "def own(output, time, event): pass\n"), functions=True)
    parameters = find_in_source("own", part).parameters
    assert argument_errors(parameters, {}, 2) == [
        "event: missing; it has no default, and a run passes (output, time) alone"
    ]
