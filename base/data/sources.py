"""Raw examples to predict for, from files, folders, patterns, arrays and lists of files; read when they are needed."""

import glob
import itertools
import os
import sys
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from base.data.arrays import read_array
from base.data.inputs import NO_INPUT, Examples, Input, files_in
from base.data.outputs import Output
from base.data.seeded import unseeded
from utils.batches import file_of
from utils.errors import UserError, shortened, shown

_ARRAYS = (".npy", ".npz")
_BYTES_AT_ONCE = 1 << 22  # of an array, whose rows are slow to take one by one from a memory map
_FILES_AT_ONCE = 32


class Sources:
    """The examples of sources, as an iterable of Examples. A file that cannot be read is an example with its error.

    sources: files, folders, patterns such as "images/*.png", .npy and .npz files of raw examples (N, ...), and "-" for
        names of files on standard input, one a line.
    input: of the model; None if it has none, and takes the rows of arrays as they are.
    output: of the model. Below a folder that has a folder of files for each class, as one to train on, the examples
        have their classes as targets.

    Raises UserError for a folder or a pattern without files, and for files that need an input where there is none;
    standard input that is empty is one later.
    """

    def __init__(self, sources: Iterable[str], input: Input | None, output: Output) -> None:
        self._input, self._output = input, output
        self._found = [(source, [] if source == "-" else _files(source, input)) for source in sources]
        for file in (file for _, files in self._found for file in files if input is None):
            _require_array(file)

    def __iter__(self) -> Iterator[Examples]:
        for source, files in self._found:
            labels = _labels(source, files, self._output.classes)
            yield from self._read_ahead(_listed() if source == "-" else files, labels)

    @property
    def total(self) -> int | None:
        """The number of examples, if it is known before they are read."""
        files = [file for _, files in self._found for file in files]
        is_known = self._has_one_per_file and not any(map(_is_array, files)) and "-" not in dict(self._found)
        return len(files) if is_known else None

    @property
    def _has_one_per_file(self):
        """Whether each file that is no array holds one example."""
        return self._input is not None and type(self._input).examples is Input.examples

    def _read_ahead(self, names, labels):
        """The examples of files, which some threads read while the model computes. labels: {file: class number}."""
        names, pending = iter(names), deque()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            while some := list(itertools.islice(names, _FILES_AT_ONCE)):
                pending.append(zip(some, threads.map(self._parts_of, some), strict=True))
                if len(pending) > 1:
                    yield from _labelled(pending.popleft(), labels)
            for found in pending:
                yield from _labelled(found, labels)

    def _parts_of(self, name):
        """The Examples of what a name stands for: those of a single file with one example are read already."""
        is_one = self._has_one_per_file and not _is_array(name) and os.path.isfile(name)
        return list(self._parts(name)) if is_one else self._parts(name)

    def _parts(self, name):
        try:
            for file in _files(name, self._input):
                yield from self._parts_in(file)
        except UserError as error:
            yield Examples([name], errors={0: error})

    def _parts_in(self, file):
        try:
            if self._input is None:
                _require_array(file)
            if self._input is None or _is_array(file):
                yield from _rows(file, self._input)
            else:
                yield from self._input.examples(file, self._output)
        except UserError as error:
            yield Examples([file], errors={0: error})


def _require_array(file):
    if not _is_array(file):
        raise UserError(f"{shown(file)}: the checkpoint holds no input that would read it; {NO_INPUT}")


def _labelled(found, labels):
    """The parts of (file, parts), with the class of their folder as target."""
    for file, parts in found:
        for part in parts:
            if labels and part.target is None:
                part.target = np.full(len(part.raw), labels[file], np.int64)
            yield part


def _labels(folder, files, classes):
    """{file: class number, or -1} of the files in a folder that has a folder for each class; else None."""
    if not classes or not os.path.isdir(folder):
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    first = {file: Path(file).relative_to(folder).parts[0] for file in files}
    labels = {file: numbers.get(unicodedata.normalize("NFC", name), -1) for file, name in first.items()}
    return labels if any(label >= 0 for label in labels.values()) else None


def refuse_overwriting(sources: Iterable[str], outputs: Iterable[str | None]) -> None:
    """Raise UserError if a file to write is one of the sources, or in a folder of them; None is no file."""
    written = [path for path in outputs if path is not None and os.path.exists(path)]
    for source in sources if written else ():
        for place in [source] if os.path.exists(source) else _matching(source):
            for path in written:
                folder = os.path.dirname(os.path.abspath(path))
                if os.path.samefile(place, path) or (os.path.isdir(place) and _is_below(folder, place)):
                    raise UserError(f"{shown(path)}: is to be read and written; give another name for what is written")


def _is_below(folder, parent):
    parent = os.path.realpath(parent)
    return os.path.commonpath([os.path.realpath(folder), parent]) == parent


def _listed():
    """The names of files that standard input lists."""
    lines = getattr(sys.stdin, "buffer", sys.stdin)  # bytes, since a file's name need not be UTF-8
    name = None
    for line in lines or ():
        if line.strip():
            name = os.fsdecode(line).rstrip("\r\n")
            yield name
    if name is None:
        raise UserError("-: standard input lists no files; give their names, one a line")


def _is_array(source):
    return os.path.splitext(source)[1].lower() in _ARRAYS or ".npz:" in source


def _rows(source, input):
    """The Examples of an array file; of a .npz file that holds a single array, those of that one."""
    rows = read_array(_place(source), "source")
    if rows.ndim == 0 or rows.dtype.kind not in "biuf" or rows.dtype.itemsize > 8:
        raise UserError(f"source: {shown(source)} holds {rows.dtype} {rows.shape}; it should hold numbers (N, ...)")
    dtype = rows.dtype.newbyteorder("=")
    _require(input, torch.as_tensor(np.array(rows[:1], dtype)).expand(rows.shape), source)  # which reads one row alone
    at_once = max(1, _BYTES_AT_ONCE // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), at_once):
        block = np.array(rows[start : start + at_once], dtype)
        _require(input, torch.as_tensor(block), source)
        yield Examples([f"{source}:{i}" for i in range(start, start + len(block))], block)


def _require(input, rows, source):
    """Raise UserError, naming the source, if these cannot be raw examples."""
    try:
        if input is not None:
            input.require(rows)
    except UserError as error:
        raise UserError(f"{shown(source)}: {error}") from None


def _place(source):
    """The array to read of a source: "file.npz:name" for a .npz file of a single array."""
    if not source.lower().endswith(".npz") or not os.path.isfile(source):
        return source
    try:
        with np.load(source, allow_pickle=False) as arrays:
            names = arrays.files
    except Exception as error:  # NumPy's readers raise many kinds for a damaged file
        raise UserError(f"{shown(source)}: not a whole .npz file: {shortened(error)}") from error
    if len(names) != 1:
        listed = shortened(", ".join(names) or "nothing")
        raise UserError(f"{shown(source)}: holds {len(names)} arrays, {listed}; name one, as in {shown(source)}:name")
    return f"{source}:{names[0]}"


def _files(source, input):
    """Names of the files that a file, folder or pattern names."""
    if os.path.isdir(source):
        suffixes = (input.suffixes if input is not None else ()) or _ARRAYS
        found = files_in(source, suffixes)
        if not found:
            lacks = "" if input is not None else f", and the checkpoint holds no input that reads others; {NO_INPUT}"
            raise UserError(f"{shown(source)}: the folder holds no files that end in {', '.join(suffixes)}{lacks}")
        return found
    if not os.path.exists(source) and any(sign in source for sign in "*?["):
        found = sorted(_matching(source))
        if not found:
            raise UserError(f"{shown(source)}: no file matches the pattern")
        return [file for one in found for file in (_files(one, input) if os.path.isdir(one) else [one])]
    return [source]


def _matching(pattern):
    """The files that match a pattern in a folder, whose own name may be one such as "set[1]"."""
    folder, name = os.path.split(pattern)
    return glob.glob(os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else pattern, recursive=True)


def names_in(loader: Any, split: str) -> Iterator[str]:
    """Yield the name of each sample of a loader in a fixed order: its file if the dataset knows it, or its index."""
    dataset = unseeded(loader.dataset)
    if isinstance(dataset, IterableDataset):
        yield from (f"{split}:{number}" for number in itertools.count())
        return
    for index in getattr(loader, "sampler", range(len(dataset))):
        yield file_of(dataset, index) or f"{split}:{int(index)}"
