"""export_triton: a trained model as a folder of a model repository, which Triton Inference Server and KServe serve."""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from base.export import export
from base.trained_model import TrainedModel
from utils.errors import UserError, shown
from utils.files import write_whole

MAX_BATCH = 64
_MAX_DELAY_MICROSECONDS = 1000  # for which a request waits for others
_TYPES = {"float": "FP32", "double": "FP64", "float16": "FP16"}  # the others have ONNX's names, in capitals


def export_triton(trained: TrainedModel, folder: Path, batches: list[Any], facts: dict[str, Any]) -> str:
    """Write config.pbtxt, labels.txt and 1/model.onnx into a new folder, and return how they compare with the model.

    The folder's name is the model's, and the folder around it the repository. The arguments and errors are those of
    export; nothing is left at folder if one is raised.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        (temporary / "1").mkdir(parents=True)
        compared = export(trained, "onnx", temporary / "1" / "model.onnx", batches, facts)
        classes = trained.output.classes or []
        config = model_config(temporary / "1" / "model.onnx", folder.name, len(classes))
        if "label_filename: " in config:
            write_whole("".join(f"{shown(name)}\n" for name in classes), temporary / "labels.txt")
        write_whole(config, temporary / "config.pbtxt")
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{shown(folder)}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return compared


def model_config(file: Path, name: str, num_classes: int) -> str:
    """Return the text of config.pbtxt for an .onnx file.

    num_classes: names of classes in labels.txt, which an output with another number of values does not refer to.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if any(one.shape[:1] != ["batch"] for one in [*inputs, *outputs]):
        raise UserError("--to triton: needs tensors with a row for each example, in which Triton batches requests")
    return f"""name: {json.dumps(name)}
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input [
  {_listed([_tensor(one) for one in inputs])}
]
output [
  {_listed([_tensor(one, num_classes) for one in outputs])}
]
dynamic_batching {{ max_queue_delay_microseconds: {_MAX_DELAY_MICROSECONDS} }}
"""


def _listed(entries):
    return ",\n  ".join(entries)


def _tensor(about, num_classes=0):
    """One entry of the lists of inputs and of outputs; the dimension of the batch goes without saying."""
    kind = about.type.removeprefix("tensor(").removesuffix(")")
    sizes = [size if isinstance(size, int) else -1 for size in about.shape[1:]]
    fields = [f'name: "{about.name}"', f"data_type: TYPE_{_TYPES.get(kind, kind.upper())}", f"dims: {sizes or [1]}"]
    if not sizes:  # Triton asks for a dimension
        fields.append("reshape { shape: [] }")
    if num_classes and sizes[-1:] == [num_classes]:
        fields.append('label_filename: "labels.txt"')
    return f"{{ {', '.join(fields)} }}"
