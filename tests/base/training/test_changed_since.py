"""A config that has changed since the checkpoint, a new run from one, and checkpoints that do not fit."""

import json

import pytest
import torch

from helpers import checkpoint_names, metrics_rows, newest_state, same, tiny_config, tiny_model, tiny_trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint, save_checkpoint
from utils.runs.weights import load_optimizer


def test_changed_learning_rate_wins_over_the_checkpoint(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    config = tiny_config(tmp_path, epochs=3)
    config["optimizer"]["args"]["lr"] = 0.01
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert resumed.start_epoch == 3  # which is asked of the checkpoint
    assert resumed.optimizer.param_groups[0]["lr"] == 0.01
    assert same(resumed.optimizer.state_dict()["state"], trainer.optimizer.state_dict()["state"])
    resumed.train()
    assert [float(row["lr"]) for row in metrics_rows(resumed)] == pytest.approx([0.1, 0.09, 0.01])


def test_a_setting_that_needs_a_state_which_was_not_saved_is_refused(tmp_path):
    config = tiny_config(tmp_path, epochs=1)
    config["optimizer"] = {"type": "Adam", "args": {"lr": 0.001}}
    trainer = tiny_trainer(config)
    trainer.train()
    config = tiny_config(tmp_path, epochs=2)
    config["optimizer"] = {"type": "Adam", "args": {"lr": 0.001, "amsgrad": True}}
    with pytest.raises(UserError, match="a state has no 'max_exp_avg_sq', which amsgrad needs"):
        tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth").train()


STATES = {
    "ASGD": ("step", "eta", "mu", "ax"),
    "Adadelta": ("step", "square_avg", "acc_delta"),
    "Adafactor": ("step", "row_var", "col_var"),
    "Adagrad": ("step", "sum"),
    "Adam": ("step", "exp_avg", "exp_avg_sq"),
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "Adamax": ("step", "exp_avg", "exp_inf"),
    "NAdam": ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    "RAdam": ("step", "exp_avg", "exp_avg_sq"),
    "RMSprop": ("step", "square_avg"),
    "Rprop": ("step", "prev", "step_size"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in STATES.items() for name in names])
def test_a_state_without_an_entry_that_a_step_needs_is_refused(kind, name):
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.ones(3, 2)
    optimizers = [getattr(torch.optim, kind)([parameter], lr=0.1) for _ in range(2)]
    optimizers[0].step()
    state = optimizers[0].state_dict()
    assert set(STATES[kind]) == set(state["state"][0])
    load_optimizer(optimizers[1], state, settings_as_built=False)
    optimizers[1].step()
    del state["state"][0][name]
    with pytest.raises(UserError, match=f"the checkpoint does not fit the optimizer: a state has no '{name}'$"):
        load_optimizer(optimizers[1], state, settings_as_built=False)


def test_a_state_of_adafactor_for_a_vector_needs_its_variance():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.Adafactor([parameter])
    optimizer.step()
    state = optimizer.state_dict()
    load_optimizer(optimizer, state, settings_as_built=False)
    del state["state"][0]["variance"]
    with pytest.raises(UserError, match="a state has no 'variance'"):
        load_optimizer(optimizer, state, settings_as_built=False)


def test_a_checkpoint_without_an_entry_of_the_optimizer_is_refused_in_one_line(tmp_path):
    config = tiny_config(tmp_path, epochs=1)
    config["optimizer"] = {"type": "Adam", "args": {"lr": 0.001}}
    trainer = tiny_trainer(config)
    trainer.train()
    state = load_checkpoint(trainer.saver.newest)
    del state["optimizer"]["state"][0]["exp_avg"]
    save_checkpoint(state, trainer.saver.newest)
    with pytest.raises(UserError, match=r"does not fit the optimizer: a state has no 'exp_avg'$") as told:
        tiny_trainer({**config, "trainer": {**config["trainer"], "epochs": 2}}, resume=trainer.saver.newest).train()
    assert len(str(told.value).splitlines()) == 1


def test_another_optimizer_starts_anew(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    config = tiny_config(tmp_path, epochs=2)
    config["optimizer"] = {"type": "Adam", "args": {"lr": 0.001}}
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert resumed.start_epoch == 2
    assert not resumed.optimizer.state_dict()["state"]
    resumed.train()
    assert same(newest_state(resumed)["epoch"], 2)


def test_checkpoint_of_another_model_is_refused_with_the_entries(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.PReLU())
    with pytest.raises(UserError) as told:
        newest = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
        tiny_trainer(tiny_config(tmp_path), resume=newest, model=other).train()
    assert str(told.value) == (
        "the checkpoint does not fit the model Sequential: 0.weight is (8, 4) and not (3, 4); 0.bias is (8,) and not "
        "(3,); and 7 more; keep its arch, or begin a new run with the weights that fit: --weights-only, "
        "see docs/fine_tuning.md"
    )


def test_new_run_that_has_no_epochs_left_is_refused_and_leaves_no_folder(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path / "a", epochs=2))
    trainer.train()
    newest = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    with pytest.raises(UserError, match=r"trainer.epochs: got 2, and 2 epochs of the checkpoint count too"):
        tiny_trainer(tiny_config(tmp_path / "b"), resume=newest, new_run=True).train()
    assert not (tmp_path / "b").exists()


def test_resume_in_a_new_run_keeps_the_old_folder_and_records_the_parent(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    parent = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    child = tiny_trainer(tiny_config(tmp_path, epochs=2), resume=parent, new_run=True)
    child.train()
    assert child.checkpoint_dir != trainer.checkpoint_dir
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"] and checkpoint_names(child) == [
        "checkpoint-epoch2.pth"
    ]
    starts = json.loads((child.checkpoint_dir / "environment.json").read_text())
    assert starts[0]["resumed_from"] == str(parent)


def test_changed_schedule_starts_anew_with_all_its_settings(tmp_path):
    def one_cycle(largest):
        return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, largest, total_steps=10)

    def rates(folder, largest, **kwargs):
        config = tiny_config(folder, epochs=4)
        config["lr_scheduler"] = {"type": "OneCycleLR", "args": {"max_lr": largest, "total_steps": 10}}
        trainer = tiny_trainer(config, schedule=one_cycle(largest), **kwargs)
        trainer.train()
        return trainer, [float(row["lr"]) for row in metrics_rows(trainer)]

    first, _ = rates(tmp_path / "a", 0.1)
    _, fresh = rates(tmp_path / "b", 0.001)
    checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
    _, resumed = rates(tmp_path / "a", 0.001, resume=checkpoint)
    assert resumed[2:] == fresh[:2]


def test_other_optimizers_sections_do_not_touch_the_schedule(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    config = {**tiny_config(tmp_path, epochs=3), "optimizer_D": {"type": "SGD", "args": {"lr": 1}}}
    resumed = tiny_trainer(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    resumed.train()
    assert [float(row["lr"]) for row in metrics_rows(resumed)] == pytest.approx([0.1, 0.09, 0.081])


def test_changed_loss_starts_anew_and_an_unchanged_one_is_restored(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    for loss, expected in ((None, [1.0, 2.0, 3.0]), ("other", [5.0, 5.0, 5.0])):
        config = {**tiny_config(tmp_path, epochs=1), **({"loss": loss} if loss else {})}
        resumed = tiny_trainer(config, resume=checkpoint)
        resumed.criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([5.0, 5.0, 5.0]))
        resumed.train()
        assert resumed.criterion.weight.tolist() == expected


def best_after_a_change(tmp_path, monitor, **change):
    """(best value of a run of 2 epochs, best value from which its third epoch starts with the change)."""
    first = {**tiny_config(tmp_path, epochs=2, monitor=monitor), "loss": "a", "metrics": ["accuracy"]}
    trainer = tiny_trainer(first)
    trainer.train()
    config = {**tiny_config(tmp_path, epochs=3, monitor=monitor), "loss": "a", "metrics": ["accuracy"], **change}
    resumed = tiny_trainer(config, resume=trainer.saver.newest)
    assert resumed.start_epoch == 3
    return trainer.mnt_best, resumed.mnt_best


def test_the_best_value_starts_afresh_only_where_it_is_measured_in_another_way(tmp_path, capsys):
    before, after = best_after_a_change(tmp_path / "a", "min val_loss", loss="b")
    assert before < after == float("inf")
    assert "val_loss is measured in another way now, so its best value starts afresh" in capsys.readouterr().out
    before, after = best_after_a_change(tmp_path / "b", "max val_accuracy", loss="b")
    assert before == after
    before, after = best_after_a_change(tmp_path / "c", "max val_accuracy", metrics=["accuracy", "top_k_acc"])
    assert before == after
    changed = [{"type": "accuracy", "args": {"k": 2}}]
    before, after = best_after_a_change(tmp_path / "d", "max val_accuracy", metrics=changed)
    assert after == -float("inf")


def test_checkpoint_that_lies_in_no_run_folder_starts_a_new_run(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path / "a", epochs=1))
    trainer.train()
    moved = tmp_path / "downloads" / "checkpoint-epoch1.pth"
    moved.parent.mkdir()
    moved.write_bytes((trainer.checkpoint_dir / moved.name).read_bytes())
    (moved.parent / "config.json").write_text("mine")
    child = tiny_trainer(tiny_config(tmp_path / "b"), resume=moved)
    child.train()
    assert child.checkpoint_dir.is_relative_to(tmp_path / "b")
    assert sorted(path.name for path in moved.parent.iterdir()) == ["checkpoint-epoch1.pth", "config.json"]
    assert (moved.parent / "config.json").read_text() == "mine"


def test_refused_checkpoint_leaves_the_run_as_it_was(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        tiny_trainer(
            tiny_config(tmp_path, epochs=9),
            resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth",
            model=torch.nn.Sequential(torch.nn.Linear(4, 5)),
        ).train()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_bare_weights_can_be_trained_on(tmp_path, caplog):
    save_checkpoint({"state_dict": tiny_model().state_dict()}, tmp_path / "weights.pth")
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), resume=tmp_path / "weights.pth")
    trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}}, "does not fit the optimizer"),
        (
            {"attributes": {"lr_scheduler": {"step": "zap"}}},
            "does not fit 'lr_scheduler': it is not the state of a StepLR",
        ),
        ({"attributes": {"criterion": {"zap": torch.ones(1)}}}, "does not fit the model CrossEntropyLoss"),
        ({"rng": {}}, "random generators"),
    ],
)
def test_state_that_does_not_fit_is_refused_by_name(tmp_path, wrong, message):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    save_checkpoint({**load_checkpoint(path), **wrong}, path)
    with pytest.raises(UserError, match=message):
        tiny_trainer(tiny_config(tmp_path), resume=path).train()


def job_of_batches(folder, epochs, **sizes):
    config = tiny_config(folder, epochs=epochs)
    accumulate = sizes.pop("accumulate", 1)
    config["data_loader"] = {"type": "TinyLoader", "args": sizes}
    config["trainer"]["accumulate"] = accumulate
    return config


def test_a_resumed_run_keeps_the_samples_of_an_update(tmp_path):
    trainer = tiny_trainer(job_of_batches(tmp_path, 1, batch_size=8))
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    recorded = (trainer.checkpoint_dir / "config.json").read_text()
    del trainer  # and its lock
    with pytest.raises(UserError, match=r"batch_size: .* updates of 4 samples, and this run's have 8; keep that, or"):
        tiny_trainer(job_of_batches(tmp_path, 2, batch_size=4), resume=checkpoint).train()
    assert (checkpoint.parent / "config.json").read_text() == recorded
    own = tiny_trainer(job_of_batches(tmp_path, 2, batch_size=4), resume=checkpoint, new_run=True)
    assert own.checkpoint_dir != checkpoint.parent
    tiny_trainer(job_of_batches(tmp_path, 2, batch_size=4, accumulate=2), resume=checkpoint).train()
    assert (checkpoint.parent / "checkpoint-epoch2.pth").is_file()
