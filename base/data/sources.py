"""Raw examples to predict for, from files, folders, patterns, arrays and lists of files; read when they are needed."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from base.data.arrays import read_array
from base.data.inputs import Input, files_in
from utils.batches import file_of
from utils.errors import UserError, shortened, shown

_ARRAYS = (".npy", ".npz")
_ROWS_AT_ONCE = 1024  # of an array, whose rows are slow to take one by one from a memory map


def examples_of(sources: Iterable[str], input: Input) -> Iterator[tuple[str, Any]]:
    """Yield (name, raw example, or the UserError of a file that cannot be read) for all examples of the sources.

    sources: files, folders, patterns such as "images/*.png", .npy and .npz files of raw examples (N, ...), and "-" for
        names of files on standard input, one a line.

    Raises UserError for a folder or a pattern without files, before the first example, and if standard input is empty.
    """
    found = [(source, [] if source == "-" else _files(source, input)) for source in sources]
    for source, files in found:
        if source == "-":
            yield from _listed(input)
        for file in files:
            try:
                yield from _rows(file, input) if _is_array(file) else input.examples(file)
            except UserError as error:
                yield file, error


def refuse_overwriting(sources: Iterable[str], outputs: Iterable[str | None]) -> None:
    """Raise UserError if a file to write is one of the sources, or in a folder of them; None is no file."""
    written = [path for path in outputs if path is not None and os.path.exists(path)]
    for source in sources if written else ():
        for place in [source] if os.path.exists(source) else glob.glob(source, recursive=True):
            for path in written:
                folder = os.path.dirname(os.path.abspath(path))
                if os.path.samefile(place, path) or (os.path.isdir(place) and _is_below(folder, place)):
                    raise UserError(f"{shown(path)}: is to be read and written; give another name for what is written")


def _is_below(folder, parent):
    parent = os.path.realpath(parent)
    return os.path.commonpath([os.path.realpath(folder), parent]) == parent


def _listed(input):
    """(name, raw example or error) of the files whose names standard input lists."""
    lines = getattr(sys.stdin, "buffer", sys.stdin)  # bytes, since a file's name need not be UTF-8
    names = [] if lines is None else (os.fsdecode(line).rstrip("\r\n") for line in lines if line.strip())
    name = None
    for name in names:
        try:
            yield from examples_of([os.path.join(".", name) if name == "-" else name], input)
        except UserError as error:
            yield name, error
    if name is None:
        raise UserError("-: standard input lists no files; give their names, one a line")


def _is_array(source):
    return os.path.splitext(source)[1].lower() in _ARRAYS or ".npz:" in source


def _rows(source, input):
    """(name, row) of an array file; of a .npz file that holds a single array, that one."""
    rows = read_array(_place(source), "source")
    if rows.ndim == 0 or rows.dtype.kind not in "biuf" or rows.dtype.itemsize > 8:
        raise UserError(f"source: {shown(source)} holds {rows.dtype} {rows.shape}; it should hold numbers (N, ...)")
    input.require(torch.as_tensor(np.array(rows[:1], rows.dtype.newbyteorder("="))))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = np.array(rows[start : start + _ROWS_AT_ONCE], rows.dtype.newbyteorder("="))
        for i, row in enumerate(block, start):
            yield f"{source}:{i}", row


def _place(source):
    """The array to read of a source: "file.npz:name" for a .npz file of a single array."""
    if not source.lower().endswith(".npz") or not os.path.isfile(source):
        return source
    try:
        with np.load(source, allow_pickle=False) as arrays:
            return f"{source}:{arrays.files[0]}" if len(arrays.files) == 1 else source
    except Exception as error:  # NumPy's readers raise many kinds for a damaged file
        raise UserError(f"source: {shown(source)}: not a whole .npz file: {shortened(error)}") from error


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
