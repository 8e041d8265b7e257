"""Raw examples to predict for, from files, folders, patterns, arrays, and lists of files; read as they are needed."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from base.data.arrays import read_array
from base.data.inputs import Input, files_in
from utils.errors import UserError, shown

_ARRAYS = (".npy", ".npz")


@dataclass
class Batch:
    """Examples in their order. names: of all. errors: {place in names: why it was not read}. raw: of the others."""

    names: list[str] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    raw: list[Any] = field(default_factory=list)


def batches_of_examples(sources: Iterable[str], input: Input, size: int) -> Iterator[Batch]:
    """Yield the raw examples of the sources as Batches of up to `size` examples.

    sources: files, folders, patterns such as "images/*.png", .npy and .npz files of raw examples (N, ...), and "-" for
        names of files on standard input, one a line.

    Raises UserError for a source that does not exist or holds no examples; a file that cannot be read is an error of
    its Batch.
    """
    batch = Batch()
    for name, raw in _examples(sources, input):
        if isinstance(raw, UserError):
            batch.errors[len(batch.names)] = str(raw)
        else:
            batch.raw.append(raw)
        batch.names.append(name)
        if len(batch.names) >= size:
            yield batch
            batch = Batch()
    if batch.names:
        yield batch


def _examples(sources: Iterable[str], input: Input) -> Iterator[tuple[str, Any]]:
    """Yield (name, raw example, or the UserError of a file that cannot be read)."""
    for source in sources:
        if source == "-":
            yield from _examples((line.rstrip("\r\n") for line in sys.stdin if line.strip()), input)
        elif source.partition(":")[0].lower().endswith(_ARRAYS) or source.lower().endswith(_ARRAYS):
            yield from _rows(source)
        else:
            for file in _files(source, input):
                try:
                    yield from input.examples(file)
                except UserError as error:
                    yield file, error


def _rows(source):
    """The rows of an array file; of a .npz file with one array, that one."""
    place = source
    if source.lower().endswith(".npz") and os.path.isfile(source):
        with np.load(source, allow_pickle=False) as arrays:
            if len(arrays.files) == 1:
                place = f"{source}:{arrays.files[0]}"
    for i, row in enumerate(read_array(place, "source")):
        yield f"{source}:{i}", np.asarray(row)


def _files(source, input):
    if os.path.isdir(source):
        found = files_in(source, input.suffixes)
        if not found:
            endings = ", ".join(input.suffixes) or "that this model reads"
            raise UserError(f"{shown(source)}: the folder holds no files {endings}")
        return found
    if not os.path.exists(source) and any(sign in source for sign in "*?["):
        found = sorted(glob.glob(source, recursive=True))
        if not found:
            raise UserError(f"{shown(source)}: no file matches the pattern")
        return [file for one in found for file in (_files(one, input) if os.path.isdir(one) else [one])]
    return [source]
