"""YOURS: pictures of what an autoencoder makes of validation images, in TensorBoard."""

from itertools import islice

import torch

from base import BaseCallback
from trainer.speed import to_device
from utils import UserError


class Reconstructions(BaseCallback):
    """Shows the first validation images (C, H, W), from 0 to 1, in a row above what the model makes of them.

    num_images: how many. every_epochs: how often.
    """

    def __init__(self, num_images: int = 16, every_epochs: int = 1):
        for argument, value in (("num_images", num_images), ("every_epochs", every_epochs)):
            if value < 1:
                raise UserError(f"{argument}: got {value}; it should be 1 or more")
        self.num_images, self.every_epochs = num_images, every_epochs

    def on_train_start(self, trainer):
        loader = trainer.valid_data_loader
        if loader is None:
            raise UserError("callbacks: Reconstructions shows validation images; set data_loader.args.validation_split")
        first = loader.dataset.__getitems__(list(islice(loader.sampler, self.num_images)))
        images, _ = loader.collate_fn(first)
        self.images = to_device(images, trainer.device)

    def on_epoch_end(self, trainer, log):
        if trainer.writer.enabled and log["epoch"] % self.every_epochs == 0:
            trainer.writer.set_step(trainer.step, "valid", timed=False)
            trainer.writer.add_image("reconstructions", two_rows(self.images, reconstruct(trainer.model, self.images)))


def reconstruct(model, images):
    """What the model makes of the images (N, C, H, W) when it does not train."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        made = model(images)
    model.train(was_training)
    return made


def two_rows(above, below):
    """One picture (C, 2 H, N W) of the images (N, C, H, W) above and below."""
    rows = [torch.cat(list(images.float()), dim=2) for images in (above, below)]
    return torch.cat(rows, dim=1).clamp(0, 1)
