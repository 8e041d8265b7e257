"""Raw examples to predict for, from files, folders, patterns, arrays and lists of files; read when they are needed."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from base.data.arrays import read_array
from base.data.inputs import Input, files_in
from utils.batches import file_of
from utils.errors import UserError, shown

_ARRAYS = (".npy", ".npz")


def examples_of(sources: Iterable[str], input: Input) -> Iterator[tuple[str, Any]]:
    """Yield (name, raw example, or the UserError of a file that cannot be read) for all examples of the sources.

    sources: files, folders, patterns such as "images/*.png", .npy and .npz files of raw examples (N, ...), and "-" for
        names of files on standard input, one a line.

    Raises UserError for a folder or a pattern without files.
    """
    for source in sources:
        if source == "-":
            yield from examples_of((line.rstrip("\r\n") for line in sys.stdin if line.strip()), input)
        elif os.path.splitext(source)[1].lower() in _ARRAYS or ".npz:" in source:
            yield from _rows(source)
        else:
            for file in _files(source, input):
                try:
                    yield from input.examples(file)
                except UserError as error:
                    yield file, error


def _rows(source):
    """(name, row) of an array file; of a .npz file that holds a single array, that one."""
    place = source
    if source.lower().endswith(".npz") and os.path.isfile(source):
        with np.load(source, allow_pickle=False) as arrays:
            if len(arrays.files) == 1:
                place = f"{source}:{arrays.files[0]}"
    for i, row in enumerate(read_array(place, "source")):
        yield f"{source}:{i}", np.asarray(row)


def _files(source, input):
    """Names of the files that a file, folder or pattern names."""
    if os.path.isdir(source):
        found = files_in(source, input.suffixes)
        if not found:
            endings = ", ".join(input.suffixes) or "that this model could read"
            raise UserError(f"{shown(source)}: the folder holds no files {endings}")
        return found
    if not os.path.exists(source) and any(sign in source for sign in "*?["):
        found = sorted(glob.glob(source, recursive=True))
        if not found:
            raise UserError(f"{shown(source)}: no file matches the pattern")
        return [file for one in found for file in (_files(one, input) if os.path.isdir(one) else [one])]
    return [source]


def names_in(loader: Any, split: str) -> Iterator[str]:
    """Yield the name of each sample of a loader in a fixed order: its file if the dataset knows it, or its index."""
    dataset = getattr(loader.dataset, "dataset", loader.dataset)
    for index in getattr(loader, "sampler", range(len(dataset))):
        yield file_of(dataset, index) or f"{split}:{int(index)}"
