"""TrainedModel: the one way from a checkpoint to a model in use, for predict.py, test.py and notebooks."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from base.data.inputs import Input, build_input
from base.data.outputs import Output
from base.training.precision import apply_switches, autocast, to_device
from utils.batches import batches_of
from utils.config.components import PARTS, as_spec
from utils.config.schema import RunSettings, TrainerSettings
from utils.config.types import argument_errors, call, resolve, signature_of
from utils.device import prepare_device
from utils.errors import UserError, refuse, shown
from utils.nested import halves
from utils.rules import precision_error
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.runs.weights import load_weights


class TrainedModel:
    """A trained model in evaluation mode, with its input and output as the data loader declared them.

    model: on its device.
    input: makes the model's input of raw examples; None if the checkpoint holds none.
    output: what the model's numbers mean.
    device: torch.device.
    precision: value of trainer.precision.
    path: of the checkpoint.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        input: Input | None,
        output: Output,
        device: torch.device,
        precision: str = "fp32",
        path: Path | None = None,
    ) -> None:
        self.model, self.output, self.device, self.precision, self.path = model.eval(), output, device, precision, path
        self._input = None if input is None else input.to(device).eval()

    @classmethod
    def load(cls, where: str | Path, device: str = "auto") -> Self:
        """Return the model of a checkpoint, a run folder or "latest"; the training data are not read.

        device: "auto", "cpu", "cuda", "cuda:1" or "mps". Raises UserError for a checkpoint that cannot be used.
        """
        path, _ = find_checkpoint(where)
        checkpoint = load_checkpoint(path)
        config = checkpoint.get("config")
        if not isinstance(config, dict) or "arch" not in config:
            raise UserError(f"{shown(path)}: holds no config with an arch, from which its model could be built")
        chosen, _ = prepare_device(RunSettings.model_validate(config).n_gpu, device)
        settings = TrainerSettings.model_validate(config.get("trainer", {}))
        if error := precision_error(settings.precision, chosen.type):
            settings = settings.model_copy(update={"precision": "fp32"})
            print(f"trainer.precision: {error}; computing in fp32")
        model = _built(config["arch"])
        load_weights(model, checkpoint["state_dict"])
        model = model.to(chosen)
        apply_switches(model, settings.model_copy(update={"compile": False}), chosen)
        state = checkpoint.get("attributes", {}).get("data_loader")
        state = state if isinstance(state, dict) else {}
        declared = build_input(state["input"]) if state.get("input") else None
        output = Output.from_state(state, str(config.get("loss", "")))
        return cls(model, declared, output, chosen, settings.precision, path)

    @property
    def input(self) -> Input:
        """The Input. Raises UserError if the checkpoint holds none."""
        if self._input is None:
            raise UserError(
                f"{shown(self.path)}: its data loader declared no input, so raw examples cannot be prepared; give its "
                "loader an attribute input, see docs/data.md, and train, or use --split"
            )
        return self._input

    def __call__(self, data: Any) -> Any:
        """Return the model's output for its input, a batch as the data loader makes it; without gradients."""
        with torch.no_grad(), autocast(self.precision, self.device):
            return self.model(to_device(data, self.device))

    def outputs(self, raw: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the model's output (B, ...) for raw examples (B, ...)."""
        with torch.no_grad():
            return self(self.input(to_device(torch.as_tensor(raw), self.device)))

    def predict(self, sources: Sequence[Any], batch_size: int = 64, top: int = 1) -> list[dict[str, Any]]:
        """Return a dict for each source, a file or a raw example: its "prediction" and what belongs to it.

        top: of classes, the number of most probable ones to list. Raises UserError for a file that cannot be read.
        """
        raws = (self.input.read(str(one)) if isinstance(one, (str, Path)) else np.asarray(one) for one in sources)
        return [row for rows in self.predict_each(raws, batch_size, top) for row in rows]

    def predict_each(self, raws: Iterable[Any], batch_size: int = 64, top: int = 1) -> Iterator[list[dict[str, Any]]]:
        """Yield the predictions of each batch of raw examples; only one batch at a time is in memory."""
        for batch in batched(raws, batch_size):
            yield self.output.describe(self.outputs(np.stack(batch)), top)

    def predict_loader(self, loader: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return (outputs (N, ...), targets (N, ...)) over a loader, for example for scikit-learn's metrics."""
        outputs, targets = [], []
        for batch in batches_of(loader):
            data, target = halves(batch)
            outputs.append(self(data).float().cpu().numpy())
            targets.append(target.cpu().numpy())
        return np.concatenate(outputs), np.concatenate(targets)


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to size items."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _built(section: Any) -> torch.nn.Module:
    """The model that a config's section arch describes, with its initial weights."""
    spec, part = as_spec("arch", section), PARTS["arch"]
    try:
        found = resolve(spec["type"], importlib.import_module(part.module), part)
    except UserError as error:
        raise UserError(f"arch.type: {error}") from None
    args = dict(spec.get("args") or {})
    refuse(f"arch.args.{error}" for error in argument_errors(signature_of(found), args, 0))
    return call("arch", found, (), args)
