"""The default job as the users of each framework write it; epoch.py runs each in a process of its own.

All of them train MnistModel with Adam(amsgrad) and ExponentialLR on 54,000 images, validate on 6,000, measure the
loss and two metrics on both, log about 20 times an epoch, and save a checkpoint after each.
"""

import hashlib
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from base import BaseDataLoader, InMemoryDataset, whole_batch
from base.data.mnist_files import read_mnist
from base.data.sampler import EpochSampler
from harness import PROJECT, peak_memory_mb, seconds_since_start
from model.loss import cross_entropy
from model.metric import accuracy, top_k_acc
from model.model import MnistModel
from utils.files import read_json
from utils.seed import derive_seed, seed_everything

SEED = 123
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PerSampleMnist(Dataset):
    """What torchvision.datasets.MNIST does for a sample: an image of PIL's, then ToTensor and Normalize."""

    def __init__(self, images, labels):
        from torchvision import transforms

        self.images, self.labels = images.squeeze(1), labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index].numpy())), self.labels[index]


class PerSampleLoader(BaseDataLoader):
    """Our loader over a dataset of single samples."""

    def __init__(self, batch_size, num_workers):
        super().__init__(PerSampleMnist(*read_mnist("data/", True)), batch_size, True, 0.1, num_workers)


class Watch:
    """Records when the first step was done and when each epoch, including its checkpoint, was over."""

    def __init__(self):
        self.first_step = None
        self.ends = []

    def step(self):
        if self.first_step is None:
            self.first_step = seconds_since_start()

    def epoch(self):
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def ours(watch, epochs, folder, loader=None, **trainer):
    """train.py with config.json."""
    import data_loader.data_loaders as module_data
    import train
    from base.training.optim_step import OptimStep
    from logger import CsvLog
    from parse_config import ConfigParser
    from trainer import Trainer

    config = read_json(PROJECT / "config.json")
    config["trainer"].update(epochs=epochs, save_dir=folder, **trainer)
    if loader is not None:
        module_data.PerSampleLoader = PerSampleLoader
        config["data_loader"] = loader
    step, append, init = OptimStep.step, CsvLog.append, Trainer.__init__
    trainers = []
    OptimStep.step = lambda *args: (step(*args), watch.step())[0]
    CsvLog.append = lambda *args: (append(*args), watch.epoch())[0]
    Trainer.__init__ = lambda self, *args, **kwargs: (init(self, *args, **kwargs), trainers.append(self))[0]
    train.main(ConfigParser(config))
    return trainers[0].model, trainers[0].saved_log["val_accuracy"]


def ours_per_sample(watch, epochs, folder):
    """The same with a dataset of single samples and two workers."""
    section = {"type": "PerSampleLoader", "args": {"batch_size": 128, "num_workers": 2}}
    return ours(watch, epochs, folder, loader=section)


def ours_without_saves(watch, epochs, folder):
    """The same as ours without checkpoints, best model and early stopping."""
    return ours(watch, epochs, folder, save_period=10**6, monitor="off", early_stop=0)


def ours_without_tensorboard(watch, epochs, folder):
    """The same as ours without TensorBoard."""
    return ours(watch, epochs, folder, tensorboard=False)


def hand_written(watch, epochs, folder, per_sample=False):
    """A loop as good as we can write it, with our order and our random numbers, so that the weights must be equal."""
    from torch.utils.tensorboard import SummaryWriter

    seed_everything(SEED)
    model, optimizer, scheduler = parts()
    train_loader, valid_loader = per_sample_loaders(2) if per_sample else fast_loaders()
    writer = SummaryWriter(folder)
    names = ("loss", "accuracy", "top_k_acc")
    for epoch in range(1, epochs + 1):
        seed_everything(derive_seed(SEED, epoch))
        train_loader.sampler.set_epoch(epoch)
        model.train()
        total = torch.zeros(3, dtype=torch.float64, device=DEVICE)
        for i, (data, target) in enumerate(train_loader):
            data, target = data.to(DEVICE, non_blocking=True), target.to(DEVICE, non_blocking=True)
            optimizer.zero_grad()
            output = model(data)
            loss = cross_entropy(output, target)
            loss.backward()
            optimizer.step()
            watch.step()
            total += measured(loss, output, target) * len(target)
            if i % 21 == 20:
                writer.add_scalar("loss", loss.item(), epoch * len(train_loader) + i)
        values = dict(zip(names, (total / len(train_loader.sampler)).tolist(), strict=True))
        model.eval()
        total.zero_()
        with torch.no_grad():
            for data, target in valid_loader:
                data, target = data.to(DEVICE, non_blocking=True), target.to(DEVICE, non_blocking=True)
                output = model(data)
                total += measured(cross_entropy(output, target), output, target) * len(target)
        valid = dict(zip(names, (total / len(valid_loader.sampler)).tolist(), strict=True))
        for name in names:
            writer.add_scalar(f"epoch/{name}", values[name], epoch)
            writer.add_scalar(f"epoch/val_{name}", valid[name], epoch)
        scheduler.step()
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, Path(folder, f"{epoch}.pth"))
        watch.epoch()
    return model, valid["accuracy"]


def hand_written_per_sample(watch, epochs, folder):
    """The same with a dataset of single samples and two workers."""
    return hand_written(watch, epochs, folder, per_sample=True)


def old_template(watch, epochs, folder):
    """What the old template does: two workers, started again for each pass, torch's default memory format and Adam, and
    at every step a wait for each number, a pandas table, TensorBoard scalars and image grids."""
    import pandas
    from torch.utils.tensorboard import SummaryWriter
    from torchvision.utils import make_grid

    seed_everything(SEED)
    model = MnistModel().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    train_loader, valid_loader = per_sample_loaders(2, persistent_workers=False)
    writer = SummaryWriter(folder)
    names = ["loss", "accuracy", "top_k_acc"]

    def one_pass(loader, mode, count, images_every):
        table = pandas.DataFrame(0.0, index=names, columns=["total", "counts", "average"])
        previous = time.perf_counter()
        for i, (data, target) in enumerate(loader):
            data, target = data.to(DEVICE), target.to(DEVICE)
            if mode == "train":
                optimizer.zero_grad()
            output = model(data)
            loss = cross_entropy(output, target)
            if mode == "train":
                loss.backward()
                optimizer.step()
                watch.step()
            step = count * len(loader) + i
            writer.add_scalar(f"steps_per_sec/{mode}", 1 / (time.perf_counter() - previous), step)
            previous = time.perf_counter()
            values = loss.item(), accuracy(output, target).item(), top_k_acc(output, target).item()
            for name, value in zip(names, values, strict=True):
                writer.add_scalar(f"{name}/{mode}", value, step)
                table.loc[name, "total"] += value
                table.loc[name, "counts"] += 1
                table.loc[name, "average"] = table.loc[name, "total"] / table.loc[name, "counts"]
            if i % images_every == 0:
                writer.add_image(f"input/{mode}", make_grid(data.cpu(), nrow=8, normalize=True), step)
        return dict(table["average"])

    for epoch in range(epochs):
        model.train()
        one_pass(train_loader, "train", epoch, images_every=11)
        model.eval()
        with torch.no_grad():
            values = one_pass(valid_loader, "valid", epoch, images_every=1)
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, epoch, bins="auto")
        scheduler.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(folder, f"{epoch}.pth"))
        watch.epoch()
    return model, values["accuracy"]


def lightning(watch, epochs, folder, per_sample=True):
    """Lightning with its usual logging; with two workers and single samples, as its users write it."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = MnistModel()
            if not per_sample:
                self.model.to(memory_format=torch.channels_last)

        def training_step(self, batch, batch_idx):
            data, target = batch
            output = self.model(data)
            loss = cross_entropy(output, target)
            self.log("loss", loss, on_step=True, on_epoch=True)
            self.log("accuracy", accuracy(output, target), on_step=False, on_epoch=True)
            self.log("top_k_acc", top_k_acc(output, target), on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            data, target = batch
            output = self.model(data)
            self.log("val_loss", cross_entropy(output, target))
            self.log("val_accuracy", accuracy(output, target))
            self.log("val_top_k_acc", top_k_acc(output, target))

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.002, amsgrad=True, fused=None if per_sample else True)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]

    class Marks(pl.Callback):
        def on_train_batch_end(self, *args):
            watch.step()

        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch > 0:
                watch.epoch()

    pl.seed_everything(SEED, verbose=False)
    train_loader, valid_loader = per_sample_loaders(2) if per_sample else fast_loaders()
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[Marks()],
        log_every_n_steps=21,
        enable_progress_bar=False,
        accelerator="auto",
        devices=1,
    )
    module = Module()
    trainer.fit(module, train_loader, valid_loader)
    watch.epoch()
    return module.model, trainer.callback_metrics["val_accuracy"].item()


def lightning_fast(watch, epochs, folder):
    """Lightning with our whole batches, memory order and fused Adam."""
    return lightning(watch, epochs, folder, per_sample=False)


def ignite(watch, epochs, folder):
    """Ignite with our whole batches, memory order and fused Adam; its metrics, TensorBoard and checkpoints."""
    from ignite.engine import Engine, Events, create_supervised_evaluator
    from ignite.handlers import Checkpoint, DiskSaver, TensorboardLogger
    from ignite.handlers.tensorboard_logger import OutputHandler
    from ignite.metrics import Accuracy, Loss, TopKCategoricalAccuracy

    seed_everything(SEED)
    model, optimizer, scheduler = parts()
    train_loader, valid_loader = fast_loaders()

    def update(engine, batch):
        model.train()
        data, target = (part.to(DEVICE, non_blocking=True) for part in batch)
        optimizer.zero_grad()
        output = model(data)
        loss = cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        watch.step()
        return {"loss": loss.detach(), "y_pred": output.detach(), "y": target}

    def metrics(transform=None):
        kwargs = {"output_transform": transform} if transform else {}
        return {
            "loss": Loss(cross_entropy, **kwargs),
            "accuracy": Accuracy(**kwargs),
            "top": TopKCategoricalAccuracy(3, **kwargs),
        }

    engine = Engine(update)
    for name, metric in metrics(lambda out: (out["y_pred"], out["y"])).items():
        metric.attach(engine, name)
    evaluator = create_supervised_evaluator(model, metrics(), device=DEVICE)
    logger = TensorboardLogger(log_dir=folder)
    every = Events.ITERATION_COMPLETED(every=21)
    logger.attach(engine, OutputHandler("train", output_transform=lambda out: {"loss": out["loss"].item()}), every)
    logger.attach(
        evaluator,
        OutputHandler("valid", metric_names="all", global_step_transform=lambda *_: engine.state.epoch),
        Events.EPOCH_COMPLETED,
    )
    saver = Checkpoint({"model": model, "optimizer": optimizer}, DiskSaver(folder, require_empty=False), n_saved=None)

    @engine.on(Events.EPOCH_COMPLETED)
    def finish(engine):
        evaluator.run(valid_loader)
        scheduler.step()
        saver(engine)
        watch.epoch()

    engine.run(train_loader, max_epochs=epochs)
    return model, evaluator.state.metrics["accuracy"]


def accelerate(watch, epochs, folder):
    """A loop with Accelerate, our whole batches, memory order and fused Adam; its tracker and its save_state."""
    from accelerate import Accelerator

    accelerator = Accelerator(log_with="tensorboard", project_dir=folder, cpu=DEVICE.type == "cpu")
    accelerator.init_trackers("mnist")
    seed_everything(SEED)
    model, optimizer, scheduler = parts()
    train_loader, valid_loader = fast_loaders()
    model, optimizer, scheduler, train_loader, valid_loader = accelerator.prepare(
        model, optimizer, scheduler, train_loader, valid_loader
    )
    for epoch in range(1, epochs + 1):
        model.train()
        total = torch.zeros(3, dtype=torch.float64, device=DEVICE)
        for i, (data, target) in enumerate(train_loader):
            optimizer.zero_grad()
            output = model(data)
            loss = cross_entropy(output, target)
            accelerator.backward(loss)
            optimizer.step()
            watch.step()
            total += measured(loss, output, target) * len(target)
            if i % 21 == 20:
                accelerator.log({"loss": loss.item()}, step=epoch * 422 + i)
        train_values = (total / 54000).tolist()
        model.eval()
        total.zero_()
        with torch.no_grad():
            for data, target in valid_loader:
                output = model(data)
                total += measured(cross_entropy(output, target), output, target) * len(target)
        values = (total / 6000).tolist()
        accelerator.log(
            {"epoch_loss": train_values[0], "val_loss": values[0], "val_accuracy": values[1]}, step=epoch * 422
        )
        scheduler.step()
        accelerator.save_state(f"{folder}/{epoch}")
        watch.epoch()
    accelerator.end_training()
    return model, values[1]


JOBS = {
    function.__name__: function
    for function in (
        ours,
        ours_per_sample,
        ours_without_saves,
        ours_without_tensorboard,
        hand_written,
        hand_written_per_sample,
        lightning,
        lightning_fast,
        ignite,
        accelerate,
        old_template,
    )
}


def parts():
    """The model, its optimizer and its schedule, with the default job's settings."""
    model = MnistModel().to(DEVICE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, weight_decay=0, amsgrad=True, fused=True)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


def normalize(images):
    """Images (N, 1, 28, 28) uint8 as float32, with mean 0 and deviation 1 over the training images."""
    return images.float().sub_(0.1307 * 255).div_(0.3081 * 255)


def fast_loaders():
    """Loaders of whole batches over the training and the validation part."""
    dataset = InMemoryDataset(*read_mnist("data/", True), batch_transform=normalize)
    return loaders(dataset, collate_fn=whole_batch)


def per_sample_loaders(num_workers, persistent_workers=True):
    """The same over single samples."""
    dataset = PerSampleMnist(*read_mnist("data/", True))
    return loaders(dataset, num_workers=num_workers, persistent_workers=persistent_workers)


def loaders(dataset, **kwargs):
    order = np.random.RandomState(0).permutation(60000)
    train_indices, valid_indices = order[6000:], order[:6000]
    kwargs |= {"pin_memory": DEVICE.type == "cuda", "generator": torch.Generator()}
    return (
        DataLoader(dataset, 128, sampler=EpochSampler(train_indices, shuffle=True), **kwargs),
        DataLoader(dataset, 128, sampler=EpochSampler(valid_indices, shuffle=False), **kwargs),
    )


def measured(loss, output, target):
    """The loss and the metrics of a batch, (3,) float64."""
    return torch.stack([loss.detach().double(), accuracy(output, target), top_k_acc(output, target)])


def digest(model):
    """SHA-256 of all parameters, the same for equal weights only."""
    content = b"".join(value.detach().cpu().contiguous().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, epochs, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    watch = Watch()
    model, valid_accuracy = JOBS[name](watch, epochs, folder)
    seconds = [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)]
    result = {
        "epoch_seconds": seconds,  # the first epoch is a warm-up and left out
        "first_step": watch.first_step,
        "peak_memory_mb": peak_memory_mb(),
        "valid_accuracy": valid_accuracy,
        "weights": digest(model),
    }
    print("\n" + json.dumps(result))
