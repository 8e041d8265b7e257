"""An unusual step: two networks trained against each other, each with its own optimizer."""

from typing import Any

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid, save_image

from base import BaseCallback
from base.training.checkpoints import evaluated_model
from base.training.optim_step import OptimStep
from trainer.trainer import Trainer
from utils import UserError
from utils.distributed.launch import refuse_several
from utils.files import replacing
from utils.runs.weights import unwrapped


class GanTrainer(Trainer):
    """Trains model.generator against model.discriminator, with the config's optimizers of the same names.

    model(images) returns logits that images are real, and model.generate(latent) returns images. The generator's loss,
    criterion(logits, target), is logged as loss, the discriminator's as d_loss. Both gradients of a batch are watched:
    with trainer.on_nonfinite "skip", the network whose gradient is not finite is not updated.
    """

    model: Any  # with the methods of a Gan
    optimizer: Any  # two by name

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refuse_several("trainer.type: GanTrainer, which calls parts of the model by themselves")
        super().__init__(*args, **kwargs)
        for key in ("accumulate", "clip_norm", "clip_value", "precision"):
            if getattr(self.settings, key) != type(self.settings).model_fields[key].default:
                raise UserError(f"trainer.{key}: this trainer's own step ignores it; leave it out")
        self.train_metrics.track("d_loss")
        self.steps = {name: self._optim_step(name) for name in ("discriminator", "generator")}
        self.optim_step = self.steps["generator"]  # its learning rate is logged

    def _train_batch(self, batch_idx, data, target):
        generated = self.model.generate(torch.randn(len(data), self.model.latent_size, device=self.device))

        output, of_generated = self.model(data), self.model(generated.detach())
        wrong_about_real = F.binary_cross_entropy_with_logits(output, torch.ones_like(output))
        wrong_about_generated = F.binary_cross_entropy_with_logits(of_generated, torch.zeros_like(of_generated))
        d_loss = (wrong_about_real + wrong_about_generated) / 2
        self.steps["discriminator"].step(d_loss, len(data))
        self.nonfinite.count_update(batch_idx)

        loss = self.criterion(self.model(generated), target)
        self.steps["generator"].step(loss, len(data))

        self.optimizer.steps += 1
        self._after_update(batch_idx)
        self.train_metrics.update("d_loss", d_loss, n=len(data))
        return loss, output

    def _optim_step(self, name):
        """The OptimStep of one network; before it steps, it clears the gradients that the other's loss has left."""
        optimizer: Any = _WhenDue(self.optimizer, name)  # has what an OptimStep calls
        return OptimStep(
            optimizer,
            watch=self.nonfinite if self.nonfinite.checks_gradients else None,
            skip_nonfinite=self.nonfinite.skips,
            buffers=getattr(unwrapped(self.model), name).buffers(),
        )


class _WhenDue:
    """One of several optimizers, which steps when it is due."""

    def __init__(self, optimizers: Any, name: str) -> None:
        self.optimizers, self.name = optimizers, name

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return self.optimizers[self.name].param_groups

    def zero_grad(self) -> None:
        """Clear the gradients of its parameters."""
        self.optimizers[self.name].zero_grad()

    def step(self) -> None:
        """Step, if the optimizer is due."""
        if self.optimizers.is_due(self.name):
            self.optimizers[self.name].step()


class SampleGrid(BaseCallback):
    """Draws the generator's images of the same n latent vectors after each epoch: samples-epoch<N>.png, TensorBoard."""

    def __init__(self, n: int = 64) -> None:
        if n < 1:
            raise UserError(f"n: got {n!r}; it should be a number from 1 on")
        self.n = n

    def on_epoch_end(self, trainer: Any, log: dict[str, Any]) -> None:
        model: Any = evaluated_model(trainer).eval()
        latent = torch.randn(self.n, model.latent_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            images = model.generate(latent.to(trainer.device)).cpu()
        grid = make_grid(images, normalize=True)
        with replacing(trainer.config.log_dir / f"samples-epoch{log['epoch']}.png", "the picture") as file:
            save_image(grid, file, format="png")
        trainer.writer.set_step(trainer.step, timed=False)
        trainer.writer.add_image("samples", grid)
