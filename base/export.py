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

from base.data.outputs import named_outputs
from base.trained_model import TrainedModel
from utils.errors import UserError, quantity, shortened, shown
from utils.files import replace_file
from utils.nested import describe, map_tensors, named_tensors, samples_of
from utils.runs.checkpoint import load_checkpoint
from utils.runs.environment import last_start
from utils.runs.safetensors_io import read_safetensors, write_safetensors

TOLERANCE = 1e-4  # of an output in float32
BATCH_SIZES = (1, 7, 64)
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors", "triton": ""}
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS = {"onnx": _ONNX, "torch": (), "safetensors": ("safetensors",), "triton": _ONNX}


class Differs(UserError):
    """What was written and loaded again does not give the model's numbers."""


class Deployed(torch.nn.Module):
    """A model with its input: raw examples (B, ...) -> outputs (B, ...), a tensor or {name: tensor}."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.input = trained.input if trained.has_input else torch.nn.Identity()
        self.model = trained.model

    def forward(self, raw: Any) -> Any:
        """Return the model's outputs. raw: a tensor, or what the model takes, such as a dict of tensors."""
        output = self.model(self.input(raw))
        return output if isinstance(output, torch.Tensor) else named_tensors(output, "the model returns")


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


def export(trained: TrainedModel, kind: str, path: Path, batches: list[Any], facts: dict[str, Any]) -> str:
    """Write the model as ONNX or as a program of torch.export, and return how it compares with the model.

    kind: "onnx" or "torch".
    batches: of raw examples, as raw_examples returns them. The file takes any number of examples, and tensors of any
        size in the dimensions in which these differ.
    facts: to keep in the file, as facts_of returns them.

    Raises UserError, and leaves the file at path as it was, if the model cannot be exported, and Differs if an output
    of the file, which is loaded again, differs by more than TOLERANCE from the model's.
    """
    deployed = Deployed(trained).cpu().eval()
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in deployed.parameters()):
        deployed.float()  # what was rounded loses nothing, and a model of double precision keeps it
    write, load = {"onnx": (_write_onnx, _load_onnx), "torch": (_write_torch, _load_torch)}[kind]
    with _quiet(), _checked(path) as temporary:
        names = list(_outputs(deployed, next(parts_of(batches, 1))))
        example, shapes = _example(batches)
        note = write(deployed, example, shapes, names, temporary, facts)
        difference = largest_difference(deployed, load(temporary, names), batches)
        if not difference <= TOLERANCE:
            raise Differs(
                f"{shown(path)}: not written: an output of the exported model differs by {difference:.2g} from the "
                f"model's, and {TOLERANCE:g} is allowed"
            )
        size = temporary.stat().st_size
    held = "with its input" if trained.has_input else "without an input: it takes what the data loader made of the data"
    samples = sum(len(_tensors(batch)[0]) for batch in batches)
    compared = quantity(samples, "test sample") if _has_rows(batches) else quantity(len(batches), "test batch")
    return f"{held}, {note}{size:,} bytes\nloaded again: outputs differ by {difference:.2g} at most, on {compared}"


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


def shapes_of(trained: TrainedModel, batches: list[Any]) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of what the model returns for an example; the name of a single output is ""."""
    outputs = _outputs(Deployed(trained).cpu().eval(), next(parts_of(batches, 1)))
    return {name: tuple(one.shape[1:]) for name, one in outputs.items()}


def facts_of(trained: TrainedModel, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what a file says of itself: the classes, the input, and where it comes from, as plain values.

    shapes: of its outputs, as shapes_of returns them. What is known of a single output is said of no other.
    """
    assert trained.path is not None  # of a checkpoint that was loaded
    activation = trained.output.activation if "" in shapes else None
    return {
        "classes": trained.output.classes,
        "output": {"mean": trained.output.mean, "std": trained.output.std, "activation": activation},
        "input": trained.input.spec() if trained.has_input else None,
        "run": trained.path.parent.name,
        "checkpoint": trained.path.name,
        "name": trained.config.get("name"),
        "git_commit": last_start(trained.path.parent).get("git_commit"),
        "torch": torch.__version__,
    }


def largest_difference(deployed: Deployed, loaded: Callable[[Any], dict[str, np.ndarray]], batches: list[Any]) -> float:
    """Return the largest absolute difference of two functions of raw examples, in batches of BATCH_SIZES.

    loaded: returns {name: array}, the name of a single output being "".
    """
    largest = 0.0
    for size in BATCH_SIZES if _has_rows(batches) else BATCH_SIZES[:1]:
        for batch in parts_of(batches, size):
            found = loaded(batch)
            for name, tensor in _outputs(deployed, batch).items():
                differences = np.abs(found[name].astype(np.float64) - tensor.double().numpy())
                finite = np.isfinite(differences).all()
                largest = max(largest, float(differences.max(initial=0.0)) if finite else np.inf)
    return largest


def parts_of(batches: list[Any], size: int) -> Iterator[Any]:
    """Yield the examples of the batches, size at a time; batches without a row for each example as they are."""
    for batch in batches:
        if not _has_rows(batches):
            yield batch
            continue
        for start in range(0, len(_tensors(batch)[0]), size):
            yield samples_of(batch, slice(start, start + size))


def _tensors(batch):
    """The tensors of a batch, in the order of their names."""
    return list(named_tensors(batch, "a batch is").values())


def _has_rows(batches):
    """Whether all tensors of each batch have as many rows, one for each example."""
    sizes = [{tensor.shape[:1] for tensor in _tensors(batch)} for batch in batches]
    return all(len(found) == 1 and () not in found for found in sizes)


def _outputs(deployed, batch):
    """{name: tensor} of the model's outputs. Raises UserError unless each has a row for each example."""
    with torch.no_grad():
        return named_outputs(deployed.model, batch, deployed(batch))


def _example(batches):
    """(a batch to trace the model with, which dimensions of its tensors the file leaves open).

    Open are the number of examples, and sizes that differ between the batches.
    """
    has_rows, shapes = _has_rows(batches), []
    for sizes in zip(*([tensor.shape for tensor in _tensors(batch)] for batch in batches), strict=True):
        differ = [i for i, found in enumerate(zip(*sizes, strict=True)) if len(set(found)) > 1]
        shapes.append(
            dict.fromkeys(differ, torch.export.Dim.AUTO) | ({0: torch.export.Dim("batch")} if has_rows else {})
        )
    # the largest batch, since exporters take a size of 1 for fixed
    example = max(batches, key=lambda batch: sum(tensor.numel() for tensor in _tensors(batch)))
    if has_rows:  # two, also of a batch of one
        example = map_tensors(lambda tensor: torch.cat([tensor, tensor])[:2], example)
    in_order = iter(shapes)
    return example, map_tensors(lambda _: next(in_order), example)


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


def _write_onnx(deployed, example, shapes, names, path, facts):
    dynamic_shapes = {"raw": shapes}
    inputs = [name or "raw" for name in named_tensors(example, "a batch is")]
    outputs = [name or "output" for name in names]
    outputs = [f"{name}.output" if name in inputs else name for name in outputs]  # a name stands for one tensor
    try:
        if torch.__version__ < "2.9":  # whose ONNX exporter fixes an `if` on values as the examples at hand decide it
            torch.export.export(deployed, (example,), dynamic_shapes=dynamic_shapes)
        program = torch.onnx.export(
            deployed,
            kwargs={"raw": example},  # as the last of args, a dict would be taken for kwargs
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=inputs,
            output_names=outputs,
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


def _load_onnx(path, names):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}  # without those that the model does not use

    def outputs(raw: Any) -> dict[str, np.ndarray]:
        given = {name or "raw": tensor.numpy() for name, tensor in named_tensors(raw, "a batch is").items()}
        try:
            found = session.run(None, {name: array for name, array in given.items() if name in taken})
        except Exception as error:  # onnxruntime's errors have no common class
            raise UserError(f"the exported model cannot compute with {describe(raw)}: {_reason(error)}") from error
        return dict(zip(names, map(np.asarray, found), strict=True))

    return outputs


def _write_torch(deployed, example, shapes, names, path, facts):
    try:
        program = torch.export.export(deployed, (example,), dynamic_shapes={"raw": shapes})
    except Exception as error:
        raise UserError(f"the model cannot be exported by torch.export: {_reason(error)}") from error
    torch.export.save(program, path, extra_files={"about.json": json.dumps(facts)})
    return ""


def _load_torch(path, _):
    module = torch.export.load(path).module()

    def outputs(raw: Any) -> dict[str, np.ndarray]:
        found = named_tensors(module(raw), "the model returns")
        return {name: tensor.detach().numpy() for name, tensor in found.items()}

    return outputs


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
