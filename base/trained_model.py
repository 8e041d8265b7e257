"""TrainedModel: the one way from a checkpoint to a model in use, for predict.py, test.py and notebooks."""

import importlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from base.data.inputs import Input, build_input
from base.data.outputs import Output
from base.data.sources import examples_of, names_in
from base.training.precision import apply_switches, autocast, to_device
from utils.batches import batches_of
from utils.config.components import PARTS, as_spec
from utils.config.schema import RunSettings, TrainerSettings
from utils.config.types import argument_errors, call, resolve, signature_of
from utils.device import prepare_device
from utils.errors import UserError, refuse, shortened, shown
from utils.nested import describe, halves
from utils.rules import precision_error
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.runs.weights import load_weights


@dataclass
class Predictions:
    """Predictions for a batch of examples.

    rows: a dict for each example: its "source", and either its "prediction" and what belongs to it, or the "error" for
        which it could not be read.
    outputs: (B, ...) of the model, for the rows without an error.
    data: (B, ...) what the model was given for them.
    """

    rows: list[dict[str, Any]]
    outputs: torch.Tensor
    data: Any


class TrainedModel:
    """A trained model in evaluation mode, with its input and output as its data loader declared them.

    model: on its device.
    input: makes the model's input of raw examples; None if the checkpoint holds none.
    output: what the model's numbers mean.
    device: of the model.
    precision: value of trainer.precision.
    config: of the run.
    loader_state: what the checkpoint holds of the data loader.
    path: of the checkpoint, for messages.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        input: Input | None,
        output: Output,
        device: torch.device,
        precision: str = "fp32",
        config: dict[str, Any] | None = None,
        loader_state: dict[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        self.model, self.output, self.device, self.precision = model.eval(), output, device, precision
        self.config, self.loader_state, self.path = config or {}, loader_state or {}, path
        self._input = None if input is None else input.to(device).eval()

    @classmethod
    def load(cls, where: str | Path, device: str = "auto") -> Self:
        """Return the model of a checkpoint, of a run's folder, or of the "latest" run. It reads no training data.

        device: "auto", "cpu", "cuda", "cuda:1" or "mps". Raises UserError for a checkpoint that cannot be used.
        """
        path, skipped = find_checkpoint(where)
        for reason in skipped:
            logging.getLogger("trained_model").warning("%s; skipped", reason)
        checkpoint = load_checkpoint(path)
        config = checkpoint.get("config")
        if not isinstance(config, dict) or "arch" not in config:
            raise UserError(f"{shown(path)}: holds no config with an arch, from which its model could be built")
        chosen, _ = prepare_device(RunSettings.model_validate(config).n_gpu, device)
        return cls.of_checkpoint(checkpoint, config, chosen, path)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: dict[str, Any], config: dict[str, Any], device: torch.device, path: Path | None
    ) -> Self:
        """Return the model of a checkpoint's content. config: that of the checkpoint, or another in its place."""
        settings = TrainerSettings.model_validate(config.get("trainer", {}))
        if error := precision_error(settings.precision, device.type):
            settings = settings.model_copy(update={"precision": "fp32"})
            logging.getLogger("trained_model").warning("trainer.precision: %s; computing in fp32", error)
        model = _build(config["arch"])
        remedy = "take the arch out of -c and --set, so that the checkpoint's own is built"
        load_weights(model, checkpoint["state_dict"], checkpoint.get("arch"), remedy)
        model = model.to(device)
        apply_switches(model, settings.model_copy(update={"compile": False}), device)
        attributes = checkpoint.get("attributes", {})
        state = attributes.get("data_loader") if isinstance(attributes, dict) else None
        state = state if isinstance(state, dict) else {}
        declared = build_input(state["input"]) if state.get("input") else None
        output = Output.from_state(state, str(config.get("loss", "")))
        return cls(model, declared, output, device, settings.precision, config, state, path)

    @property
    def has_input(self) -> bool:
        """Whether the checkpoint holds an input, so that raw examples can be predicted for."""
        return self._input is not None

    @property
    def input(self) -> Input:
        """The Input. Raises UserError if the checkpoint holds none."""
        if self._input is None:
            remedy = "predict with --split test, or train with a data loader that has the attribute input: docs/data.md"
            raise UserError(f"{shown(self.path)}: holds no input, so raw examples cannot be prepared; {remedy}")
        return self._input

    def __call__(self, data: Any) -> Any:
        """Return the model's output, a tensor (B, ...) or a dict or tuple of such, without gradients.

        data: a batch as the data loader makes it.
        """
        data = to_device(data, self.device)
        try:
            with torch.no_grad(), autocast(self.precision, self.device):
                return self.model(data)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            name = type(self.model).__name__
            raise UserError(f"{name} cannot compute with {describe(data)}: {shortened(error)}") from error

    def outputs(self, raw: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the model's output (B, ...) for raw examples (B, ...)."""
        return self._one_output(self.prepared(raw))

    def _one_output(self, data: Any) -> torch.Tensor:
        """The model's output for a batch. Raises UserError unless it is a tensor with a row for each example."""
        output = self(data)
        require_one_output(self.model, data, output)
        return output

    def prepared(self, raw: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the model's input (B, ...) for raw examples (B, ...)."""
        raw = torch.as_tensor(raw)
        self.input.require(raw)
        with torch.no_grad():
            return self.input(to_device(raw, self.device))

    def predict(self, examples: Sequence[Any], batch_size: int = 64, top: int = 1) -> list[dict[str, Any]]:
        """Return a dict for each example, a file or a raw one: its "prediction", and the "probability" of a class.

        top: number of most probable classes to list under "top". Raises UserError for a file that cannot be read.
        """
        raw = [one if not isinstance(one, (str, Path)) else self.input.read(str(one)) for one in examples]
        found = self.predict_raw(enumerate(raw), batch_size, top)
        return [{key: cell for key, cell in row.items() if key != "source"} for part in found for row in part.rows]

    def predict_files(self, sources: Iterable[str], batch_size: int = 64, top: int = 1) -> Iterator[Predictions]:
        """Yield Predictions for files, folders, patterns, arrays and "-", as examples_of of base/data/sources.py."""
        yield from self.predict_raw(examples_of(sources, self.input), batch_size, top)

    def predict_raw(
        self, examples: Iterable[tuple[Any, Any]], batch_size: int = 64, top: int = 1
    ) -> Iterator[Predictions]:
        """Yield Predictions, a batch at a time, for pairs (name, raw example or the UserError of reading it)."""
        examples = iter(examples)
        while batch := list(itertools.islice(examples, batch_size)):
            good = [raw for _, raw in batch if not isinstance(raw, UserError)]
            described, outputs, data = iter(()), torch.empty(0), torch.empty(0)
            if good:
                data = self.prepared(_stacked(good))
                outputs = self._one_output(data)
                described = iter(self.output.describe(outputs, top))
            rows = [
                {"source": name} | ({"error": str(raw)} if isinstance(raw, UserError) else next(described))
                for name, raw in batch
            ]
            yield Predictions(rows, outputs, data)

    def predict_split(self, loader: Any, name: str = "", top: int = 1) -> Iterator[Predictions]:
        """Yield Predictions with their targets for each batch of a loader. name: of the split."""
        names = names_in(loader, name)
        for batch in batches_of(loader):
            data, target = halves(batch)
            outputs = self._one_output(data)
            described = self.output.describe(outputs, top, target)
            yield Predictions([{"source": next(names)} | row for row in described], outputs, data)

    def predict_loader(self, loader: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return (outputs (N, ...), targets (N, ...)) over a loader, for scikit-learn's metrics and the like."""
        outputs, targets = [], []
        for batch in batches_of(loader):
            data, target = halves(batch)
            outputs.append(self._one_output(data).float().cpu().numpy())
            targets.append(target.cpu().numpy())
        return np.concatenate(outputs), np.concatenate(targets)


def require_one_output(model: torch.nn.Module, data: Any, output: Any) -> None:
    """Raise UserError unless a model's output is a tensor with a row for each example of the batch data."""
    name = type(model).__name__
    if not isinstance(output, torch.Tensor):
        remedy = "in evaluation mode, return the tensor that is the prediction: if not self.training"
        raise UserError(f"{name} returns a {describe(output)}, where one tensor is predicted; {remedy}")
    if isinstance(data, torch.Tensor) and output.shape[:1] != data.shape[:1]:
        given = f"{tuple(output.shape)} for a batch of {len(data)}"
        raise UserError(
            f"{name} returns a tensor {given}; it should keep the batch's dimension: squeeze(1), not squeeze()"
        )


def _stacked(raw):
    shapes = list(dict.fromkeys(np.shape(one) for one in raw))
    if len(shapes) > 1:
        raise UserError(f"raw examples of shape {shapes[0]} and {shapes[1]}; give all the same shape")
    return np.stack(raw)


def _build(section: Any) -> torch.nn.Module:
    """The model that a config's section arch describes, with its initial weights."""
    spec, part = as_spec("arch", section), PARTS["arch"]
    try:
        found = resolve(spec["type"], importlib.import_module(part.module), part)
    except UserError as error:
        raise UserError(f"arch.type: {error}") from None
    args = dict(spec.get("args") or {})
    refuse(f"arch.args.{error}" for error in argument_errors(signature_of(found), args, 0))
    return call("arch", found, (), args)
