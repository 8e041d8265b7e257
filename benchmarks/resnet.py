"""Images a second of ResNet-18 on CIFAR-sized images, compiled, in bf16 and channels_last: ours and hand-written.

    python benchmarks/resnet.py

Both train on the same 50,000 random images, kept on the GPU, and alternate epoch by epoch in one process. Without a
CUDA GPU there are few images, and nothing is compiled: this shows that the job runs, not how fast.
"""

import copy
import json
import statistics
import sys
import tempfile
import time
import warnings

import torch

from harness import print_circumstances, print_table, run_fresh

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
NUM_IMAGES, BATCH, EPOCHS = (50_000, 512, 6) if CUDA else (256, 64, 3)


def to_float(images):
    """uint8 images as float32 between -1 and 1."""
    return images.float().div_(127.5).sub_(1)


def main():
    rates = run_fresh(__file__, "worker")
    print_circumstances("torchvision")
    table = [[name, f"{rate:,.0f}"] for name, rate in rates.items()]
    print_table(["ResNet-18, 32 x 32, bf16, channels_last" + (", compiled" if CUDA else ""), "images/s"], table)


def worker():
    from torchvision.models import resnet18

    from base import BaseDataLoader, InMemoryDataset
    from utils.seed import seed_everything

    seed_everything(0)
    images = torch.randint(256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8)
    dataset = InMemoryDataset(images, torch.randint(10, (NUM_IMAGES,)), batch_transform=to_float)
    loader = BaseDataLoader(dataset, BATCH, True, 0, 0, device_resident=True, drop_last=True).to(DEVICE)
    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    by_hand = copy.deepcopy(model).to(DEVICE).to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(model.to(DEVICE), loader, folder)
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01, momentum=0.9, fused=True)
        if CUDA:
            by_hand.compile()
        rows = {"ours": [], "hand-written": []}
        for epoch in range(1, EPOCHS + 1):
            rows["ours"].append(seconds(lambda epoch=epoch: trainer._train_epoch(epoch)))
            rows["hand-written"].append(seconds(lambda epoch=epoch: train_by_hand(by_hand, optimizer, loader, epoch)))
    return {name: len(loader) * BATCH / statistics.median(times[1:]) for name, times in rows.items()}


def our_trainer(model, loader, folder):
    from parse_config import ConfigParser
    from trainer import Trainer

    settings = {"epochs": EPOCHS, "save_dir": folder, "verbosity": 0, "tensorboard": False}
    switches = {"precision": "bf16", "channels_last": True, "compile": CUDA, "cudnn_benchmark": True}
    config = ConfigParser({"name": "resnet", "trainer": settings | switches})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return Trainer(model, torch.nn.CrossEntropyLoss(), [], optimizer, config, DEVICE, loader)


def train_by_hand(model, optimizer, loader, epoch):
    model.train()
    loader.set_epoch(epoch)
    total = torch.zeros((), device=DEVICE)
    for data, target in loader:
        data, target = data.to(DEVICE, non_blocking=True), target.to(DEVICE, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total.item()


def seconds(function):
    if CUDA:
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        print("\n" + json.dumps(worker()))
    else:
        main()
