"""TrainedModel: the one way from a checkpoint to a model in use, for predict.py, test.py and notebooks."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
import torch

from base.data.examples import Examples, in_batches
from base.data.inputs import NO_INPUT, Input, build_input
from base.data.outputs import Output, named_outputs, require_one_output, spec_in
from base.data.reading import read_example
from base.data.sources import Sources, names_in
from base.data.streams import LOADERS
from base.predictions import Predictions
from base.training.evaluate import evaluation_draws, split_loader
from base.training.precision import apply_switches, autocast, to_device
from utils.batches import batches_of
from utils.config.components import PARTS
from utils.config.schema import RunSettings, TrainerSettings
from utils.config.types import build
from utils.device import exact_float, prepare_device
from utils.errors import UserError, quantity, shortened, shown
from utils.nested import as_numpy, describe, halves, joined_arrays, named_tensors
from utils.rules import precision_error
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.runs.run_folder import training_note
from utils.runs.weights import load_state, load_weights
from utils.seed import seeded

_OTHER_PROJECT = "use it in the project that it was trained in, with the same code"


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
    def load(cls, where: str | Path, device: str = "auto", config: dict[str, Any] | None = None) -> Self:
        """Return the model of a checkpoint, of a run's folder, or of the newest run: "latest" or "best". Reads no data.

        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        config: names the data in the place of the checkpoint's config. If the checkpoint holds no input, its data
            loader is built, which may read the training data, and the model has the input of that.

        Raises UserError for a checkpoint that cannot be used.
        """
        path, skipped = find_checkpoint(where)
        for reason in skipped:
            logging.getLogger("trained_model").warning("%s; skipped", reason)
        if text := training_note(where, path):
            logging.getLogger("trained_model").warning("%s", text)
        checkpoint = load_checkpoint(path)
        own = checkpoint.get("config")
        if not isinstance(own, dict) or "arch" not in own:
            raise UserError(f"{shown(path)}: holds no config with an arch, from which its model could be built")
        chosen, _ = prepare_device(_settings(RunSettings, own, shown(path)).n_gpu, device)
        loaded = cls.of_checkpoint(checkpoint, own, chosen, path)
        if config is not None:
            loaded._take_data_of(config)
        return loaded

    def _take_data_of(self, config):
        loaders = [name for name in PARTS if name.endswith("data_loader")]
        others = {name: section for name, section in self.config.items() if name not in loaders}
        self.config = others | {name: config[name] for name in loaders if name in config}
        if self._input is None:
            loader = build("data_loader", config.get("data_loader"), PARTS["data_loader"])
            if isinstance(loader, LOADERS):
                load_state("data_loader", loader, self.loader_state)
                self.loader_state = loader.state_dict()
                self._input, self.output = _declared(self.loader_state, self.output.spec())
                self._input = self._input and self._input.to(self.device)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: dict[str, Any], config: dict[str, Any], device: torch.device, path: Path | None
    ) -> Self:
        """Return the model of a checkpoint's content. config: that of the checkpoint, or another in its place."""
        trainer = {"epochs": 1, **(config.get("trainer") or {})}  # a model is used without it, too
        settings = _settings(TrainerSettings, trainer, f"{shown(path)}: trainer")
        if error := precision_error(settings.precision, device.type):
            settings = settings.model_copy(update={"precision": "fp32"})
            logging.getLogger("trained_model").warning("trainer.precision: %s; computing in fp32", error)
        remedy = "take the arch out of -c and --set, so that the checkpoint's own is built"
        if config is checkpoint.get("config"):
            remedy = _OTHER_PROJECT
        with _naming(path, f"its model {shortened(checkpoint.get('arch'))} cannot be built: ", f"; {_OTHER_PROJECT}"):
            model = build("arch", config["arch"], PARTS["arch"])
        with _naming(path):
            load_weights(model, checkpoint["state_dict"], checkpoint.get("arch"), remedy)
        model = model.to(device)
        apply_switches(model, settings.model_copy(update={"compile": False}), device)
        attributes = checkpoint.get("attributes", {})
        state = attributes.get("data_loader") if isinstance(attributes, dict) else None
        state = state if isinstance(state, dict) else {}
        with _naming(path):
            declared = _declared(state, spec_in(checkpoint))
        return cls(model, *declared, device, settings.precision, config, state, path)

    @property
    def has_input(self) -> bool:
        """Whether the checkpoint holds an input, so that raw examples can be predicted for."""
        return self._input is not None

    @property
    def input(self) -> Input:
        """The Input. Raises UserError if the checkpoint holds none."""
        if self._input is None:
            where = "the model" if self.path is None else shown(self.path)
            raise UserError(f"{where}: holds no input, so raw examples cannot be prepared; {NO_INPUT}")
        return self._input

    def __call__(self, data: Any) -> Any:
        """Return the model's output, a tensor (B, ...) or a dict or tuple of such, without gradients.

        data: a batch as the data loader makes it.
        """
        data = to_device(data, self.device)
        with _computing(self.model, data), torch.no_grad(), autocast(self.precision, self.device):
            return self.model(data)

    def outputs(self, raw: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the model's output (B, ...) for raw examples (B, ...)."""
        return self._one_output(self.prepared(raw))

    def _one_output(self, data: Any) -> torch.Tensor:
        """The model's output for a batch. Raises UserError unless it is a tensor with a row for each example."""
        output = self(data)
        require_one_output(self.model, data, output)
        return output

    def prepared(self, raw: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the model's input (B, ...) for raw examples (B, ...), which it takes as they are without an input."""
        if isinstance(raw, np.ndarray) and not raw.flags.writeable:
            raw = raw.copy()  # torch would warn
        rows: torch.Tensor = torch.as_tensor(raw)
        if self._input is not None:
            self._input.require(rows)  # which may read them, so before they are on the device
        if rows.dtype != torch.float64 or exact_float(self.device) is torch.float64:  # else it is prepared on the CPU
            rows = to_device(rows, self.device)
        if self._input is None:
            return rows
        with torch.no_grad(), _computing(self._input, rows):
            return to_device(self._input(rows), self.device)

    def predict(self, examples: Any, batch_size: int = 64, top: int = 1) -> list[dict[str, Any]]:
        """Return a dict for each example: its "prediction", and the "probability" of a class.

        examples: files and raw examples, in a list, or raw examples (N, ...) as an array or a tensor.
        top: number of most probable classes to list under "top". Raises UserError for a file that cannot be read.
        """
        outputs = [self.outputs(raw).cpu() for raw in self._parts_of(examples, batch_size)]
        rows = []
        for _, alike in itertools.groupby(outputs, key=lambda part: part.shape[1:]):
            rows += self.output.describe(torch.cat(list(alike)), top)  # in one go, which costs less than a batch each
        return rows

    def _parts_of(self, examples, batch_size):
        """Raw examples (B, ...), batch_size at a time."""
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            if not isinstance(part, (np.ndarray, torch.Tensor)):
                raw = [self._raw_example(one) for one in part]
                part = Examples.joined([Examples([0], one[None]) for one in raw]).raw
            yield part

    def _raw_example(self, one):
        """The raw example that a file's name stands for, or that the numbers are."""
        return read_example(self.input, str(one)) if isinstance(one, (str, Path)) else np.asarray(one)

    def predict_files(self, sources: Iterable[str], batch_size: int = 64, top: int = 1) -> Iterator[Predictions]:
        """Yield Predictions for files, folders, patterns, arrays and "-", as Sources of base/data/sources.py."""
        yield from self.predict_raw(Sources(sources, self._input, self.output), batch_size, top)

    def predict_raw(self, parts: Iterable[Examples], batch_size: int = 64, top: int = 1) -> Iterator[Predictions]:
        """Yield Predictions, a batch at a time, for Examples.

        Examples of another shape than those before, with which the model cannot compute, are errors.
        """
        shapes = set()
        for batch in in_batches(parts, batch_size):
            data = outputs = torch.empty(0)
            try:
                if len(batch.raw):
                    data = self.prepared(batch.raw)
                    outputs = self._one_output(data)
            except UserError as error:
                if not shapes or batch.raw.shape[1:] in shapes:
                    raise
                batch, data = batch.all_wrong(error), outputs
            if len(batch.raw):
                shapes.add(batch.raw.shape[1:])
            target = None if batch.target is None else torch.as_tensor(batch.target)
            yield Predictions(batch, outputs, data, target, self.output, top)

    def predict_split(self, loader: Any, name: str = "", top: int = 1) -> Iterator[Predictions]:
        """Yield Predictions with their targets for each batch of a loader. name: of the split."""
        names, size = names_in(loader, name), getattr(loader, "batch_size", None)
        for batch in batches_of(loader):
            data, target = halves(batch)
            outputs = self._one_output(data)
            samples = len(outputs) if isinstance(data, torch.Tensor) or size is None else size
            examples = Examples(list(itertools.islice(names, samples)))
            if len(examples.names) != len(outputs):
                rows, of = quantity(len(outputs), "row"), quantity(len(examples.names), "sample")
                remedy = "where one for each is predicted; TrainedModel.predict_loader returns all rows"
                raise UserError(f"{type(self.model).__name__} gives {rows} for {of}, {remedy}")
            yield Predictions(examples, outputs, data, target, self.output, top)

    def named_outputs(self, data: Any) -> dict[str, torch.Tensor]:
        """Return the tensors (B, ...) of the model's output for a batch, by name: "box.0"; a single one is ""."""
        return named_outputs(self.model, data, self(data))

    def predict_loader(self, loader: Iterable[Any]) -> tuple[Any, Any]:
        """Return (outputs (N, ...), targets (N, ...)) over a loader, for scikit-learn's metrics and the like.

        Each is an array; of several tensors, such as a dict, {name: array} with nested names joined by ".". A model
        that draws random numbers draws those of test.py. Raises UserError if batches differ in shape, as those of
        padded sequences do.
        """
        outputs, targets = [], []
        with evaluation_draws():
            for batch in batches_of(loader):
                data, target = halves(batch)
                outputs.append({name: as_numpy(one) for name, one in self.named_outputs(data).items()})
                named = named_tensors(target, "data_loader: a target is")
                targets.append({name: as_numpy(one) for name, one in named.items()})
        both = joined_arrays(outputs, "outputs"), joined_arrays(targets, "targets")
        found, given = (arrays[""] if list(arrays) == [""] else arrays for arrays in both)
        return found, given

    def loader(self, split: str, batch_size: int | None = None, config: dict[str, Any] | None = None) -> Any:
        """Return a DataLoader over a split of the data, "train", "valid" or "test", in a fixed order.

        config: names the data; by default the checkpoint's. Raises UserError if there is no such split.
        """
        with seeded(_settings(RunSettings, self.config, "the config").seed):  # for samples that draw random numbers
            return split_loader(config or self.config, split, batch_size, self.device, self.loader_state)[0]


@contextlib.contextmanager
def _computing(module, data):
    """Raise UserError, naming the module and the data, for what it raises."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        name = type(module).__name__
        raise UserError(f"{name} cannot compute with {describe(data)}: {shortened(error)}") from error


def _settings(kind, values, where):
    """The settings of a checkpoint's config, as one of the classes of utils/config/schema.py."""
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {shortened(first['msg'])}") from None


@contextlib.contextmanager
def _naming(path, start="", end=""):
    """Let errors within be one line that begins with the checkpoint's path."""
    try:
        yield
    except UserError as error:
        where = "the checkpoint" if path is None else shown(path)
        raise UserError(f"{where}: {start}{'; '.join(str(error).splitlines())}{end}") from None


def _declared(state, outputs):
    """(Input or None, Output) of what a checkpoint holds of its data loader and of its outputs."""
    return build_input(state["input"]) if state.get("input") else None, Output.from_state(state, outputs)
