"""The examples on which an exported model is compared with the checkpoint's: what it is given in use."""

from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from base.data.in_memory import InMemoryDataset
from base.data.inputs import Input
from base.data.reading import read_example
from base.data.seeded import unseeded
from base.data.texts import TextInput
from base.trained_model import TrainedModel
from utils.batches import batches_of, file_of
from utils.errors import UserError
from utils.nested import halves, map_tensors, named_tensors, num_samples

NUM_EXAMPLES = 256


def examples_to_compare(trained: TrainedModel, number: int = NUM_EXAMPLES) -> list[Any]:
    """Return batches, of about that many examples, of the test data that the model's config names.

    Of a config without test data they are of its validation data.
    """
    try:
        loader = trained.loader("test")
    except UserError as without_test:
        try:
            loader = trained.loader("valid")
        except UserError:
            raise without_test from None
    return raw_examples(trained, loader, number)


def raw_examples(trained: TrainedModel, loader: Any, number: int = NUM_EXAMPLES) -> list[Any]:
    """Return the first examples of a loader, in batches: what its input is given, or else the model's input.

    They are one batch (number, ...) if each is one tensor of the same shape, and else the loader's batches.
    """
    dataset = unseeded(loader.dataset)
    if not trained.has_input:
        return _first_batches(loader, number)
    if isinstance(dataset, InMemoryDataset):
        indices = [int(index) for index, _ in zip(loader.sampler, range(number), strict=False)]
        rows = torch.as_tensor(np.asarray(dataset.arrays[0][indices]))
        # a block of text holds the last target, too
        return [rows[:, : trained.input.arguments["block_size"]] if isinstance(trained.input, TextInput) else rows]
    indices = [int(index) for index, _ in zip(loader.sampler, range(number), strict=False)]
    files = [file_of(dataset, index) for index in indices]
    if trained.input.reads_files and all(file is not None for file in files):
        return [torch.as_tensor(np.stack([read_example(trained.input, str(file)) for file in files]))]
    return [_given_to_input(dataset, indices)]


def _first_batches(loader, number):
    """The data of the first batches on the CPU; of tensors whose examples have one shape, as one batch."""
    batches, left = [], number
    for batch in batches_of(loader):
        data, target = halves(batch)
        named_tensors(data, "data_loader: data is")  # refuses what a file cannot be given
        batches.append(map_tensors(lambda tensor: tensor.cpu(), data))
        left -= num_samples(target)
        if left <= 0:
            break
    if not batches:
        raise UserError("data_loader: its test data have no batch, so there is nothing to compare on")
    if all(isinstance(data, torch.Tensor) for data in batches) and len({data.shape[1:] for data in batches}) == 1:
        return [torch.cat(batches)[:number]]
    return batches


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
