"""What an "optimizer" section makes: groups of parameters, and several optimizers under names."""

import pytest
import torch

from base.training.optimizers import Optimizers, build_optimizer
from helpers import changed, run_here, same, tiny_config, tiny_trainer
from parse_config import PARTS, ConfigParser
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.runs.weights import load_optimizer
from utils.seed import seed_everything


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        self.head = torch.nn.Linear(8, 3)

    def forward(self, features):
        return self.head(self.body(features))


def build(optimizer, model=None, **trainer):
    config = ConfigParser({"optimizer": optimizer, "trainer": {"epochs": 1, **trainer}})
    return build_optimizer(config, model or Net())


def names(group, model):
    return [name for name, parameter in model.named_parameters() if any(parameter is p for p in group["params"])]


def test_groups_have_settings_of_their_own_and_the_first_that_fits_wins():
    model = Net()
    groups = [
        {"params": "head.bias", "args": {"weight_decay": 0.5}},
        {"params": ["head.*", "body.1.*"], "lr_factor": 10},
    ]
    built = build({"type": "SGD", "args": {"lr": 0.1, "weight_decay": 0.01}, "groups": groups}, model)
    rest, bias, others = built.param_groups
    assert names(rest, model) == ["body.0.weight", "body.0.bias"] and (rest["lr"], rest["weight_decay"]) == (0.1, 0.01)
    assert names(bias, model) == ["head.bias"] and (bias["lr"], bias["weight_decay"]) == (0.1, 0.5)
    assert names(others, model) == ["body.1.weight", "body.1.bias", "head.weight"]
    assert others["lr"] == pytest.approx(1.0) and others["weight_decay"] == 0.01 and "lr_factor" not in others


def test_a_factor_multiplies_the_default_rate_too():
    built = build({"type": "Adam", "groups": [{"params": "head.*", "lr_factor": 0.5}]})
    assert [group["lr"] for group in built.param_groups] == [0.001, 0.0005]


def test_biases_and_norms_go_without_decay_in_every_group():
    model = Net()
    section = {"type": "AdamW", "args": {"weight_decay": 0.1}, "decay_biases_and_norms": False}
    built = build({**section, "groups": [{"params": "head.*", "lr_factor": 0.1}]}, model)
    decays = {name: group["weight_decay"] for group in built.param_groups for name in names(group, model)}
    assert decays.pop("body.0.weight") == decays.pop("head.weight") == 0.1
    assert set(decays.values()) == {0.0} and len(decays) == 4
    rates = {name: group["lr"] for group in built.param_groups for name in names(group, model)}
    assert rates["head.bias"] == rates["head.weight"] == pytest.approx(1e-4) and rates["body.0.bias"] == 1e-3


def test_one_group_is_built_as_ever():
    plain = build({"type": "SGD", "args": {"lr": 0.1}})
    assert len(plain.param_groups) == 1 and plain.param_groups[0]["lr"] == 0.1


SEVERAL = {
    "body": {"type": "SGD", "args": {"lr": 0.1}},
    "head": {"type": "Adam", "args": {"lr": 0.01}, "every": 3},
}


def test_several_optimizers_own_the_parts_they_are_named_after():
    model = Net()
    built = build(SEVERAL, model)
    assert isinstance(built, Optimizers) and isinstance(built["head"], torch.optim.Adam)
    assert names(built["body"].param_groups[0], model) == [n for n, _ in model.named_parameters() if n[0] == "b"]
    assert [group["lr"] for group in built.param_groups] == [0.1, 0.01]


def test_each_steps_at_its_own_frequency():
    model = Net()
    built = build(SEVERAL, model)
    moved = []
    for _ in range(6):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        built.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        due = built.is_due("head")
        built.step()
        changed = {name.partition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert due == ("head" in changed)
        moved.append("".join(sorted(name[0] for name in changed)))
    assert moved == ["b", "b", "bh", "b", "b", "bh"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"type": "SGD", "groups": [{"params": "hat.*"}]},
            r"optimizer.groups.0.params: no parameter is called 'hat.\*'",
        ),
        ({"a": {"type": "SGD"}}, r"optimizer.a.params: no parameter is called 'a.\*'"),
        ({"head": {"type": "SGD"}}, r"optimizer: none of head trains body.0.weight, .*; add it to the params of one"),
        (
            {"head": {"type": "SGD"}, "all": {"type": "SGD", "params": "*"}},
            "optimizer.all.params: 'head.weight' belongs to head already",
        ),
        ({"type": "SGD", "args": {"momentun": 0.9}}, "optimizer.args.momentun: no such argument; did you mean"),
    ],
)
def test_mistakes_are_told_where_they_stand(section, message):
    with pytest.raises(UserError, match=message):
        build(section)


def test_a_pattern_of_frozen_parameters_says_that_they_are_not_trained():
    model = Net()
    model.body.requires_grad_(False)
    with pytest.raises(
        UserError, match=r"optimizer.groups.0.params: 'body.\*' names only parameters that are not trained"
    ):
        build({"type": "SGD", "args": {"lr": 0.1}, "groups": [{"params": "body.*", "lr_factor": 0.1}]}, model)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="arch: no parameter of the model requires a gradient"):
        build({"type": "SGD"}, Net().requires_grad_(False))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"a": {"type": "Adan"}, "b": {"type": "SGD"}}, "optimizer.a.type: torch.optim has no 'Adan'"),
        ({"a": {"type": "SGD", "args": {"lrr": 1}}}, "optimizer.a.args.lrr: no such argument; did you mean 'lr'?"),
        ({"a": {"type": "SGD", "every": 0}}, "optimizer.a.every: got 0; it should be greater than or equal to 1"),
        ({"a": {"args": {}}}, "optimizer.a.type: missing"),
        ({"a": {"type": "SGD", "evry": 2}}, "optimizer.a.evry: no such key; did you mean 'every'?"),
        ({"type": "SGD", "groups": [{"args": {}}]}, "optimizer.groups.0.params: missing"),
        (
            {"type": "SGD", "groups": [{"params": "*", "args": {"weight_decai": 0}}]},
            "optimizer.groups.0.args.weight_decai: no such argument; did you mean 'weight_decay'?",
        ),
        ({"type": "SGD", "groups": [{"params": "*", "lr_factor": -1}]}, "optimizer.groups.0.lr_factor: got -1"),
        ({"type": "SGD", "every": 2}, "optimizer.every: is for one of several optimizers"),
    ],
)
def test_check_finds_them_without_building(section, message):
    config = read_json("config.json") | {"optimizer": section}
    with pytest.raises(UserError) as told:
        ConfigParser(config, parts=PARTS)
    assert any(line.startswith(message) for line in str(told.value).splitlines()), told.value


def several(config, resume=None):
    parsed = ConfigParser({**config, "optimizer": SEVERAL}, resume=resume)
    seed_everything(5)
    model = Net()
    return tiny_trainer(parsed.config, resume, model=model, schedule=None, optimizer=build_optimizer(parsed, model))


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_several_optimizers_resume_to_the_same_bits(tmp_path, steps):
    straight = several(tiny_config(tmp_path / "a"))
    straight.train()
    stopped = several(tiny_config(tmp_path / "b", save_every_steps=steps))
    stopped._callbacks.call = lambda hook, trainer, *more: (
        trainer.stop("test") if hook == "on_step_end" and trainer.step == steps else None
    )
    stopped.train()
    resumed = several(changed(stopped.config.config), resume=stopped.saver.newest)
    resumed.train()
    assert same(straight.model.state_dict(), resumed.model.state_dict())
    assert same(straight.optimizer.state_dict(), resumed.optimizer.state_dict()) and straight.optimizer.steps == 10


def test_a_checkpoint_of_other_optimizers_is_refused(tmp_path):
    trainer = several(tiny_config(tmp_path))
    trainer.train()
    with pytest.raises(UserError, match="does not fit the optimizers: it is not one of a run with body, head"):
        body = trainer.optimizer.state_dict()["optimizers"]["body"]
        load_optimizer(trainer.optimizer, {"steps": 3, "optimizers": {"body": body}}, False)


@pytest.mark.slow
def test_several_optimizers_train_from_a_config(tmp_path):
    config = read_json("config.json")
    config["optimizer"] = {
        "convolutions": {"type": "SGD", "args": {"lr": 0.05}, "params": "conv*"},
        "rest": {"type": "Adam", "params": "fc*", "decay_biases_and_norms": False, "every": 2},
    }
    config["lr_scheduler"] = {
        "convolutions": {
            "type": "CosineAnnealingLR",
            "args": {"T_max": "100%"},
            "interval": "step",
            "warmup": "2 steps",
        },
        "rest": {"type": "StepLR", "args": {"step_size": "1 epoch"}, "interval": "step"},
    }
    config["trainer"] |= {"epochs": 2, "len_epoch": 4, "save_dir": str(tmp_path / "saved")}
    write_json(config, tmp_path / "job.json")
    run_here("train.py", "-c", tmp_path / "job.json")
    (newest,) = (tmp_path / "saved").glob("models/*/*/checkpoint-epoch2.pth")
    done = run_here("train.py", "-r", newest, "--set", "trainer.epochs=3")
    assert "epoch 3/3" in done.stdout


def test_an_optimizer_may_have_any_name(tmp_path):
    section = {"steps": {"type": "SGD", "params": "body.*"}, "optimizers": {"type": "SGD", "params": "head.*"}}
    config = ConfigParser({**tiny_config(tmp_path), "optimizer": section})
    model = Net()
    first = tiny_trainer(config.config, model=model, schedule=None, optimizer=build_optimizer(config, model))
    first.train()
    again = Net()
    built = build_optimizer(config, again)
    resumed = tiny_trainer(config.config, first.saver.newest, model=again, schedule=None, optimizer=built)
    assert resumed.start_epoch == 3 and built.steps == 10


def test_a_flag_for_one_optimizer_says_that_there_are_several(tmp_path):
    config = read_json("config.json") | {"optimizer": SEVERAL, "lr_scheduler": None}
    with pytest.raises(UserError, match=r"optimizer.args: there are several; set those of one, as optimizer.body.args"):
        ConfigParser(config, modification={"optimizer;args;lr": 0.1})


def test_groups_that_were_others_before_are_told_in_words(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    state = trainer.optimizer.state_dict()
    halves = [{"params": [p], "lr": 0.1} for p in list(trainer.model.parameters())[:2]]
    with pytest.raises(UserError, match=r"makes 2; keep.*--weights-only$"):
        load_optimizer(torch.optim.SGD(halves), state, False)
    added = torch.optim.SGD(halves).state_dict()
    with pytest.raises(UserError, match=r"it has 2 groups .* makes 1; .* belongs into optimizer.groups, with Freeze"):
        load_optimizer(trainer.optimizer, added, False)


def test_lbfgs_is_refused_by_the_check_alone_or_among_several():
    for section, path in (({"type": "LBFGS"}, "optimizer"), ({"a": {"type": "LBFGS"}}, "optimizer.a")):
        with pytest.raises(UserError, match=rf"{path}.type: LBFGS wants to compute the loss itself"):
            ConfigParser(read_json("config.json") | {"optimizer": section}, parts=PARTS)
