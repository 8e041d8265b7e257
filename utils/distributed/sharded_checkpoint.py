"""The sharded tensors of a checkpoint: a folder beside its file, into which each process writes what it holds.

They go through torch.distributed.checkpoint, which brings them to any number of processes, as .safetensors files: its
own format is read by unpickling, which a file from a stranger could use to run code. The folder is complete before the
checkpoint's file, which names it, is there; several files may name one folder. Its file sha256.json has the checksum of
each shard, and the checkpoint's file has that of sha256.json.
"""

import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import secrets
import shutil
import warnings
from collections import Counter, OrderedDict
from importlib.util import find_spec
from pathlib import Path

from utils.distributed.messages import broadcast, decided_by_main, gather, process_group
from utils.distributed.shards import is_shard
from utils.distributed.world import is_main, rank
from utils.errors import CheckpointError, UserError
from utils.files import flush_folder, replacing
from utils.untrusted import as_count

_SUMS = "sha256.json"
_ENDING = ".shards"
_NOTE = re.compile(rb"shards:([\w+-][\w.+-]*\.shards):([0-9a-f]{64});$")
_FILE = re.compile(r"[\w-][\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPES = ("float64", "float32", "bfloat16", "float16")
NOTE_BYTES = 400  # at most


def with_shards_saved(state, parent, stem):
    """The state with its sharded tensors in a new folder in parent, None in their places, and "shards" on them.

    All processes must call it. stem: what the folder's name begins with. Raises CheckpointError, in all of them, if one
    cannot write.
    """
    found = {}
    rest = _without_shards(state, (), found)
    if not found:
        return state
    listed = [
        {"at": list(at), "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for at, tensor in found.items()
    ]
    note = _save({_name(at): tensor for at, tensor in found.items()}, parent, stem)
    return {**rest, "shards": {"note": note, "tensors": listed}}


def _save(tensors, parent, stem):
    """Write {name: sharded tensor} into a new folder; returns the note on it."""
    plain_stem = re.sub(r"^\.|[^\w.+-]", "_", stem, flags=re.ASCII)  # as a note is read
    name = broadcast(f"{plain_stem}-{secrets.token_hex(8)}{_ENDING}")
    temporary = parent / f".{name}.tmp"
    try:
        with _told_of(parent / name):
            _write(tensors, temporary)
        sums = {file: digest for of_one in gather(_sums_of_own(temporary)) for file, digest in of_one.items()}
        return decided_by_main(lambda: _complete(temporary, parent / name, sums))
    finally:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)  # if it is still there


def read_shards(state, folder, mesh=None):
    """Put the tensors that the state lists under "shards", which it takes out, in their places.

    mesh: the processes over which they are sharded now; None for whole ones, on the CPU. Raises CheckpointError.
    """
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    if find_spec("safetensors") is None:
        raise CheckpointError(f"{folder}: needs the package safetensors; install it: pip install safetensors")
    if newer := _newer_torch():
        raise CheckpointError(f"{folder}: needs {newer}")
    try:
        listed = state.pop("shards")["tensors"]
        at = {_name(entry["at"]): entry["at"] for entry in listed}
        _require_bytes(torch, listed, folder)
        empty = {_name(entry["at"]): _empty(torch, entry, mesh) for entry in listed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it reads for this process alone, as is meant
            checkpoint.load(empty, storage_reader=checkpoint.HuggingFaceStorageReader(str(folder)), no_dist=True)
        for name, tensor in empty.items():
            *path, last = at[name]
            place = state
            for key in path:
                place = place[key]
            place[last] = tensor
    except (Exception, CheckpointException) as error:  # whatever a hostile folder makes torch's reader raise
        raise CheckpointError(f"{folder}: refused: its shards are not those of the checkpoint beside it") from error
    return state


def _require_bytes(torch, listed, folder):
    """Raise ValueError if the tensors that a checkpoint lists are larger than the shards, before memory is taken."""
    claimed = sum(math.prod(map(as_count, entry["shape"])) * _dtype(torch, entry).itemsize for entry in listed)
    if claimed > sum(path.stat().st_size for path in folder.iterdir()):
        raise ValueError(f"its shards are to have {claimed} bytes")


def note_of(ending):
    """(name of the folder, checksum of its list) by what stands before a checkpoint file's seal; None if nothing does.

    ending: the bytes before the seal.
    """
    match = _NOTE.search(ending)
    return (match[1].decode(), match[2].decode()) if match else None


def verify_shards(folder, digest):
    """Raise CheckpointError unless the folder's files are those that were written, and what they were then."""
    try:
        present = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(folder)}
        strange = [name for name, is_file in present.items() if not is_file]  # a pipe could be read for good
        if strange:
            raise CheckpointError(f"{folder / strange[0]}: refused: shards are plain files")
        listed = (folder / _SUMS).read_bytes()
        if hashlib.sha256(listed).hexdigest() != digest:
            raise CheckpointError(f"{folder / _SUMS}: damaged: its bytes do not match its checksum")
        sums = _sums_of(listed)
        if sums is None:
            raise CheckpointError(f"{folder / _SUMS}: refused: it is no list of files and their checksums")
        unlisted = present.keys() - sums.keys() - {_SUMS}
        if unlisted:
            raise CheckpointError(f"{folder / min(unlisted)}: refused: it is none of the checkpoint's shards")
        for name, of_file in sums.items():
            if _digest(folder / name) != of_file:
                raise CheckpointError(f"{folder / name}: damaged: its bytes do not match its checksum")
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: no such file; the checkpoint's shards are a part of it") from None
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot read the shards: {error.strerror}") from error


def _sums_of(listed):
    """{name of a file in the folder: its SHA-256}, as the bytes of the list say; None if they are anything else."""
    try:
        sums = json.loads(listed)
    except (ValueError, RecursionError):
        return None
    if not isinstance(sums, dict):
        return None
    fits = all(_FILE.fullmatch(name) and isinstance(of, str) and _SHA256.fullmatch(of) for name, of in sums.items())
    return sums if fits else None


def delete_unnamed(folder, named):
    """Delete the folders of shards of which the name is not among the named ones, and what killed saves left."""
    for shards in Path(folder).glob(f"*{_ENDING}"):
        if shards.name not in named:
            shutil.rmtree(shards, ignore_errors=True)
    for left_over in Path(folder).glob(f".*{_ENDING}.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)


def require_shard_files():
    """Raise UserError if what saves shards is missing: the package safetensors, or a part of torch's."""
    if find_spec("safetensors") is None:
        raise UserError("it saves its shards with the package safetensors, which is not there; pip install safetensors")
    if newer := _newer_torch():
        raise UserError(f"it saves its shards with {newer}")


def _newer_torch():
    """Which torch has what shards are saved with, and that it is not this one; None if it is."""
    import torch
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    if "save_distributed" in inspect.signature(HuggingFaceStorageWriter).parameters:
        return None
    return f"torch 2.9 or newer, and this is {torch.__version__}"


def _without_shards(value, at, found):
    if is_shard(value):
        found[at] = value.detach()
        return None
    if type(value) in (dict, OrderedDict, Counter):
        new = type(value)()
        for key, item in value.items():
            new[key] = _without_shards(item, (*at, key), found)
        if isinstance(value, OrderedDict):
            vars(new).update(vars(value))
        return new
    if type(value) in (list, tuple):
        return type(value)(_without_shards(item, (*at, i), found) for i, item in enumerate(value))
    return value


def _name(at):
    return "/".join(map(str, at))


def _empty(torch, entry, mesh):
    dtype = _dtype(torch, entry)
    if mesh is None:
        return torch.empty(entry["shape"], dtype=dtype)
    from torch.distributed.tensor import Shard, empty

    return empty(entry["shape"], dtype=dtype, device_mesh=mesh, placements=[Shard(0)])


def _dtype(torch, entry):
    if entry["dtype"] not in _DTYPES:
        raise ValueError(entry["dtype"])
    return getattr(torch, entry["dtype"])


def _write(tensors, temporary):
    """Each process its file, flushed to the disk."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    writer = checkpoint.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save(tensors, storage_writer=writer, process_group=process_group())
    except CheckpointException as error:  # raised in all processes; torch's text is a traceback of each
        failure = next(iter(error.failures.values()))[0]
        if isinstance(failure, OSError):
            raise failure from None
        raise OSError(f"{type(failure).__name__}: {failure}") from error


def _sums_of_own(folder):
    """{name: SHA-256} of the files that this process has written."""
    return {path.name: _digest(path) for path in folder.glob(f"shard-{rank() + 1:05d}-*")}


def _complete(temporary, folder, sums):
    """Give the folder its list of checksums and its name; returns the note on it."""
    missing = [file for file in sums if not (temporary / file).is_file()]
    if missing:
        raise CheckpointError(
            f"trainer.save_dir: {folder.parent} is not one folder for all processes: {missing[0]} is not in rank 0's; "
            "shards need one that all hosts share"
        )
    listed = json.dumps(sums, indent=1).encode()
    with _told_of(folder):
        with replacing(temporary / _SUMS, "the shards", CheckpointError) as file:
            file.write(listed)
        os.replace(temporary, folder)
        flush_folder(folder.parent)
    return f"shards:{folder.name}:{hashlib.sha256(listed).hexdigest()};"


@contextlib.contextmanager
def _told_of(folder):
    """Within it an error of the system becomes a CheckpointError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"{folder}: cannot save the shards: {reason}; the files before it are untouched"
        ) from error


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
