"""Write a trained model as one file for other programs, with its input inside, and compare it with the model."""

import contextlib
import io
import json
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from base.data.in_memory import InMemoryDataset
from base.data.inputs import Input
from base.data.outputs import require_one_output
from base.data.reading import read_example
from base.data.seeded import unseeded
from base.data.texts import TextInput
from base.trained_model import TrainedModel
from utils.batches import batches_of, file_of
from utils.errors import UserError, quantity, shortened, shown
from utils.files import replace_file
from utils.nested import describe, halves
from utils.runs.checkpoint import load_checkpoint
from utils.runs.environment import last_start
from utils.runs.safetensors_io import read_safetensors, write_safetensors

TOLERANCE = 1e-4  # of an output in float32
BATCH_SIZES = (1, 7, 64)
NUM_EXAMPLES = 256
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors", "triton": ""}
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS = {"onnx": _ONNX, "torch": (), "safetensors": ("safetensors",), "triton": _ONNX}


class Differs(UserError):
    """What was written and loaded again does not give the model's numbers."""


class Deployed(torch.nn.Module):
    """A model with its input: raw examples (B, ...) -> outputs (B, ...)."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.input = trained.input if trained.has_input else torch.nn.Identity()
        self.model = trained.model

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the model's outputs."""
        return self.model(self.input(raw))


def place_of(kind: str, checkpoint: Path, out: Path | None, card: bool) -> tuple[Path, Path | None]:
    """Return (what to write, its model card or None). Raises UserError if one of them cannot be written there.

    out: by default a file beside the checkpoint. Triton calls the model as the folder.
    """
    if out is None and kind == "triton":
        raise UserError("--to triton: give --out FOLDER, in a folder for all models; its name becomes the model's")
    if out is not None and out.suffix != ENDINGS[kind]:
        wanted = f"end in {ENDINGS[kind]}" if ENDINGS[kind] else "be the name of a folder, without an ending"
        raise UserError(f"--out: {shown(out)}: should {wanted}")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out: {shown(out.parent)}: there is no such folder")
    place = out or checkpoint.with_suffix(ENDINGS[kind])
    if place.is_dir() or (kind == "triton" and os.path.lexists(place)):
        raise UserError(f"--out: {shown(place)}: exists; give another name, or move it away")
    beside = place.with_name("README.md") if card else None
    if beside is not None and os.path.lexists(beside):
        raise UserError(f"--card: {shown(beside)}: exists; give --out in another folder, or move it away")
    return place, beside


def require_packages(kind: str) -> None:
    """Raise UserError if a package is missing that this kind of file needs."""
    missing = [name for name in _NEEDS[kind] if find_spec(name) is None]
    if missing:
        raise UserError(f"--to {kind}: needs packages that are not installed: pip install {' '.join(missing)}")


def export(trained: TrainedModel, kind: str, path: Path, raw: torch.Tensor, facts: dict[str, Any]) -> str:
    """Write the model as ONNX or as a program of torch.export, and return how it compares with the model.

    kind: "onnx" or "torch".
    raw: raw examples (N, ...) to compare on, in batches of 1, 7 and 64.
    facts: to keep in the file, as facts_of returns them.

    Raises UserError, and leaves the file at path as it was, if the model cannot be exported, and Differs if an output
    of the file, which is loaded again, differs by more than TOLERANCE from the model's.
    """
    deployed = Deployed(trained).cpu().eval()
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in deployed.parameters()):
        deployed.float()  # what was rounded loses nothing, and a model of double precision keeps it
    write, load = {"onnx": (_write_onnx, _load_onnx), "torch": (_write_torch, _load_torch)}[kind]
    with _quiet(), _checked(path) as temporary:
        largest_difference(deployed, lambda raw: deployed(raw).detach().numpy(), raw[:1])  # refuses its outputs
        note = write(deployed, raw, temporary, facts)
        difference = largest_difference(deployed, load(temporary), raw)
        if not difference <= TOLERANCE:
            raise Differs(
                f"{shown(path)}: not written: an output of the exported model differs by {difference:.2g} from the "
                f"model's, and {TOLERANCE:g} is allowed"
            )
        size = temporary.stat().st_size
    held = "with its input" if trained.has_input else "without an input: it takes what the data loader made of the data"
    return (
        f"{held}, {note}{size:,} bytes\nloaded again: outputs differ by {difference:.2g} at most, on "
        f"{quantity(len(raw), 'test sample')}"
    )


def export_weights(checkpoint: Path, path: Path) -> str:
    """Write a checkpoint's weights and config as .safetensors, and return how they compare with it.

    Raises UserError, and leaves the file at path as it was, if they cannot be written, and Differs unless every tensor
    that is read again equals the checkpoint's.
    """
    state = load_checkpoint(checkpoint)
    with _checked(path) as temporary:
        write_safetensors(state, temporary)
        wanted, found = state["state_dict"], read_safetensors(temporary)["state_dict"]
        wrong = [name for name in wanted if name not in found or not _same(wanted[name], found[name])]
        if wrong:
            raise Differs(f"{shown(path)}: not written: {shown(wrong[0])} differs when it is read again")
    return f"the weights\nloaded again: {quantity(len(wanted), 'tensor')}, all equal, bit for bit"


def facts_of(trained: TrainedModel) -> dict[str, Any]:
    """Return what a file says of itself: the classes, the input, and where it comes from, as plain values."""
    assert trained.path is not None  # of a checkpoint that was loaded
    return {
        "classes": trained.output.classes,
        "output": {"mean": trained.output.mean, "std": trained.output.std, "activation": trained.output.activation},
        "input": trained.input.spec() if trained.has_input else None,
        "run": trained.path.parent.name,
        "checkpoint": trained.path.name,
        "name": trained.config.get("name"),
        "git_commit": last_start(trained.path.parent).get("git_commit"),
        "torch": torch.__version__,
    }


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


def examples_to_compare(trained: TrainedModel, number: int = NUM_EXAMPLES) -> torch.Tensor:
    """Return raw examples (number, ...) of the test data that the model's config names, or else its validation data."""
    try:
        loader = trained.loader("test")
    except UserError as without_test:
        try:
            loader = trained.loader("valid")
        except UserError:
            raise without_test from None
    return raw_examples(trained, loader, number)


def raw_examples(trained: TrainedModel, loader: Any, number: int = NUM_EXAMPLES) -> torch.Tensor:
    """Return the first raw examples (number, ...) of a loader: what its input is given, or else the model's input."""
    dataset = unseeded(loader.dataset)
    if not trained.has_input:
        return _first_tensors(loader, number)
    if isinstance(dataset, InMemoryDataset):
        indices = [int(index) for index, _ in zip(loader.sampler, range(number), strict=False)]
        rows = torch.as_tensor(np.asarray(dataset.arrays[0][indices]))
        # a block of text holds the last target, too
        return rows[:, : trained.input.arguments["block_size"]] if isinstance(trained.input, TextInput) else rows
    indices = [int(index) for index, _ in zip(loader.sampler, range(number), strict=False)]
    files = [file_of(dataset, index) for index in indices]
    if trained.input.reads_files and all(file is not None for file in files):
        return torch.as_tensor(np.stack([read_example(trained.input, str(file)) for file in files]))
    return _given_to_input(dataset, indices)


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[Path]:
    """Yield where to write a file first, which replaces the one at path if no error is raised meanwhile."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        replace_file(temporary, path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _same(one, other):
    """Whether two tensors are equal, bit for bit, nan included."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _given_to_input(dataset, indices):
    """The raw examples (N, ...) that a dataset gives to its input, while it makes its samples.

    Of several calls for a sample, as for two views of it, the first counts.
    """
    calls: list[torch.Tensor] = []

    def note(module, given, named, output):
        if isinstance(module, Input):
            calls.append(next(iter([*given, *named.values()])).cpu())

    rows: list[torch.Tensor] = []
    hook = register_module_forward_hook(note, with_kwargs=True)  # the one before a call sees no keywords
    try:
        for index in indices:
            calls.clear()
            dataset[index]
            rows += calls[:1]
    finally:
        hook.remove()
    if len(rows) != len(indices):
        remedy = "call the input on each, as input(raw[None])[0]; see docs/predict.md"
        raise UserError(
            f"data_loader: the samples are not made by its input, so there is nothing to compare on; {remedy}"
        )
    for index, row in zip(indices, rows, strict=True):
        if row.shape[1:] != rows[0].shape[1:]:
            found = f"{tuple(rows[0].shape[1:])} of sample {indices[0]} and {tuple(row.shape[1:])} of sample {index}"
            raise UserError(
                f"data_loader: its input is given raw examples of {found}; a file takes examples of one shape: "
                "make them equal before the input"
            )
    return torch.cat(rows)


def _first_tensors(loader, number):
    parts = []
    for batch in batches_of(loader):
        data, _ = halves(batch)
        if not isinstance(data, torch.Tensor):
            raise UserError(f"the model takes a {describe(data)}; models of one tensor can be exported")
        if parts and data.shape[1:] != parts[0].shape[1:]:
            found = f"{tuple(parts[0].shape)} and {tuple(data.shape)}"
            remedy = "a file takes examples of one shape; pad all to one length"
            raise UserError(f"data_loader: its batches are {found}, and {remedy}")
        parts.append(data)
        if sum(map(len, parts)) >= number:
            break
    return torch.cat(parts)[:number].cpu()


def _write_onnx(deployed, raw, path, facts):
    dynamic_shapes = {"raw": {0: torch.export.Dim("batch")}}
    try:
        if torch.__version__ < "2.9":  # whose ONNX exporter fixes an `if` on values as the examples at hand decide it
            torch.export.export(deployed, (raw[:2],), dynamic_shapes=dynamic_shapes)
        program = torch.onnx.export(
            deployed,
            (raw[:2],),
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=["raw"],
            output_names=["output"],
            verbose=False,
        )
    except Exception as error:  # the exporter raises errors of many kinds
        raise UserError(f"the model cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None  # it is, with dynamo
    opset = program.model.opset_imports[""]
    facts = {**facts, "opset": opset}
    program.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    program.save(path, external_data=False)
    return f"opset {opset}, "


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


def _write_torch(deployed, raw, path, facts):
    try:
        program = torch.export.export(deployed, (raw[:2],), dynamic_shapes={"raw": {0: torch.export.Dim("batch")}})
    except Exception as error:
        raise UserError(f"the model cannot be exported by torch.export: {_reason(error)}") from error
    torch.export.save(program, path, extra_files={"about.json": json.dumps(facts)})
    return ""


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
