import contextlib
import os
import signal

import pytest
import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.training.saving import SavePoints
from helpers import tiny_config
from model.metric import MacroF1
from parse_config import ConfigParser
from trainer import Trainer
from utils.seed import seed_everything

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; see utils.seed.make_deterministic
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature"),
]


def cuda_trainer(save_dir, device_resident=False, resume=None, **switches):
    seed_everything(5)
    device = torch.device("cuda:0")
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    transforms = [RandomShift(1, flip=True), lambda batch: batch.float().div_(255)]
    dataset = InMemoryDataset(images, torch.arange(64) % 4, batch_transform=transforms)
    loader = BaseDataLoader(dataset, 8, True, 16, 0, device_resident=device_resident).to(device)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 4)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    config = ConfigParser(tiny_config(save_dir, epochs=2, log_step=10**6, **switches), resume=resume)
    valid = loader.split_validation()
    metric = MacroF1(4)
    metric.__name__ = "f1"
    return Trainer(model, torch.nn.CrossEntropyLoss(), [metric], optimizer, config, device, loader, valid)


@pytest.mark.parametrize("device_resident", [False, True])
@pytest.mark.parametrize(
    "switches",
    [{}, {"precision": "bf16"}, {"precision": "fp16", "accumulate": 2, "clip_norm": 1.0, "channels_last": True}],
)
def test_no_step_waits_for_the_device_between_log_points(tmp_path, device_resident, switches, monkeypatch):
    trainer = cuda_trainer(tmp_path, device_resident, **switches)
    trainer._train_epoch(1)  # buffers are made and kernels chosen in the first epoch
    steps = []

    class Bar(contextlib.nullcontext):
        disable = False

        def update(self):
            steps.append(1)
            torch.cuda.set_sync_debug_mode("error" if len(steps) < trainer.len_epoch - 1 else "default")

        def set_postfix(self, **values):
            pass

    monkeypatch.setattr("trainer.trainer.progress_bar", lambda *arguments: Bar(Bar()))
    try:
        trainer._train_epoch(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == trainer.len_epoch == 6


def test_resident_data_trains_to_the_same_weights_as_data_that_is_copied(tmp_path):
    trainers = [cuda_trainer(tmp_path / str(resident), resident) for resident in (False, True)]
    for trainer in trainers:
        trainer.train()
    assert trainers[1].data_loader.dataset.arrays[0].is_cuda
    assert all(map(torch.equal, *(trainer.model.parameters() for trainer in trainers)))


def test_the_loss_scale_survives_a_resume(tmp_path):
    straight = cuda_trainer(tmp_path, precision="fp16")
    straight.optim_step.scaler.update(1024.0)  # not the one that a new scaler starts with
    straight.train()
    checkpoint = straight.checkpoint_dir / "checkpoint-epoch1.pth"
    resumed = cuda_trainer(tmp_path, resume=checkpoint, precision="fp16")
    resumed.train()
    assert resumed.optim_step.state_dict() == straight.optim_step.state_dict()
    assert resumed.optim_step.scaler.get_scale() == 1024.0
    assert all(map(torch.equal, straight.model.parameters(), resumed.model.parameters()))


@pytest.mark.parametrize("switches", [{}, {"precision": "fp16", "accumulate": 2}])
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(tmp_path, switches):
    def weights(trainer):
        return [parameter.detach().cpu() for parameter in trainer.model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        straight = cuda_trainer(tmp_path / "a", **switches)
        straight.train()
        first = cuda_trainer(tmp_path / "b", **switches)
        first.stop_signal.received = signal.SIGTERM
        points = first.save_points
        points.between_batches = lambda: SavePoints.between_batches(points) if first.step == 4 else None
        points.stop_if_asked = lambda: SavePoints.stop_if_asked(points) if first.step == 4 else None
        with pytest.raises(SystemExit):
            first.train()
        second = cuda_trainer(tmp_path / "b", resume=first.checkpoint_dir / "checkpoint-epoch1-batch4.pth", **switches)
        second.train()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, weights(straight), weights(second)))


def test_weights_in_bf16_are_trained_and_checked(tmp_path):
    trainer = cuda_trainer(tmp_path)
    trainer.model.bfloat16()

    def compute_loss(data, target):
        output = trainer.model(data.bfloat16())
        return trainer.criterion(output, target), output

    trainer.compute_loss = compute_loss
    trainer.valid_data_loader, trainer.do_validation = None, False
    trainer.train()
    assert trainer.step == 12
    trainer.model[2].weight.grad.view(-1)[7] = torch.nan
    (flag,) = trainer.nonfinite.look(parameter.grad for parameter in trainer.model.parameters())
    assert flag.item() == 1.0


def test_a_checkpoint_of_a_gpu_is_read_as_one_of_the_cpu(tmp_path):
    trainer = cuda_trainer(tmp_path)
    trainer.train()
    weights = torch.load(trainer.checkpoint_dir / "checkpoint-epoch2.pth", weights_only=True)["state_dict"]
    assert {value.device.type for value in weights.values()} == {"cpu"}
    assert all(torch.equal(value, trainer.model.state_dict()[name].cpu()) for name, value in weights.items())
