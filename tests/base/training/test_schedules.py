"""What an "lr_scheduler" section makes: durations, warm-up, chains, and a schedule for each optimizer."""

import pytest
import torch

from base.training.optimizers import build_optimizer
from base.training.schedules import Schedules, build_schedule, unfit_lengths
from helpers import metrics_rows, newest_state, tiny_config, tiny_trainer
from parse_config import PARTS, ConfigParser
from utils.errors import UserError
from utils.files import read_json
from utils.runs.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from utils.runs.schedule_state import refuse_old_steps

LOADER = torch.utils.data.DataLoader(torch.zeros(70, 1), batch_size=10)  # 7 batches


def rates(section, steps, optimizer=None, **trainer):
    """The learning rate of each of the first steps, 1.0 to begin with."""
    sgd = {"type": "SGD", "args": {"lr": 1.0}}
    config = ConfigParser(
        {"optimizer": optimizer or sgd, "lr_scheduler": section, "trainer": {"epochs": 10, **trainer}}
    )
    built = build_optimizer(config, torch.nn.Linear(2, 2))
    scheduler = build_schedule(config, built, LOADER)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in built.param_groups])
        built.step()
        scheduler.step()
    return [pytest.approx(rate[0] if len(rate) == 1 else rate) for rate in seen]


def test_durations_are_in_the_units_of_the_interval():
    section = {"type": "StepLR", "args": {"step_size": "2 epochs", "gamma": 0.5}}
    assert rates(section, 5) == [1, 1, 0.5, 0.5, 0.25]
    by_step = rates({**section, "interval": "step"}, 15)
    assert by_step == [1] * 14 + [0.5]
    accumulated = rates({**section, "interval": "step"}, 9, accumulate=2)  # 4 updates an epoch
    assert accumulated == [1] * 8 + [0.5]
    listed = {"type": "MultiStepLR", "args": {"milestones": ["20%", "30%"], "gamma": 0.1}}
    assert rates(listed, 4) == [1, 1, 0.1, 0.01]


def test_warm_up_rises_to_the_rate_and_the_schedule_follows_from_its_beginning():
    section = {"type": "ExponentialLR", "args": {"gamma": 0.5}, "interval": "step", "warmup": "4 steps"}
    assert rates(section, 7) == [0.25, 0.5, 0.75, 1, 1, 0.5, 0.25]
    assert rates({**section, "warmup": 1}, 3) == [1, 1, 0.5]
    assert rates({**section, "interval": "epoch", "warmup": "20%"}, 5) == [0.5, 1, 1, 0.5, 0.25]
    assert rates({**section, "warmup": "5%"}, 1, epochs=1, len_epoch=1) == [1]  # a run of a single update


def test_schedules_follow_each_other():
    parts = [
        {"type": "LinearLR", "args": {"start_factor": 0.5, "total_iters": "2 epochs"}},
        {"type": "ConstantLR", "args": {"factor": 0.1, "total_iters": 100}},
    ]
    section = {"type": "SequentialLR", "args": {"schedulers": parts, "milestones": ["3 epochs"]}}
    assert rates(section, 5) == [0.5, 0.75, 1, 0.1, 0.1]


def test_chained_schedules_multiply():
    parts = [
        {"type": "ConstantLR", "args": {"factor": 0.1, "total_iters": "2 epochs"}},
        {"type": "ExponentialLR", "args": {"gamma": 0.5}},
    ]
    section = {"type": "ChainedScheduler", "args": {"schedulers": parts}}
    assert rates(section, 4) == [0.1, 0.05, 0.25, 0.125]
    assert rates({"bias": section}, 3, SEVERAL) == [[1, 0.2], [1, 0.1], [1, 0.5]]


SEVERAL = {
    "weight": {"type": "SGD", "args": {"lr": 1.0}, "params": "weight"},
    "bias": {"type": "SGD", "args": {"lr": 2.0}, "params": "bias"},
}


def test_each_optimizer_has_its_schedule():
    section = {
        "weight": {"type": "StepLR", "args": {"step_size": 1}},
        "bias": {"type": "ExponentialLR", "args": {"gamma": 0.5}},
    }
    assert rates(section, 3, SEVERAL) == [[1, 2], [0.1, 1], [0.01, 0.5]]
    assert rates({"bias": section["bias"]}, 2, SEVERAL) == [[1, 2], [1, 1]]


@pytest.mark.parametrize(
    ("section", "optimizer", "message"),
    [
        ({"type": "StepLR", "args": {"step_size": 1}}, SEVERAL, "lr_scheduler: there are several optimizers; give"),
        (
            {"bais": {"type": "StepLR"}},
            SEVERAL,
            "lr_scheduler.bais: no optimizer has this name; there are weight, bias",
        ),
        ({"a": {"type": "StepLR"}}, None, "lr_scheduler.a: no optimizer has this name; the config names one optimizer"),
        (
            {"weight": {"type": "StepLR", "interval": "step"}, "bias": {"type": "StepLR"}},
            SEVERAL,
            "lr_scheduler: give all schedules the same interval",
        ),
        ({"type": "ReduceLROnPlateau", "warmup": 3}, None, "lr_scheduler.warmup: ReduceLROnPlateau cannot follow"),
        (
            {"type": "StepLR", "args": {"step_size": 1}, "warmup": "150%"},
            None,
            "lr_scheduler.warmup: got '150%', which is",
        ),
        ({"type": "StepLR", "args": {"step_size": 0}}, None, "lr_scheduler.args.step_size: got 0; it should be"),
        ({"type": "CosineAnnealingLR", "args": {"T_max": -1}}, None, "lr_scheduler.args.T_max: got -1; it should be"),
        ({"type": "LRScheduler"}, None, "lr_scheduler.args: LRScheduler: "),
        (
            {"type": "ChainedScheduler", "args": {"schedulers": []}},
            None,
            "lr_scheduler.args: ChainedScheduler: Chained",
        ),
        (
            {"bias": {"type": "ReduceLROnPlateau"}},
            SEVERAL,
            "lr_scheduler.bias.type: ReduceLROnPlateau works with a single optimizer",
        ),
    ],
)
def test_what_contradicts_the_optimizers_is_refused(section, optimizer, message):
    with pytest.raises(UserError, match=message):
        rates(section, 1, optimizer)


STEP = {"type": "StepLR", "args": {"step_size": 1}}
CHAIN = {"type": "ChainedScheduler", "args": {"schedulers": [STEP]}}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "StepLR", "args": {"step_size": "5 parsecs"}}, "lr_scheduler.args.step_size: got '5 parsecs'"),
        (
            {"type": "StepLR", "args": {"step_size": 1}, "warmup": "soon"},
            "lr_scheduler.warmup: got 'soon'; a duration is",
        ),
        (
            {"type": "ChainedScheduler", "args": {"schedulers": [STEP, {**STEP, "warmup": 1}]}},
            "lr_scheduler.args.schedulers.1: a warm-up overwrites the rate",
        ),
        (
            {"type": "ChainedScheduler", "args": {"schedulers": [{"type": "ReduceLROnPlateau"}]}},
            "lr_scheduler.args.schedulers.0: ReduceLROnPlateau overwrites the rate",
        ),
        (
            {"type": "ChainedScheduler", "args": {"schedulers": [STEP]}, "warmup": "5%"},
            "lr_scheduler.warmup: is not for ChainedScheduler; chain a LinearLR too",
        ),
        (
            {"type": "SequentialLR", "args": {"milestones": [], "schedulers": [CHAIN]}},
            "lr_scheduler.args.schedulers.0.type: SequentialLR cannot contain a ChainedScheduler",
        ),
        ({**CHAIN, "args": {**CHAIN["args"], "optimizer": 1}}, "lr_scheduler.args.optimizer: no such argument"),
        ({"type": "StepLR", "args": {"step_size": 1}, "warmup": -3}, "lr_scheduler.warmup: got -3"),
        (
            {"type": "StepLR", "args": {"step_size": 1}, "warmpu": 3},
            "lr_scheduler.warmpu: no such key; did you mean 'warmup'?",
        ),
        (
            {"type": "SequentialLR", "args": {"schedulers": [{"type": "StepLT"}], "milestones": []}},
            "lr_scheduler.args.schedulers.0.type: torch.optim.lr_scheduler has no 'StepLT'",
        ),
        (
            {"type": "SequentialLR", "args": {"schedulers": [{"type": "StepLR"}], "milestones": []}},
            "lr_scheduler.args.schedulers.0.args.step_size: missing; it has no default",
        ),
    ],
)  # fmt: skip
def test_check_finds_mistakes_without_building(section, message):
    config = read_json("config.json") | {"lr_scheduler": section}
    with pytest.raises(UserError) as told:
        ConfigParser(config, parts=PARTS)
    assert any(line.startswith(message) for line in str(told.value).splitlines()), told.value


# A run that is made longer

LONGER = {
    "OneCycleLR": {"type": "OneCycleLR", "interval": "step", "args": {"max_lr": 0.5, "total_steps": "100%"}},
    "CosineAnnealingLR": {"type": "CosineAnnealingLR", "args": {"T_max": "100%"}},
    "PolynomialLR": {"type": "PolynomialLR", "interval": "step", "args": {"total_iters": "100%", "power": 2.0}},
    "a warm-up": {"type": "CosineAnnealingLR", "interval": "step", "warmup": "10%", "args": {"T_max": "90%"}},
    "milestones": {"type": "MultiStepLR", "args": {"milestones": ["50%", "75%"]}},
}


def scheduled(folder, section, epochs, resume=None, **trainer):
    """A tiny trainer whose schedule is built from the section."""
    config = {**tiny_config(folder, epochs=epochs, **trainer), "lr_scheduler": section}
    loader = torch.utils.data.DataLoader(torch.zeros(40), batch_size=8)  # of as many batches as the tiny job's
    return tiny_trainer(
        config, resume=resume, schedule=lambda optimizer: build_schedule(ConfigParser(config), optimizer, loader)
    )


@pytest.mark.parametrize("section", LONGER.values(), ids=LONGER)
def test_a_run_made_longer_follows_the_schedule_of_the_longer_run(tmp_path, section):
    straight = scheduled(tmp_path / "a", section, 8)
    straight.train()
    first = scheduled(tmp_path / "b", section, 4)
    first.train()
    longer = scheduled(tmp_path / "b", section, 8, resume=first.saver.newest)
    longer.train()
    rates = [[float(row["lr"]) for row in metrics_rows(trainer)] for trainer in (straight, longer)]
    assert rates[1][4:] == rates[0][4:] and rates[1][:4] != rates[0][:4]
    told = (longer.config.log_dir / "info.log").read_text()
    assert "lr_scheduler: its lengths are those of the run as it is now" in told


def test_a_schedule_of_the_same_length_is_put_back_without_a_word(tmp_path):
    section = {"type": "CosineAnnealingLR", "args": {"T_max": 9}}
    first = scheduled(tmp_path, section, 2)
    first.train()
    longer = scheduled(tmp_path, section, 4, resume=first.saver.newest)
    longer.train()
    assert "lengths" not in (longer.config.log_dir / "info.log").read_text()


# A run that an earlier version began, in which durations in steps counted batches


def as_written_before(trainer, **changes):
    """The trainer's newest checkpoint, rewritten with the changes to its schedule's state and without a format."""
    state = load_checkpoint(trainer.saver.newest)
    assert state.pop("format") == FORMAT
    state["attributes"]["lr_scheduler"] |= changes
    save_checkpoint(state, trainer.saver.newest)
    return trainer.saver.newest


IN_STEPS = {"type": "CosineAnnealingLR", "interval": "step", "args": {"T_max": "40 steps"}}
WARM_UP = {"type": "LinearLR", "interval": "step", "args": {"start_factor": 0.5, "total_iters": "4 steps"}}


def test_a_schedule_that_counted_batches_is_refused_within_its_course_with_the_reason(tmp_path):
    first = scheduled(tmp_path, IN_STEPS, 2, accumulate=2)
    first.train()
    old = as_written_before(first, T_max=24)  # 40 batches, 5 an epoch
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as told:
        scheduled(tmp_path, IN_STEPS, 4, resume=old, accumulate=2).train()
    assert len(str(told.value).splitlines()) == 1
    for part in ("here '40 steps', counted batches", "of 2 batches each", "--weights-only"):
        assert part in str(told.value)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = {**IN_STEPS, "args": {"T_max": "100%"}}
    assert scheduled(tmp_path, changed, 4, resume=old, accumulate=2).start_epoch == 3


def test_a_schedule_of_several_optimizers_is_looked_through(tmp_path):
    section = {"a": IN_STEPS, "b": {"type": "ConstantLR"}}
    config = {"lr_scheduler": section, "trainer": {"accumulate": 2}}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedules = [Schedules({"a": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max)}) for T_max in (20, 40)]
    checkpoint = {"config": config, "attributes": {"lr_scheduler": schedules[0].state_dict()}}
    with pytest.raises(UserError, match="counted batches"):
        refuse_old_steps(checkpoint, schedules[1], len_epoch=10)
    refuse_old_steps({**checkpoint, "format": 1}, schedules[1], len_epoch=10)


CYCLE = {"type": "CyclicLR", "interval": "step"}
OPTIMIZER = {"type": "SGD", "args": {"lr": 1.0, "momentum": 0.9}}


@pytest.mark.parametrize(
    ("section", "before"),
    [
        ({**CYCLE, "args": {"base_lr": 0.1, "max_lr": 1, "step_size_up": "40 steps"}}, {"total_size": 48.0}),
        (
            {**CYCLE, "args": {"base_lr": 0.1, "max_lr": 1, "step_size_up": "10 steps", "step_size_down": "40 steps"}},
            {"total_size": 30.0},
        ),
        (
            {"type": "MultiStepLR", "interval": "step", "args": {"milestones": ["20 steps", "50%"]}},
            {"milestones": {12: 1, 6: 1}},
        ),
        ({"type": "StepLR", "interval": "epoch", "args": {"step_size": "12 steps"}}, {"step_size": 3}),
    ],
    ids=["cycle", "halves of a cycle", "a milestone", "in epochs"],
)
def test_lengths_that_counted_batches_are_found_in_any_schedule(section, before):
    trainer = {"epochs": 10, "accumulate": 2}
    config = ConfigParser({"optimizer": OPTIMIZER, "lr_scheduler": section, "trainer": trainer})
    loader = torch.utils.data.DataLoader(torch.zeros(40), batch_size=8)  # 5 batches, 3 optimizer steps
    scheduler = build_schedule(config, build_optimizer(config, torch.nn.Linear(2, 2)), loader)
    state = scheduler.state_dict()
    checkpoint = {"config": config.config, "attributes": {"lr_scheduler": state}}
    refuse_old_steps(checkpoint, scheduler, len_epoch=5)
    checkpoint["attributes"]["lr_scheduler"] = state | before
    with pytest.raises(UserError, match="counted batches"):
        refuse_old_steps(checkpoint, scheduler, len_epoch=5)


@pytest.mark.parametrize(
    ("section", "accumulate", "changes"),
    [
        (IN_STEPS, 2, {}),  # of a version between the two: the same lengths
        (IN_STEPS, 1, {"T_max": 39}),
        ({**IN_STEPS, "args": {"T_max": "100%"}}, 2, {"T_max": 39}),
        (IN_STEPS, 2, {"T_max": 39}),  # not what 40 batches are
        (WARM_UP, 2, {"total_iters": 2}),  # over: 2 epochs are 6 optimizer steps
    ],
)
def test_other_schedules_of_an_earlier_version_resume(tmp_path, section, accumulate, changes):
    first = scheduled(tmp_path, section, 2, accumulate=accumulate)
    first.train()
    resumed = scheduled(tmp_path, section, 3, resume=as_written_before(first, **changes), accumulate=accumulate)
    resumed.train()
    assert newest_state(resumed)["epoch"] == 3 and newest_state(resumed)["format"] == FORMAT


MILESTONES = {"type": "MultiStepLR", "interval": "step", "args": {"milestones": ["20 steps", "40 steps", "50%"]}}


@pytest.mark.parametrize("has_format", [True, False])  # a version between the two counted steps, without a format
@pytest.mark.parametrize("section", [{**IN_STEPS, "warmup": "10%"}, MILESTONES], ids=["warm-up", "milestones"])
def test_a_schedule_that_counts_optimizer_steps_resumes_where_the_run_is_made_longer(tmp_path, section, has_format):
    first = scheduled(tmp_path, section, 2, accumulate=2)
    first.train()
    newest = first.saver.newest if has_format else as_written_before(first)
    longer = scheduled(tmp_path, section, 8, resume=newest, accumulate=2)
    longer.train()
    assert newest_state(longer)["epoch"] == 8


@pytest.mark.parametrize("state", [{"last_epoch": "x"}, {"total_iters": "x"}, {"total_iters": [1, "x"]}])
def test_an_edited_state_of_an_earlier_version_is_refused_in_one_line(tmp_path, state):
    first = scheduled(tmp_path, WARM_UP, 2, accumulate=2)
    first.train()
    old = as_written_before(first, **{"total_iters": 2, **state})
    with pytest.raises(UserError) as told:
        scheduled(tmp_path, WARM_UP, 3, resume=old, accumulate=2).train()
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"type": "CosineAnnealingLR", "args": {"T_max": "2 epochs"}}, "the rate climbs again after 2"),
        ({"type": "PolynomialLR", "args": {"total_iters": 2}}, "the rate is 0 after that"),
        ({"type": "CosineAnnealingLR", "args": {"T_max": 1}, "warmup": 1}, "the rate climbs again after 1"),
        ({"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 40}}, "total_steps is 40, and it takes 4 steps"),
        ({"type": "CosineAnnealingLR", "args": {"T_max": 50}}, "the run ends before it; '100%' fits the run"),
        ({"type": "CosineAnnealingLR", "args": {"T_max": 5}}, None),
        ({"type": "LinearLR", "args": {"total_iters": 2}}, None),
        ({"type": "CosineAnnealingLR", "args": {"T_max": "100%"}}, None),
        ({"type": "PolynomialLR", "args": {"total_iters": "100%"}}, None),
        ({"type": "ExponentialLR", "args": {"gamma": 0.9}}, None),
        ({"type": "CosineAnnealingLR", "args": {"T_max": "95%"}, "warmup": "5%"}, None),
        (
            {
                "type": "SequentialLR",
                "args": {
                    "schedulers": [
                        {"type": "ConstantLR", "args": {"factor": 1}},
                        {"type": "CosineAnnealingLR", "args": {"T_max": 2}},
                    ],
                    "milestones": [30],
                },
            },
            "its last part begins after 30 steps, and it takes 4: the run ends before that",
        ),
    ],
)
def test_a_schedule_that_ends_elsewhere_than_the_run_is_told_at_its_start(tmp_path, section, told):
    trainer = scheduled(tmp_path, section, 5)
    trainer.train()
    log = (trainer.config.log_dir / "info.log").read_text()
    assert (told in log) if told else "lr_scheduler" not in log


def test_shares_fit_a_run_of_any_length(tmp_path):
    section = {"type": "CosineAnnealingLR", "args": {"T_max": "95%"}, "warmup": "5%"}
    told = [
        line for epochs in range(1, 41) for line in unfit_lengths(scheduled(tmp_path / str(epochs), section, epochs))
    ]
    assert not told


def test_the_logged_rate_is_that_of_the_epoch_s_last_update(tmp_path):
    rates = {}
    for interval in ("epoch", "step"):
        section = {"type": "StepLR", "interval": interval, "args": {"step_size": "1 epoch", "gamma": 0.5}}
        trainer = scheduled(tmp_path / interval, section, 3)
        trainer.train()
        rates[interval] = [float(row["lr"]) for row in metrics_rows(trainer)]
    assert rates["epoch"] == rates["step"] == [0.1, 0.05, 0.025]


def test_the_logged_rate_survives_a_resume_between_the_last_update_and_the_log(tmp_path):
    section = {"type": "StepLR", "interval": "step", "args": {"step_size": "1 epoch", "gamma": 0.5}}
    first = scheduled(tmp_path, section, 2)
    measure = first._evaluate

    def fail():
        if first.epoch == 2:
            raise ZeroDivisionError
        return measure()

    first._evaluate = fail
    with pytest.raises(ZeroDivisionError):
        first.train()
    assert first.saver.newest.name == "checkpoint-epoch2-batch5.pth"
    resumed = scheduled(tmp_path, section, 2, resume=first.saver.newest)
    resumed.train()
    assert [float(row["lr"]) for row in metrics_rows(resumed)] == [0.1, 0.05]
