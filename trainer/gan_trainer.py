"""An unusual step: two networks trained against each other, each by an optimizer of its own."""

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid, save_image

from base import BaseCallback
from trainer.trainer import Trainer


class GanTrainer(Trainer):
    """Trains model.generator against model.discriminator; the config's optimizers are called like them.

    The model gives logits that images are real, and model.generate(latent) makes images. Logged are the generator's
    loss, for which criterion(logits, target) stands, and the discriminator's as d_loss.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
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

        self._after_update(batch_idx)
        self.train_metrics.update("d_loss", d_loss, n=len(data))
        return loss, output

    def _step(self, name, loss):
        self.optimizer[name].zero_grad()  # where the other's loss has left a gradient, too
        loss.backward()
        self.optimizer[name].step()


class SampleGrid(BaseCallback):
    """Draws what the generator makes of the same latent vectors after each epoch: samples-epoch<N>.png, TensorBoard.

    n: how many images.
    """

    def __init__(self, n: int = 64):
        self.latent_of = lambda size: torch.randn(n, size, generator=torch.Generator().manual_seed(0))

    def on_epoch_end(self, trainer, log):
        model = trainer.model if trainer.averaged_model is None else trainer.averaged_model
        model.eval()
        with torch.no_grad():
            images = model.generate(self.latent_of(model.latent_size).to(trainer.device)).cpu()
        grid = make_grid(images, normalize=True)
        save_image(grid, trainer.config.log_dir / f"samples-epoch{log['epoch']}.png")
        trainer.writer.set_step(trainer.step, timed=False)
        trainer.writer.add_image("samples", grid)
