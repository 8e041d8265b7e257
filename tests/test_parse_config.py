import json
from pathlib import Path

import pytest
import torch
from job_configs import CONFIG, config

import model.loss
import model.metric
import model.model
from helpers import PROJECT
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.config.check import check_config
from utils.files import read_json
from utils.runs.checkpoint import save_checkpoint


def test_reads_like_a_dict():
    parsed = ConfigParser(config(extra={"a": 1}))
    assert parsed["extra"] == {"a": 1} and "extra" in parsed and "none" not in parsed
    assert parsed.get("none", 5) == 5 and parsed.config["name"] == "job" and parsed.resume is None
    assert parsed.own_keys == ["extra"]


def test_given_dict_is_not_changed():
    given = config()
    ConfigParser(given, modification={"optimizer;args;lr": 0.5})
    assert given == CONFIG


def test_modification_skips_none():
    parsed = ConfigParser(config(), modification={"optimizer;args;lr": 0.5, "trainer.epochs": None, ("name",): "n"})
    assert parsed["optimizer"]["args"]["lr"] == 0.5 and parsed["trainer"]["epochs"] == 2 and parsed["name"] == "n"


def test_builds_objects_by_name():
    parsed = ConfigParser(config(), parts=PARTS)
    network = parsed.init_obj("arch", model.model)
    assert network.fc2.out_features == 3
    optimizer = parsed.init_obj("optimizer", torch.optim, network.parameters())
    assert optimizer.defaults["lr"] == 0.1
    half = parsed.init_ftn("optimizer", torch.optim, weight_decay=0.5)
    assert half(network.parameters()).defaults["weight_decay"] == 0.5


@pytest.mark.old_defect(18)
def test_loss_and_metrics_take_arguments():
    output, target = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]).log(), torch.tensor([1, 2])
    parsed = ConfigParser(
        config(loss={"type": "torch.nn.CrossEntropyLoss", "args": {"label_smoothing": 0.1}}), parts=PARTS
    )
    assert parsed.init_loss(model.loss).label_smoothing == 0.1
    metrics = parsed.init_metrics(model.metric)
    assert [metric.__name__ for metric in metrics] == ["accuracy", "top2"]
    assert [metric(output, target).item() for metric in metrics] == [0.0, 0.5]
    plain = ConfigParser(config(), parts=PARTS).init_loss(model.loss)
    assert plain(output, target) == torch.nn.functional.nll_loss(output, target)


@pytest.mark.parametrize("name", ["torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy"])
def test_class_weights_are_given_as_a_list(name):
    output, target = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0, 1])
    parsed = ConfigParser(config(loss={"type": name, "args": {"weight": [1, 3.0]}}), parts=PARTS)
    expected = torch.nn.functional.cross_entropy(output, target, weight=torch.tensor([1.0, 3.0]))
    assert parsed.init_loss(model.loss)(output, target) == expected
    assert parsed["loss"]["args"] == {"weight": [1, 3.0]}  # what a checkpoint keeps


def test_a_rate_is_a_number_though_torch_takes_a_tensor():
    with pytest.raises(UserError, match=r"optimizer.args.lr: got \[0.1\]; it should be a number$"):
        check_config(config(optimizer={"type": "Adam", "args": {"lr": [0.1]}}), PARTS)


def test_argument_given_twice_is_refused():
    with pytest.raises(UserError, match=r"arch.args.num_classes: given in the config and by the script"):
        ConfigParser(config()).init_obj("arch", model.model, num_classes=4)


def test_what_a_library_class_refuses_names_the_section():
    parsed = ConfigParser(config(optimizer={"type": "Adam", "args": {"lr": -1.0}}), parts=PARTS)
    with pytest.raises(UserError, match=r"optimizer.args: Adam: Invalid learning rate: -1.0"):
        parsed.init_obj("optimizer", torch.optim, [torch.zeros(1, requires_grad=True)])


def test_all_mistakes_come_at_once():
    wrong = config(
        arch={"type": "MnistModl"},
        optimizer={"type": "Adam", "args": {"lrr": 1, "eps": "x"}},
        loss="nl_loss",
        metrics=["accuracy", "acuracy"],
        lr_scheduler={"type": "StepLR", "args": {}},
        trainer={"epocs": 1, "monitor": "min val_los"},
    )
    with pytest.raises(UserError) as caught:
        ConfigParser(wrong, parts=PARTS)
    places = {line.split(":")[0] for line in str(caught.value).splitlines()}
    assert places == {
        "arch.type",
        "optimizer.args.lrr",
        "optimizer.args.eps",
        "loss.type",
        "metrics.1.type",
        "lr_scheduler.args.step_size",
        "trainer.epocs",
        "trainer.monitor",
    }


@pytest.mark.old_defect(11)
def test_a_misspelt_metric_is_told_once_and_not_by_what_monitors_it():
    given = config(metrics=["acuracy"], trainer={"epochs": 1, "monitor": "max val_accuracy"})
    with pytest.raises(UserError) as told:
        ConfigParser(given, parts=PARTS)
    assert str(told.value) == "metrics.0.type: model.metric has no 'acuracy'; did you mean 'accuracy'?"
    given["metrics"] = ["right"]
    given["trainer"]["monitor"] = "max val_accuracy"
    with pytest.raises(UserError) as told:
        ConfigParser(given, parts=PARTS)
    assert [line.partition(":")[0] for line in str(told.value).splitlines()] == ["metrics.0.type"]
    given["trainer"]["monitor"] = "min val_los"  # another mistake
    with pytest.raises(UserError) as told:
        ConfigParser(given, parts=PARTS)
    assert [line.partition(":")[0] for line in str(told.value).splitlines()] == ["metrics.0.type", "trainer.monitor"]


@pytest.mark.parametrize(
    ("monitor", "split", "fits"),
    [
        ("min val_loss", 0.1, True),
        ("max val_top2", 0.1, True),
        ("max top2", 0.0, True),
        ("min val_loss", 0.0, False),
        ("max val_top_k_acc", 0.1, False),
        ("max val_acc", 0.1, False),
    ],
)
def test_monitor_must_name_what_will_be_logged(monitor, split, fits):
    given = config(trainer={"epochs": 1, "monitor": monitor})
    given["data_loader"]["args"]["validation_split"] = split
    if fits:
        ConfigParser(given, parts=PARTS)
        return
    with pytest.raises(UserError, match=r"^trainer.monitor: nothing called .* is logged"):
        ConfigParser(given, parts=PARTS)


def test_a_metrics_name_that_is_no_text_is_told_in_words():
    with pytest.raises(UserError, match=r"^metrics.0.name: got \['a'\]; it should be a string$"):
        ConfigParser(config(metrics=[{"type": "accuracy", "name": ["a"]}]), parts=PARTS)


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(UserError, match="two are called 'accuracy'"):
        ConfigParser(config(metrics=["accuracy", {"type": "accuracy"}]), parts=PARTS)


def test_a_misspelt_key_beside_the_right_one_is_told_its_name():
    with pytest.raises(UserError, match=r"^data_loder: no such key; did you mean 'data_loader'\?$"):
        ConfigParser(config(data_loder={}), parts=PARTS)


def test_names_that_a_trainer_of_ones_own_logs_can_be_declared():
    given = config(trainer={"epochs": 1, "monitor": "max val_f1"})
    ConfigParser(given, parts=PARTS, also_logged=["val_f1"])
    ConfigParser(given, parts=PARTS, also_logged=None)
    ConfigParser(config(trainer={**given["trainer"], "also_logged": ["val_f1"]}), parts=PARTS)
    with pytest.raises(UserError, match=r"^trainer.also_logged.0: got 1; "):
        ConfigParser(config(trainer={**given["trainer"], "also_logged": [1]}), parts=PARTS)
    with pytest.raises(UserError, match=r"val_f1.*; trainer.also_logged names what"):
        ConfigParser(given, parts=PARTS)


def test_without_parts_sections_are_the_projects_own():
    odd = {
        "name": "x",
        "loss": ["a"],
        "train_loader": {},
        "optimizer": {"g": {}},
        "trainer": {"epochs": 1, "warmup": 3},
    }
    assert ConfigParser(odd).own_keys == ["train_loader", "trainer.warmup"]


@pytest.mark.parametrize(
    ("section", "monitor", "word"),
    [
        (
            {"args": {}},
            "max val_accuracy",
            "lr_scheduler.args.mode: got 'min', but trainer.monitor is 'max val_accuracy'",
        ),
        ({"args": {"mode": "max"}}, "min val_loss", "lr_scheduler.args.mode: got 'max'"),
        ({"interval": "step"}, "off", "lr_scheduler.interval"),
        ({"type": "StepLR", "args": {"step_size": 1}, "monitor": "loss"}, "off", "lr_scheduler.monitor: only"),
    ],
)
def test_plateau_settings_that_contradict_are_refused(section, monitor, word):
    scheduler = {"type": "ReduceLROnPlateau", **section}
    with pytest.raises(UserError, match=word):
        ConfigParser(config(lr_scheduler=scheduler, trainer={"epochs": 1, "monitor": monitor}), parts=PARTS)
    ConfigParser(config(lr_scheduler={"type": "ReduceLROnPlateau", "monitor": "loss"}), parts=PARTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "64"),
        ("batch_size", 1.5),
        ("num_workers", -1),
        ("validation_split", 1.0),
        ("validation_split", -0.1),
        ("validation_split", -3),
    ],
)
def test_loader_values_that_cannot_be_are_found_before_any_data(key, value):
    given = config()
    given["data_loader"]["args"][key] = value
    with pytest.raises(UserError, match=f"data_loader.args.{key}: got {value!r}") as told:
        ConfigParser(given, parts=PARTS)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "other", "word"),
    [
        ({"fold": "6/5"}, {}, "data_loader.args.fold: got '6/5'; give one of at least two"),
        (
            {"fold": "1/5", "validation_split": 0.1},
            {},
            "data_loader.args.fold: validation_split sets samples aside too",
        ),
        ({"fold": "1/5"}, {"batch_size": 8}, "valid_data_loader: .*; leave data_loader.args.fold out, or this"),
        (
            {"validation_split": 0.1},
            {"batch_size": 8},
            "valid_data_loader: .*; leave data_loader.args.validation_split",
        ),
        ({}, {"batch_size": 8, "fold": "1/5"}, "valid_data_loader.args.fold: all its samples are validated on"),
        ({}, {"batch_size": 0}, "valid_data_loader.args.batch_size: got 0"),
        ({}, {"bach_size": 8}, "valid_data_loader.args.bach_size: no such argument; did you mean 'batch_size'"),
    ],
)
def test_contradictions_of_what_is_validated_on_are_found_before_any_data(args, other, word):
    loader = {"type": "MnistDataLoader", "args": {"data_dir": "data/", "batch_size": 4, **args}}
    given = config(data_loader=loader)
    if other:
        given["valid_data_loader"] = {
            "type": "MnistDataLoader",
            "args": {"data_dir": "data/", "batch_size": 4, **other},
        }
    with pytest.raises(UserError, match=word):
        ConfigParser(given, parts=PARTS)


@pytest.mark.parametrize("how", [{"fold": "1/5"}, {"validation_split": 0.1}, None])
def test_validation_values_can_be_monitored_whatever_they_come_from(how):
    args = {"data_dir": "data/", "batch_size": 4}
    given = config(data_loader={"type": "MnistDataLoader", "args": {**args, **(how or {})}})
    given["trainer"]["monitor"] = "min val_loss"
    if how is None:
        with pytest.raises(UserError, match=r"nothing called 'val_loss' is logged; .* there is no valid_data_loader"):
            ConfigParser(given, parts=PARTS)
        given["valid_data_loader"] = {"type": "MnistDataLoader", "args": args}
    assert ConfigParser(given, parts=PARTS)["trainer"]["monitor"] == "min val_loss"


def test_a_project_with_scripts_of_its_own_may_have_loaders_of_its_own():
    names = ("train_loader", "valid_loader", "test_loader", "val_data_loader")
    assert ConfigParser(config(**{name: {"file": "x"} for name in names})).own_keys == list(names)
    with pytest.raises(UserError, match="test_loader: no such key; did you mean 'test_data_loader'"):
        ConfigParser(config(test_loader={}), parts=PARTS)


@pytest.mark.old_defect(17)
def test_run_folder_is_made_when_asked_for_and_no_two_runs_share_it(tmp_path):
    given = config(trainer={"epochs": 1, "save_dir": str(tmp_path / "saved")})
    parsed = [ConfigParser(given) for _ in range(5)]
    assert not (tmp_path / "saved").exists()
    assert len({run.save_dir for run in parsed}) == 5 and len({run.log_dir for run in parsed}) == 5
    first = parsed[0]
    assert first.save_dir.parent == tmp_path / "saved/models/job" and first.log_dir.parent == tmp_path / "saved/log/job"
    assert len(first.save_dir.name.split("_")[0]) == 8  # the year is in it
    assert read_json(first.save_dir / "config.json") == given
    start = read_json(first.save_dir / "environment.json")[0]
    assert start["libraries"]["torch"] == torch.__version__.split("+")[0] and start["host"] and start["command"]


@pytest.mark.parametrize("content", ["5", "{", "null", "", "[5]", "[" * 100_000])
def test_a_record_of_starts_that_is_damaged_is_set_aside_and_keeps_no_run_from_resuming(tmp_path, content):
    first = config(trainer={"epochs": 1, "save_dir": str(tmp_path)})
    folder = ConfigParser(first).save_dir
    save_checkpoint({"state_dict": {}, "config": first}, folder / "checkpoint-epoch1.pth")
    (folder / "environment.json").write_text(content)
    resumed = ConfigParser(first, resume=folder / "checkpoint-epoch1.pth")
    told = (resumed.log_dir / "info.log").read_text()
    assert resumed.save_dir == folder and "damaged-environment.json" in told
    assert (folder / "damaged-environment.json").read_text() == content
    assert len(read_json(folder / "environment.json")) == 1


def test_run_id_names_the_folder_and_is_not_used_twice(tmp_path):
    given = config(trainer={"epochs": 1, "save_dir": str(tmp_path)})
    assert ConfigParser(given, run_id="mine").save_dir.name == "mine"
    with pytest.raises(UserError, match="a run of that name exists"):
        _ = ConfigParser(given, run_id="mine").save_dir


def test_unwritable_save_dir_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    parsed = ConfigParser(config(trainer={"epochs": 1, "save_dir": str(tmp_path / "file")}))
    with pytest.raises(UserError, match=r"trainer.save_dir: cannot make a run folder in .*: Not a directory"):
        _ = parsed.save_dir


def test_resume_goes_on_in_the_runs_own_folder(tmp_path):
    given = config(trainer={"epochs": 1, "save_dir": str(tmp_path)})
    first = ConfigParser(given)
    checkpoint = first.save_dir / "checkpoint-epoch1.pth"
    again = ConfigParser(given, resume=checkpoint)
    assert (again.save_dir, again.log_dir) == (first.save_dir, first.log_dir)
    assert ConfigParser(given, resume=checkpoint, new_run=True).save_dir != first.save_dir
    assert again.continues and not ConfigParser(given, resume=tmp_path / "elsewhere" / "x.pth").continues


@pytest.mark.parametrize("changes", [{}, {"trainer.save_dir": "others"}])
def test_latest_in_a_notebook_is_the_newest_run_below_the_configs_save_dir(tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    given = config(trainer={"epochs": 1, "save_dir": "mine"})
    (tmp_path / "config.json").write_text(json.dumps(given))
    for save_dir in ("mine", "others", "saved"):
        checkpoint = tmp_path / save_dir / "models" / "job" / "1" / "checkpoint-epoch1.pth"
        checkpoint.parent.mkdir(parents=True)
        save_checkpoint({"state_dict": {}, "config": given}, checkpoint)
    found = ConfigParser.from_file("config.json", changes, resume="latest").resume
    assert found == Path(changes.get("trainer.save_dir", "mine"), "models", "job", "1", "checkpoint-epoch1.pth")


def test_resume_from_inside_the_run_folder_finds_its_logs(tmp_path, monkeypatch):
    given = config(trainer={"epochs": 1, "save_dir": str(tmp_path)})
    first = ConfigParser(given)
    monkeypatch.chdir(first.save_dir)
    again = ConfigParser(given, resume="checkpoint-epoch1.pth")
    assert again.continues and again.log_dir == first.log_dir


def test_verbosity_outside_its_range_is_refused():
    with pytest.raises(UserError, match="verbosity: got 5"):
        ConfigParser(config()).get_logger("x", 5)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"precision": "fp17"}, r"trainer.precision: got 'fp17'; it should be 'fp32', 'tf32', 'bf16' or 'fp16'"),
        ({"accumulate": 0}, "trainer.accumulate: got 0"),
        ({"clip_norm": -1.0}, "trainer.clip_norm: got -1.0; it should be greater than 0"),
        ({"clip_value": 0}, "trainer.clip_value: got 0; it should be greater than 0"),
        ({"compile": "fast"}, "trainer.compile: got 'fast'; it should be False, True, 'default'"),
        ({"acumulate": 2}, "trainer.acumulate: no such key; did you mean 'accumulate'"),
    ],
)
def test_impossible_switches_are_refused(keys, word):
    with pytest.raises(UserError, match=word):
        ConfigParser(config(trainer={"epochs": 1, **keys}), parts=PARTS)


def test_switches_that_the_device_or_the_optimizer_cannot_follow_are_refused():
    half = {"epochs": 1, "precision": "fp16"}
    for device in ({"device": "cpu"}, {"n_gpu": 0}):
        with pytest.raises(UserError, match=r"trainer.precision: 'fp16' needs a GPU"):
            ConfigParser(config(trainer=half, **device), parts=PARTS)
    fused = {"epochs": 1, "fused": True}
    with pytest.raises(UserError, match=r"trainer.fused: RMSprop has no fused kernel"):
        ConfigParser(config(trainer=fused, optimizer={"type": "RMSprop", "args": {}}), parts=PARTS)
    with pytest.raises(UserError, match=r"^optimizer.type: .* did you mean 'AdamW'\?$"):  # and nothing of a kernel
        ConfigParser(config(trainer=fused, optimizer={"type": "AdamWW", "args": {}}), parts=PARTS)
    with pytest.raises(UserError, match=r"trainer.fused: optimizer.args.fused says it already"):
        ConfigParser(config(trainer=fused, optimizer={"type": "SGD", "args": {"fused": True}}), parts=PARTS)
    with pytest.raises(UserError, match=r"trainer.fused: optimizer.args.foreach asks for another kernel"):
        ConfigParser(config(trainer=fused, optimizer={"type": "SGD", "args": {"foreach": True}}), parts=PARTS)
    ConfigParser(config(trainer=fused, optimizer={"type": "torch.optim.SGD", "args": {}}), parts=PARTS)
    with pytest.raises(UserError, match=r"trainer.cudnn_benchmark: .*deterministic"):
        ConfigParser(config(trainer={"epochs": 1, "cudnn_benchmark": True}, deterministic=True), parts=PARTS)
    graphs = {"epochs": 1, "compile": "reduce-overhead", "accumulate": 2}
    with pytest.raises(UserError, match=r"trainer.compile: 'reduce-overhead' records CUDA graphs"):
        ConfigParser(config(trainer=graphs), parts=PARTS)


def test_other_threads_than_before_are_told(tmp_path, capsys):
    given = config(trainer={"epochs": 1, "save_dir": str(tmp_path)})
    folder = ConfigParser(given).save_dir
    save_checkpoint({"state_dict": {}, "config": given}, folder / "checkpoint-epoch1.pth")
    starts = read_json(folder / "environment.json")
    assert starts[0]["threads"] == torch.get_num_threads()
    _ = ConfigParser(given, resume=folder / "checkpoint-epoch1.pth").save_dir
    assert "threads" not in capsys.readouterr().out
    (folder / "environment.json").write_text(json.dumps([{**starts[0], "threads": 77}]))
    log_dir = ConfigParser(given, resume=folder / "checkpoint-epoch1.pth").log_dir
    told = f"threads: {torch.get_num_threads()} now, 77 before"
    assert told in capsys.readouterr().out
    assert told in (log_dir / "info.log").read_text()


def test_a_file_that_a_part_does_not_find_is_named(monkeypatch):
    class Loads:
        __module__ = "model.model"

        def __init__(self, path):
            Path(path).read_text()

    monkeypatch.setattr(model.model, "Loads", Loads, raising=False)
    given = config(data={"type": "Loads", "args": {"path": "gone.csv"}})
    with pytest.raises(UserError, match=r"data: Loads: .*gone.csv"):
        ConfigParser(given).init_obj("data", model.model)


@pytest.mark.parametrize("name", ["fsd", "parallelize", "os.system"])
def test_a_wrong_kind_of_parallel_is_told_in_one_line(name):
    with pytest.raises(UserError) as told:
        ConfigParser(read_json(PROJECT / "config.json") | {"parallel": {"type": name}}, parts=PARTS)
    assert str(told.value) == f"parallel.type: got {name!r}; it should be 'ddp' or 'fsdp'"


def test_a_host_that_does_not_share_the_log_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("parse_config.decided_by_main", lambda _: (tmp_path, tmp_path / "none", False))
    monkeypatch.setattr("parse_config.is_main", lambda: False)
    with pytest.raises(
        UserError, match=r"trainer.save_dir: .*none, of rank 0, is not there; all hosts need to share it"
    ):
        _ = ConfigParser({"name": "x"}).log_dir


def test_from_file_names_the_checkpoint_that_it_finds_and_refuses_one_that_is_not_there(tmp_path, capsys):
    file, checkpoint = tmp_path / "config.json", tmp_path / "run" / "checkpoint-epoch1.pth"
    file.write_text(json.dumps(config()))
    checkpoint.parent.mkdir()
    save_checkpoint({"state_dict": {}, "config": config()}, checkpoint)
    for name in (checkpoint, str(checkpoint)):
        assert ConfigParser.from_file(file, resume=name).resume == checkpoint
    assert capsys.readouterr().err == ""
    assert ConfigParser.from_file(file, resume=checkpoint.parent).resume == checkpoint
    assert capsys.readouterr().err == f"using {checkpoint}\n"
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint$"):
        ConfigParser.from_file(file, resume=tmp_path / "none.pth")
    assert capsys.readouterr().err == ""
