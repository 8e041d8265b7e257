import copy
import json

import pytest
from pydantic import ValidationError

from utils.config.check import key_errors
from utils.config.schema import OTHER_LOADERS, SECTIONS, TrainerSettings
from utils.nearest import resembles

GOOD = {
    "name": "x",
    "arch": {"type": "M"},
    "data_loader": {"type": "L", "args": {"batch_size": 2}},
    "optimizer": {"type": "Adam"},
    "loss": "nll_loss",
    "metrics": ["accuracy", {"type": "top_k_acc", "args": {"k": 5}, "name": "top5"}],
    "lr_scheduler": {"type": "StepLR", "interval": "step"},
    "trainer": {"epochs": 2, "monitor": "max val_accuracy"},
}


def changed(path, value):
    config = copy.deepcopy(GOOD)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


def test_good_config_has_no_mistakes():
    assert key_errors(GOOD, whole=True) == ([], [])


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("trainer", "epocs"), 3, "trainer.epocs: no such key; did you mean 'epochs'?"),
        (("trainer", "save_freq"), 3, "trainer.save_freq: no such key; did you mean 'save_period'?"),
        (("optimiser",), {}, "optimiser: no such key; did you mean 'optimizer'?"),
        (("arch", "arg"), {}, "arch.arg: no such key; did you mean 'args'?"),
        (("metrics", 1, "nam"), "x", "metrics.1.nam: no such key; did you mean 'name'?"),
        (("trainer", "epochs"), 0, "trainer.epochs: got 0; it should be greater than or equal to 1"),
        (("trainer", "epochs"), "3", "trainer.epochs: got '3'; it should be an integer"),
        (("trainer", "epochs"), True, "trainer.epochs: got True; it should be an integer"),
        (("trainer", "monitor"), "val_loss", "trainer.monitor: got 'val_loss'; it should be 'off', 'min <name>'"),
        (("trainer", "verbosity"), 3, "trainer.verbosity: got 3; it should be less than or equal to 2"),
        (("trainer",), [], "trainer: got []; it should be an object"),
        (("arch",), "M", "arch: got 'M'; it should be an object such as"),
        (("loss",), 3, "loss: got 3"),
        (("metrics", 0), {"args": {}}, "metrics.0.type: missing"),
        (("name",), "../x", "name: got '../x'; a name becomes a folder's"),
        (("name",), "..", "name: got '..'"),
        (("metrics", 1, "name"), "epoch", "metrics.1.name: got 'epoch'; a metric's name is"),
        (("metrics", 1, "name"), "val_loss", "metrics.1.name: got 'val_loss'"),
        (("metrics", 1, "name"), "a b", "metrics.1.name: got 'a b'"),
        (("device",), "gpu", "device: got 'gpu'; it should be 'auto'"),
        (("seed",), -1, "seed: got -1"),
    ],
)
def test_each_mistake_is_one_line_with_path_and_remedy(path, value, line):
    mistakes, _ = key_errors(changed(path, value), whole=True)
    assert len(mistakes) == 1 and mistakes[0].startswith(line)


def test_missing_sections_are_all_named():
    mistakes, _ = key_errors({}, whole=True)
    assert [line.split(":")[0] for line in mistakes] == ["arch", "data_loader", "optimizer", "loss", "trainer"]


def test_numbered_name_without_the_bare_one_is_a_mistake_for_our_scripts():
    config = {key: value for key, value in GOOD.items() if key != "arch"} | {"arch1": {"type": "M"}}
    assert key_errors(config, whole=True)[0] == ["arch1: no such key; did you mean 'arch'?"]
    assert key_errors(config, whole=False) == ([], ["arch1"])


def test_own_keys_are_kept_and_listed_or_refused_when_strict():
    own = ["arch2", "train_loader", "trainer.warmup", "trainer.percent"]
    config = {**GOOD, "arch2": {}, "train_loader": {}, "trainer": {**GOOD["trainer"], "warmup": 1, "percent": 2}}
    assert key_errors(config, whole=True) == ([], own)
    mistakes, _ = key_errors({**config, "strict": True}, whole=True)
    assert [line.split(":")[0] for line in mistakes] == own


def test_project_with_its_own_script_may_shape_its_sections():
    config = {"loss": ["a", "b"], "optimizer": {"generator": {}}, "data_loader": None, "trainer": {"epochs": 1}}
    assert key_errors(config, whole=False) == ([], [])
    assert key_errors({**config, "trainer": {"epochs": 0}}, whole=False)[0]


@pytest.mark.parametrize(
    "name",
    [
        "train_loader",
        "arch1",
        "optimizer2",
        "lr_scheduler_G",
        "warmup",
        "seq_len",
        "percent",
        "mlflow",
        "dataset",
        "visdom",
    ],
)
def test_names_that_old_projects_use_resemble_no_key(name):
    assert resembles(name, [key for key in SECTIONS if key not in (name, *OTHER_LOADERS)]) is None
    assert resembles(name, list(TrainerSettings.model_fields)) is None


def test_a_valid_loader_is_a_misspelling_only_for_our_own_scripts():
    config = {**GOOD, "valid_loader": {"type": "Mine"}}
    assert key_errors(config, whole=False) == ([], ["valid_loader"])
    assert key_errors(config, whole=True)[0] == ["valid_loader: no such key; did you mean 'valid_data_loader'?"]


def test_known_names_beside_a_lookalike_are_the_projects_own_without_our_scripts():
    config = {**GOOD, "losses": [], "optimizers": {}, "$schema": "x", "device": 0, "seed": None}
    assert key_errors(config, whole=False) == ([], ["losses", "optimizers"])
    assert [line.split(":")[0] for line in key_errors(config, whole=True)[0]][:2] == ["losses", "optimizers"]


@pytest.mark.parametrize("name", ["Mnist (v2)", "lr=0.1,bs=32", "a b", "x.y"])
def test_a_name_may_be_any_folders_name(name):
    assert key_errors(changed(("name",), name), whole=True) == ([], [])


def test_every_key_is_described():
    for model in (TrainerSettings,):
        assert all(field.description for field in model.model_fields.values())
    json.dumps(TrainerSettings.model_json_schema())


def test_rules_are_asked_beside_values_of_a_wrong_form_and_all_errors_come_at_once():
    trainer = {"epochs": 0, "precision": "fp16", "limit_train_batches": 2, "len_epoch": 3, "monitor": "max loss"}
    plateau = {"type": "ReduceLROnPlateau", "warmup": 2, "interval": "never"}
    config = {**GOOD, "n_gpu": 0, "seed": -1, "trainer": trainer, "lr_scheduler": plateau}
    errors, _ = key_errors(config, whole=True)
    assert [line.partition(":")[0] for line in errors] == [
        "seed",
        "lr_scheduler.interval",
        "lr_scheduler.warmup",
        "trainer.epochs",
        "trainer.limit_train_batches",
        "trainer.precision",
        "lr_scheduler.args.mode",
    ]


def test_settings_that_contradict_each_other_are_refused_by_the_model_itself():
    for settings in ({"limit_train_batches": 2, "len_epoch": 3}, {"compile": "max-autotune", "accumulate": 2}):
        with pytest.raises(ValidationError):
            TrainerSettings(epochs=1, **settings)
        assert len(key_errors({"trainer": {"epochs": 1, **settings}}, whole=False)[0]) == 1
