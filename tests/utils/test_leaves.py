"""The small leaves: seeds, devices, folders, JSON, the model summary, the epoch report."""

import concurrent.futures
import copy
import itertools
import math
import random
import re

import numpy as np
import pytest
import torch

from base.training.summary import example_input, model_summary
from logger.console import epoch_report
from utils import UserError, ensure_dir, inf_loop, prepare_device, read_json, write_json
from utils.runs import run_folder
from utils.runs.run_folder import claim_run_folder
from utils.seed import derive_seed, make_deterministic, rng_state, seed_everything, set_rng_state


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeding_repeats_every_generator():
    seed_everything(2**62)
    first = draws()
    seed_everything(2**62)
    assert draws() == first


def test_derived_seeds_are_apart_for_neighbouring_seeds_and_epochs():
    seeds = [derive_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == 400 and all(0 <= seed < 2**63 for seed in seeds)


def test_generator_states_are_put_back():
    np.random.randn()  # leaves a second normal number waiting
    state = rng_state()
    first = (draws(), np.random.randn())
    set_rng_state(state)
    assert (draws(), np.random.randn()) == first


def test_deterministic_switch_sets_torch():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_device_is_the_one_asked_for(monkeypatch):
    assert prepare_device(1, "cpu") == (torch.device("cpu"), [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    assert prepare_device(1) == (torch.device("cuda:0"), [0])
    assert prepare_device(2) == (torch.device("cuda:0"), [0, 1])
    assert prepare_device(4) == (torch.device("cuda:0"), [0, 1])
    assert prepare_device(0) == (torch.device("cpu"), [])
    assert prepare_device(1, "cuda:1") == (torch.device("cuda:1"), [1])
    assert current == [0, 0, 0, 1]  # what names no number means the device of the run
    with pytest.raises(UserError, match="device: 'cuda:2' given, but torch finds 2"):
        prepare_device(1, "cuda:2")


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert prepare_device(3) == (torch.device("cpu"), [])
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"device: '{name}' given"):
            prepare_device(1, name)


def test_json_is_written_whole(tmp_path):
    ensure_dir(tmp_path / "a" / "b")
    write_json({"x": [1, None]}, tmp_path / "a" / "b" / "c.json")
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"x": [1, None]}
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_inf_loop_repeats():
    assert list(itertools.islice(inf_loop([1, 2]), 5)) == [1, 2, 1, 2, 1]


@pytest.mark.old_defect(17)
def test_runs_of_one_instant_get_a_folder_each(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: claim_run_folder(tmp_path, "job"), range(50)))
    assert len(set(folders)) == 50


def test_summary_counts_and_leaves_the_model_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).train()
    model[0].requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rows = model_summary(model, torch.rand(2, 4)).splitlines()
    assert rows[0] == "Sequential: 21 parameters, 15 of them frozen"
    assert re.split(" {2,}", rows[2]) == ["0", "Linear", "2 x 3", "15"]
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_hooks
    assert model_summary(model, None) == rows[0]


def cells(model, example):
    return [re.split(" {2,}", row.strip()) for row in model_summary(model, example).splitlines()[2:]]


def test_summary_of_many_layers_shows_the_parts_that_hold_them():
    def block():
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())

    stages = torch.nn.Sequential(*(torch.nn.Sequential(*(block() for _ in range(3))) for _ in range(8)))
    assert len(cells(stages[0], torch.rand(2, 4))) == 6
    rows = cells(stages, torch.rand(2, 4))  # 48 layers, in 24 blocks
    assert [row[0] for row in rows[:4]] == ["0.0", "0.1", "0.2", "1.0"] and len(rows) == 24
    assert rows[0] == ["0.0", "Sequential", "2 x 4", "20"]
    rows = cells(torch.nn.Sequential(stages, copy.deepcopy(stages)), torch.rand(2, 4))
    assert [row[0] for row in rows] == [f"{i}.{j}" for i in range(2) for j in range(8)]
    flat = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(100)))
    rows = cells(flat, torch.rand(2, 4))
    assert len(rows) == 24 and rows[-1] == ["...", "and 77 more"]


def test_summary_of_long_names_shows_their_ends():
    inner = torch.nn.ModuleDict({f"quite_a_long_name_of_a_layer_{i}": torch.nn.Linear(1, 1) for i in range(2)})
    model = torch.nn.Sequential(inner)
    model.forward = lambda data: inner["quite_a_long_name_of_a_layer_0"](data)
    assert [row[0] for row in cells(model, torch.rand(2, 1))] == [f"..._long_name_of_a_layer_{i}" for i in range(2)]


def test_summary_of_resnet18_is_short():
    torchvision = pytest.importorskip("torchvision")
    rows = cells(torchvision.models.resnet18(), torch.rand(1, 3, 32, 32))
    assert ["layer1.0", "BasicBlock", "1 x 64 x 8 x 8", "73,984"] in rows and len(rows) <= 24


def test_summary_has_what_the_forward_pass_does_not_come_to():
    class Gan(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh())
            self.critics = torch.nn.ModuleList([torch.nn.Linear(4, 1)])

        def forward(self, data):
            return self.critics[0](data)

    assert cells(Gan(), torch.rand(2, 4)) == [
        ["critics.0", "Linear", "2 x 1", "5"],
        ["generator.0", "Linear", "-", "12"],
    ]


def test_example_is_two_inputs_or_none():
    assert example_input([(torch.rand(5, 3), torch.rand(5))], torch.device("cpu")).shape == (2, 3)
    assert example_input([{"inputs": torch.rand(5, 3)}], torch.device("cpu")) is None


def test_report_fits_80_columns():
    log = {"epoch": 3, **{f"{prefix}a_long_metric_name_{i}": 0.123456 for prefix in ("", "val_") for i in range(5)}}
    lines = epoch_report(log, 12, 4.25, improved=True).splitlines()
    assert lines[0] == "epoch 3/12  4.2 s  best so far" and max(map(len, lines)) <= 80
    assert sum(line.count("val_") for line in lines) == 5


def test_columns_keep_their_places_from_epoch_to_epoch():
    names = ["loss", "accuracy", "top_k_acc", "lr", "val_loss", "val_accuracy", "val_top_k_acc"]
    reports = [
        epoch_report({"epoch": 1, **dict.fromkeys(names, value)}, 9, 1.0, improved=False)
        for value in (0.5, 12345.678, -1.2345e-05, math.nan)
    ]
    places = [[[line.find(f" {name} ") for name in names] for line in report.splitlines()[1:]] for report in reports]
    assert all(found == places[0] for found in places) and len(places[0]) == 3
    assert max(len(line) for report in reports for line in report.splitlines()) <= 80


def test_a_lock_is_let_go_also_when_python_has_cleared_the_modules(tmp_path, monkeypatch):
    lock = run_folder.RunLock(tmp_path)
    monkeypatch.setattr(run_folder, "os", None)  # as it is then
    lock._file.close()
    monkeypatch.undo()
    run_folder.RunLock(tmp_path)
