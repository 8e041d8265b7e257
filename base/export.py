"""Write a trained model as one file for other programs, with its input inside, and compare it with the model."""

import contextlib
import io
import json
import logging
import os
import secrets
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.data.in_memory import InMemoryDataset
from base.data.sources import names_in
from base.data.texts import TextInput
from base.trained_model import TrainedModel, require_one_output
from utils.batches import batches_of
from utils.errors import UserError, shortened, shown
from utils.nested import describe, halves

TOLERANCE = 1e-4  # of an output in float32
BATCH_SIZES = (1, 7, 64)
NUM_EXAMPLES = 256
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}


class Deployed(torch.nn.Module):
    """A model with its input: raw examples (B, ...) -> outputs (B, ...)."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.input = trained.input if trained.has_input else torch.nn.Identity()
        self.model = trained.model

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the model's outputs."""
        return self.model(self.input(raw))


def export(trained: TrainedModel, kind: str, path: Path, raw: torch.Tensor, about: dict[str, Any]) -> float:
    """Write the model as ONNX or as a program of torch.export, and return the largest difference of its outputs.

    kind: "onnx" or "torch".
    raw: raw examples (N, ...) to compare on, in batches of 1, 7 and 64.
    about: plain values to keep in the file: the classes, the run and the like.

    Raises UserError, and leaves the file at path as it was, if the model cannot be exported, or if an output of the
    file, which is loaded again, differs by more than TOLERANCE from the model's.
    """
    require_packages(kind)
    deployed = Deployed(trained).float().cpu().eval()
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{ENDINGS[kind]}")
    write, load = {"onnx": (_write_onnx, _load_onnx), "torch": (_write_torch, _load_torch)}[kind]
    try:
        with _quiet():
            largest_difference(deployed, lambda raw: deployed(raw).detach().numpy(), raw[:1])  # refuses its outputs
            write(deployed, raw, temporary, about)
            difference = largest_difference(deployed, load(temporary), raw)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{shown(path)}: not written: an output of the exported model differs by {difference:.2g} from the "
                f"model's, and {TOLERANCE:g} is allowed"
            )
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def require_packages(kind: str) -> None:
    """Raise UserError if a package is missing that this kind of file needs."""
    missing = [name for name in NEEDS[kind] if find_spec(name) is None]
    if missing:
        raise UserError(f"--to {kind}: needs packages that are not installed: pip install {' '.join(missing)}")


def largest_difference(deployed: Deployed, loaded: Callable[[torch.Tensor], np.ndarray], raw: torch.Tensor) -> float:
    """Return the largest absolute difference of two functions of raw examples, in batches of BATCH_SIZES."""
    largest = 0.0
    for size in BATCH_SIZES:
        for batch in raw.split(size):
            with torch.no_grad():
                output = deployed(batch)
            require_one_output(getattr(deployed, "model", deployed), batch, output)
            wanted = output.double().numpy()
            differences = np.abs(loaded(batch).astype(np.float64) - wanted)
            largest = max(largest, float(differences.max(initial=0.0)) if np.isfinite(differences).all() else np.inf)
    return largest


def raw_examples(trained: TrainedModel, loader: Any, number: int = NUM_EXAMPLES) -> torch.Tensor:
    """Return the first raw examples (number, ...) of a loader: what its input is given, or else the model's input."""
    dataset = getattr(loader.dataset, "dataset", loader.dataset)
    if not trained.has_input:
        return _first_tensors(loader, number)
    if isinstance(dataset, InMemoryDataset):
        indices = [int(index) for index, _ in zip(loader.sampler, range(number), strict=False)]
        rows = torch.as_tensor(np.asarray(dataset.arrays[0][indices]))
        # a block of text holds the last target, too
        return rows[:, : trained.input.arguments["block_size"]] if isinstance(trained.input, TextInput) else rows
    files = [file for file, _ in zip(names_in(loader, ""), range(number), strict=False)]
    return torch.as_tensor(np.stack([trained.input.read(file) for file in files]))


def _first_tensors(loader, number):
    parts = []
    for batch in batches_of(loader):
        data, _ = halves(batch)
        if not isinstance(data, torch.Tensor):
            raise UserError(f"the model takes a {describe(data)}; models of one tensor can be exported")
        parts.append(data)
        if sum(map(len, parts)) >= number:
            break
    return torch.cat(parts)[:number].cpu()


def _write_onnx(deployed, raw, path, about):
    try:
        program = torch.onnx.export(
            deployed,
            (raw[:2],),
            dynamo=True,
            dynamic_shapes={"raw": {0: torch.export.Dim("batch")}},
            input_names=["raw"],
            output_names=["output"],
            verbose=False,
        )
    except Exception as error:  # the exporter raises errors of many kinds
        raise UserError(f"the model cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None  # it is, with dynamo
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    program.save(path, external_data=False)


def _load_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def outputs(raw: torch.Tensor) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {"raw": raw.numpy()})[0])
        except Exception as error:  # onnxruntime's errors have no common class
            raise UserError(f"the exported model cannot compute with {describe(raw)}: {_reason(error)}") from error

    return outputs


def _write_torch(deployed, raw, path, about):
    try:
        program = torch.export.export(deployed, (raw[:2],), dynamic_shapes={"raw": {0: torch.export.Dim("batch")}})
    except Exception as error:
        raise UserError(f"the model cannot be exported by torch.export: {_reason(error)}") from error
    torch.export.save(program, path, extra_files={"about.json": json.dumps(about)})


def _load_torch(path):
    module = torch.export.load(path).module()
    return lambda raw: module(raw).detach().numpy()


def _reason(error):
    """The error that an exporter met in a line, and what would do if that is known."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = shortened(f"{type(error).__name__}: {lines[0] if lines else ''}")
    if any(sign in str(error) for sign in ("specialized it to be a constant", "invalid dimensions for input")):
        return f"{reason}; it takes the length of its first batch for all: write x.shape[0] or -1, not len(x)"
    if "data-dependent" in str(error) or "ata-dependent branching" in str(error):
        return f"{reason}; it decides by values of the data: write torch.where(condition, a, b), not if"
    return reason


@contextlib.contextmanager
def _quiet():
    """A context without the exporters' warnings, progress, and the programs that they print."""
    logging.disable(logging.CRITICAL)
    unseen = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
