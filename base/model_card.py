"""model_card: what a trained model takes, how good it is and where it comes from, for whoever gets its file."""

import json
from pathlib import Path
from typing import Any

import torch

from base.data.encoding import TableInput
from base.trained_model import TrainedModel
from logger.run_files import RunFiles
from utils.errors import quantity, shown
from utils.runs.environment import last_start

_CLASSES_NAMED = 20


def model_card(trained: TrainedModel, file: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    """Return a page in Markdown about an exported model.

    file: what was exported, .onnx, .pt2, .safetensors or a folder for Triton.
    shapes: of its outputs, as shapes_of returns them, if they are known.

    The figures are those of test_results.json beside the checkpoint, which test.py writes.
    """
    config, path = trained.config, trained.path
    assert path is not None  # of a checkpoint that was loaded
    arch = config["arch"] if isinstance(config["arch"], dict) else {"type": config["arch"]}
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    environment = last_start(path.parent)
    calibrated = ["- Whether its probabilities can be taken at their word: they were not calibrated."]
    lines = [
        f"# {config.get('name', 'A model')}",
        "",
        *([str(config["description"]), ""] if config.get("description") else []),
        "## What it does",
        "",
        f"- Model: `{arch['type']}`, {parameters:,} parameters; the file is `{file.name}`.",
        f"- Input: {_input(trained)}",
        f"- Output: {_output(trained) if shapes is None or '' in shapes else _outputs(trained, shapes)}",
        "",
        "## How good it is",
        "",
        *_results(path),
        "",
        "## How to use it",
        "",
        *_usage(file),
        "",
        "## Where it comes from",
        "",
        f"- Run `{path.parent.name}`, checkpoint `{path.name}`.",
        f"- Data: `{_text(config.get('data_loader'))}`",
        f"- Samples: {trained.loader_state.get('samples', 'not recorded')} in the training data.",
        f"- Trained with {_versions(environment)}, started {environment.get('started', 'at an unknown time')}.",
        f"- Code: git commit {environment.get('git_commit') or 'unknown'}"
        + (", with changes that were not committed." if environment.get("git_dirty") else "."),
        "",
        "## What is not known",
        "",
        "- How it does on data of another source than its test data.",
        "- Whether the data are free of errors, and whom they represent.",
        *(calibrated if trained.output.is_of_classes else []),
        "",
        "## The config",
        "",
        "```json",
        json.dumps(config, indent=4),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _input(trained):
    if not trained.has_input:
        return "what its data loader gave it; the checkpoint does not say more."
    if isinstance(trained.input, TableInput):
        return _rows(trained.input)
    spec = trained.input.spec()
    return f"raw examples as `{spec['type']}` takes them, with `{_text(spec['args'])}`."


def _rows(table):
    """What a row of the array is that stands for a row of a table."""
    codes = []
    for column, known in zip(table.categorical, table.categories, strict=True):
        named = [f"{code} {shown(name) if name else 'if it is empty'}" for code, name in enumerate(known, 1)]
        more = f", and so on: {len(known)} in `categories` of the input" if len(named) > _CLASSES_NAMED else ""
        codes.append(f"`{shown(column)}` ({', '.join(named[:_CLASSES_NAMED])}{more}, 0 any other)")
    columns = [", ".join(f"`{shown(column)}`" for column in table.numeric)] if table.numeric else []
    columns += [f"the codes of {', '.join(codes)}"] if codes else []
    missing = "is nan" if table.fill is not None else "cannot be replaced"
    width = len(table.numeric) + len(table.categorical)
    return (
        f"rows (N, {width}) float64, not scaled: {', then '.join(columns)}. "
        f"A missing number {missing}. The whole input: `{_text(table.arguments)}`."
    )


def _output(trained):
    """What the numbers of the exported file mean, which are the model's own."""
    output = trained.output
    if not output.is_of_classes:
        if (output.mean, output.std) == (0.0, 1.0):
            return "numbers, in the unit of the training targets."
        return f"standardized numbers; times {output.std:.9g} plus {output.mean:.9g}, they are in the targets' unit."
    classes, shape = output.classes, output.shape
    like = None if shape is None else torch.empty(1, *shape, device="meta")
    start = "for each pixel, " if like is not None and output.is_segmentation(like) else ""
    named = "" if classes is None else f": {_named(classes)}"
    if output.activation != "sigmoid" and output.kind != "probabilities":
        gives = {"softmax": "; softmax gives the probabilities", "argmax": "; argmax gives the mask"}
        end = gives.get(output.activation, "")
        if classes is None:
            return f"{start}one number for each class; the classes have no names{end}."
        return f"{start}one number for each of {len(classes)} classes{named}{end}."
    its = "its" if output.kind == "probabilities" else "whose sigmoid is its"
    labels = classes or []
    if len(labels) > 2 if like is None else output.labels(like) is not None:
        return f"one number for each of {len(labels)} labels, {its} probability{named}."
    if not start and like is not None and like.numel() > 1:
        return f"numbers of shape {shape}, {'each a' if its == 'its' else 'whose sigmoid is a'} probability."
    names = "classes 0 and 1" if classes is None else f"classes {' and '.join(map(str, classes))}"
    which = "the" if output.kind == "probabilities" else "its sigmoid is the"
    return f"{start}one number for the {names}: {which} probability of the second."


def _outputs(trained, shapes):
    """What a file of several outputs returns."""
    tensors = ", ".join(f"`{shown(name)}` of shape {shape}" for name, shape in shapes.items())
    classes = trained.output.classes
    named = "" if classes is None else f" Its {quantity(len(classes), 'class')}: {_named(classes)}."
    return f"for each example, {tensors}.{named}"


def _named(classes):
    more = f" and {len(classes) - _CLASSES_NAMED} more" if len(classes) > _CLASSES_NAMED else ""
    return ", ".join(map(str, classes[:_CLASSES_NAMED])) + more


def _results(path):
    """Lines of a table of what test.py measured of the checkpoint."""
    rows = [
        f"| {split} | {result.get('samples')} | {name} | {value:.6g} |"
        for checkpoint, split, result in RunFiles(path.parent).results
        if checkpoint == path.name
        for name, value in result.items()
        if isinstance(value, float)
    ]
    if not rows:
        return ["It was not tested: `python test.py -r <checkpoint>` measures it."]
    return ["| data | samples | measure | value |", "|---|---|---|---|", *rows]


def _usage(file):
    code = {
        ".onnx": [
            "import numpy as np, onnxruntime",
            f'session = onnxruntime.InferenceSession("{file.name}")',
            "raw, *others = session.get_inputs()  # shapes and types: raw.shape, raw.type",
            "outputs = session.run(None, {raw.name: examples})  # for each input a NumPy array (N, ...)",
        ],
        ".pt2": [
            "import torch",
            f'model = torch.export.load("{file.name}").module()',
            "outputs = model(examples)  # examples: a tensor (N, ...), or what the model takes",
        ],
        ".safetensors": [
            "from safetensors.torch import load_file",
            f'model.load_state_dict(load_file("{file.name}"))  # of the model that the config below describes',
        ],
    }
    if not file.suffix:
        return ["```bash", 'tritonserver --model-repository="$PWD"  # in the folder that holds this page', "```"]
    return ["```python", *code[file.suffix], "```"]


def _versions(environment):
    libraries: Any = environment.get("libraries") or {}
    names = [f"{name} {version}" for name, version in libraries.items() if name in ("torch", "numpy") and version]
    return ", ".join([f"Python {environment.get('python', 'of an unknown version')}", *names])


def _text(value):
    text = json.dumps(value)
    return text if len(text) <= 500 else f"{text[:500]} ..."
