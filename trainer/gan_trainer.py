"""An unusual step: two networks trained against each other, each by an optimizer of its own."""

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid, save_image

from base import BaseCallback
from base.trainer_state import measured_model
from trainer.trainer import Trainer
from utils import UserError


class GanTrainer(Trainer):
    """Trains model.generator against model.discriminator; the config's optimizers are called like them.

    The model gives logits that images are real, and model.generate(latent) makes images. Logged are the generator's
    loss, for which criterion(logits, target) stands, and the discriminator's as d_loss.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for key in ("accumulate", "clip_norm", "clip_value", "precision"):
            if getattr(self.settings, key) != type(self.settings).model_fields[key].default:
                raise UserError(f"trainer.{key}: this trainer's own step takes no notice of it; leave it out")
        self.train_metrics.track("d_loss")

    def _train_batch(self, batch_idx, data, target):
        generated = self.model.generate(torch.randn(len(data), self.model.latent_size, device=self.device))

        output, of_generated = self.model(data), self.model(generated.detach())
        wrong_about_real = F.binary_cross_entropy_with_logits(output, torch.ones_like(output))
        wrong_about_generated = F.binary_cross_entropy_with_logits(of_generated, torch.zeros_like(of_generated))
        d_loss = (wrong_about_real + wrong_about_generated) / 2
        self._step("discriminator", d_loss)

        loss = self.criterion(self.model(generated), target)
        self._step("generator", loss)

        self.optimizer.steps += 1
        self._after_update(batch_idx)
        self.train_metrics.update("d_loss", d_loss, n=len(data))
        return loss, output

    def _step(self, name, loss):
        self.optimizer[name].zero_grad()  # where the other's loss has left a gradient, too
        loss.backward()
        if self.optimizer.is_due(name):
            self.optimizer[name].step()


class SampleGrid(BaseCallback):
    """Draws what the generator makes of the same latent vectors after each epoch: samples-epoch<N>.png, TensorBoard.

    n: how many images.
    """

    def __init__(self, n: int = 64):
        if n < 1:
            raise UserError(f"n: got {n!r}; it should be a number from 1 on")
        self.n = n

    def on_epoch_end(self, trainer, log):
        model = measured_model(trainer).eval()
        latent = torch.randn(self.n, model.latent_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            images = model.generate(latent.to(trainer.device)).cpu()
        grid = make_grid(images, normalize=True)
        save_image(grid, trainer.config.log_dir / f"samples-epoch{log['epoch']}.png")
        trainer.writer.set_step(trainer.step, timed=False)
        trainer.writer.add_image("samples", grid)
