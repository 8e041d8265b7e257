"""The questions to a world of one are answered at once, without the files that communicate."""

import sys

import pytest
import torch
from worlds import in_world, results, small_job, train

from utils import UserError
from utils.config.schema import RunSettings
from utils.distributed import world


def imported_by_training(config):
    train("-c", config)
    return [name for name in sys.modules if name.startswith("utils.distributed.")]


@pytest.mark.slow
def test_one_process_trains_without_the_files_that_communicate(tmp_path):
    (imported,) = results(in_world(1, imported_by_training, small_job(tmp_path)))
    assert "utils.distributed.world" in imported
    communicating = {f"utils.distributed.{name}" for name in ("contact", "messages", "process_group")}
    assert not communicating & set(imported)


def test_one_process_answers_for_all():
    numbers, tensor = [1.0, 2.0], torch.ones(2)
    assert world.gather(3) == world.gather_to_main(3) == [3] and world.broadcast(3) == world.any_of(3) == 3
    assert world.any_of(None) is None and world.sums(numbers) == numbers and world.largest(tensor) is tensor
    assert world.own_samples([4, 5]) == [4, 5] and world.part_of(7) == (7, 7) and world.seed_of_process(9) == 9
    assert world.agreement()(15, 0, place=(1, 2)) == (15, 0) and world.is_first_to_say("it")


def test_a_decision_of_the_first_process_is_its_result_or_its_error():
    assert world.decided_by_main(lambda: 3) == 3

    def refuse():
        raise UserError("here: no")

    with pytest.raises(UserError, match="here: no"):
        world.decided_by_main(refuse)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_several_processes_have_an_accelerator_each_if_torch_has_a_backend_for_it(monkeypatch, kind):
    from utils.distributed import process_group
    from utils.distributed.start import processes_to_start

    monkeypatch.setattr(process_group, "accelerator", lambda: (kind, 2))
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: True)  # which varies with the build
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(process_group.process_device(1, name)) for name in ("auto", kind, "cpu")] == [f"{kind}:1"] * 2 + ["cpu"]
    with pytest.raises(UserError, match=f"'{kind}:0' is one device"):
        process_group.process_device(1, f"{kind}:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=f"3 processes on this host, and torch finds 2 {kind.upper()} devices"):
        process_group.process_device(1, "auto")
    settings = RunSettings.model_validate({"n_gpu": 4})
    assert processes_to_start(settings, None) == 2


def test_several_processes_say_that_they_leave_an_accelerator_alone_for_which_torch_has_no_backend(monkeypatch, caplog):
    from utils.distributed import process_group

    monkeypatch.setattr(process_group, "accelerator", lambda: ("mps", 1))
    process_group._tell_of_idle.cache_clear()
    assert [process_group.process_device(1, name).type for name in ("auto", "auto", "cpu")] == ["cpu"] * 3
    assert caplog.messages == [
        "device: torch.distributed has no backend for it; several processes train on the CPU, with 1 MPS device unused"
    ]
    process_group._tell_of_idle.cache_clear()


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_several_processes_train_on_the_cpu_if_torch_was_built_without_the_backend(monkeypatch, caplog, kind):
    from utils.distributed import process_group, start

    for module in (process_group, start):
        monkeypatch.setattr(module, "accelerator", lambda: (kind, 2))
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: backend == "gloo")
    process_group._tell_of_idle.cache_clear()
    assert process_group.process_device(1, "auto").type == "cpu"
    with pytest.raises(UserError, match=f"device: torch.distributed has no backend here for '{kind}'"):
        process_group.process_device(1, kind)
    assert start.processes_to_start(RunSettings.model_validate({"n_gpu": 2}), None) == 1
    told, one = caplog.messages
    assert told.endswith(f"several processes train on the CPU, with 2 {kind.upper()} devices unused")
    assert one == f"n_gpu: 2 asked for, and torch.distributed has no backend here for {kind}; using one"
    process_group._tell_of_idle.cache_clear()
