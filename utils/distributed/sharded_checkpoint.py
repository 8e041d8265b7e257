"""The sharded tensors of a checkpoint: a folder beside its file, into which each process writes what it holds.

torch.distributed.checkpoint writes and reads them, for any number of processes, as .safetensors files: its own format
is read by unpickling, by which a file from a stranger could run code. The folder is complete before the checkpoint's
file, which names it; several files may name one folder. Its file sha256.json has the checksum of each shard, and the
checkpoint's file has the checksum of sha256.json.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import warnings
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from utils.distributed.shards import is_shard, missing_for_shards
from utils.distributed.world import broadcast, decided_by_main, gather, is_main, rank
from utils.errors import CheckpointError
from utils.files import flush_folder, replacing
from utils.untrusted import as_count

_SUMS = "sha256.json"
_ENDING = ".shards"
_NOTE = re.compile(rb"shards:([\w+-][\w.+-]*\.shards):([0-9a-f]{64});$")
_FILE = re.compile(r"[\w-][\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPES = ("float64", "float32", "bfloat16", "float16")
NOTE_BYTES = 400  # at most


# ---- saving, by several processes


def with_shards_saved(state: Any, parent: Path, stem: str) -> Any:
    """The state with None in place of its sharded tensors, saved in a new folder in parent, and "shards" about them.

    All processes must call it. stem: the beginning of the folder's name. Raises CheckpointError, in all of them, if one
    cannot write.
    """
    found = {}
    rest: Any = _without_shards(state, (), found)
    if not found:
        return state
    listed = [
        {"at": list(at), "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for at, tensor in found.items()
    ]
    note = _save({_name(at): tensor for at, tensor in found.items()}, parent, stem)
    return {**rest, "shards": {"note": note, "tensors": listed}}


def _without_shards(value, at, found):
    if is_shard(value):
        found[at] = value.detach()
        return None
    if type(value) in (dict, OrderedDict, Counter):
        new = type(value)()
        for key, item in value.items():
            new[key] = _without_shards(item, (*at, key), found)
        if isinstance(value, OrderedDict):
            vars(new).update(vars(value))  # a module's state has the versions of its parts there
        return new
    if type(value) in (list, tuple):
        return type(value)(_without_shards(item, (*at, i), found) for i, item in enumerate(value))
    return value


def _name(at):
    return "/".join(map(str, at))


def _save(tensors, parent, stem):
    """Write {name: sharded tensor} into a new folder; returns the note about it for the checkpoint's file."""
    plain_stem = re.sub(r"^\.|[^\w.+-]", "_", stem, flags=re.ASCII)  # as a note is read
    folder = parent / broadcast(f"{plain_stem}-{secrets.token_hex(8)}{_ENDING}")
    temporary = parent / f".{folder.name}.tmp"
    try:
        with _system_errors(folder):
            _write(tensors, temporary)
        own = {path.name: _digest(path) for path in temporary.glob(f"shard-{rank() + 1:05d}-*")}
        sums = {name: digest for of_one in gather(own) for name, digest in of_one.items()}
        return decided_by_main(lambda: _complete(temporary, folder, sums))
    finally:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)  # if it is still there


def _write(tensors, temporary):
    """Each process its file, flushed to the disk."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    from utils.distributed import messages

    writer = checkpoint.HuggingFaceStorageWriter(  # pyright: ignore[reportPrivateImportUsage]
        str(temporary), save_distributed=True
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save(  # pyright: ignore[reportPrivateImportUsage]
                tensors, storage_writer=writer, process_group=messages.group()
            )
    except CheckpointException as error:  # raised in all processes; torch's text is a traceback of each
        failure = next(iter(error.failures.values()))[0]
        if isinstance(failure, OSError):
            raise failure from None
        raise OSError(f"{type(failure).__name__}: {failure}") from error


def _complete(temporary, folder, sums):
    """Give the folder its list of checksums and its name; returns the note about it."""
    missing = [file for file in sums if not (temporary / file).is_file()]
    if missing:
        raise CheckpointError(
            f"trainer.save_dir: {folder.parent} is not one folder for all processes: {missing[0]} is not in rank 0's; "
            "shards need one that all hosts share"
        )
    listed = json.dumps(sums, indent=1).encode()
    with _system_errors(folder):
        with replacing(temporary / _SUMS, "the shards", CheckpointError) as file:
            file.write(listed)
        os.replace(temporary, folder)
        flush_folder(folder.parent)
    return f"shards:{folder.name}:{hashlib.sha256(listed).hexdigest()};"


@contextlib.contextmanager
def _system_errors(folder) -> Iterator[None]:
    """Within it an OSError becomes a CheckpointError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"{folder}: cannot save the shards: {reason}; the files before it are untouched"
        ) from error


def delete_unnamed(folder: str | Path, named: Collection[str]) -> None:
    """Delete folders of shards whose names are not among the named ones, and what killed saves have left."""
    unnamed = [shards for shards in Path(folder).glob(f"*{_ENDING}") if shards.name not in named]
    for path in [*unnamed, *Path(folder).glob(f".*{_ENDING}.tmp")]:
        shutil.rmtree(path, ignore_errors=True)


# ---- reading, by one process or several


def read_shards(state: dict[str, Any], folder: Path, mesh: Any = None) -> dict[str, Any]:
    """The state with the tensors, which it lists under "shards", put back in their places.

    mesh: the processes over which they are sharded now; None for whole ones, on the CPU. Raises CheckpointError.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    if missing := missing_for_shards():
        raise CheckpointError(f"{folder}: needs {missing}")
    try:
        listed = state.pop("shards")["tensors"]
        _require_bytes(listed, folder)
        tensors = {_name(entry["at"]): _empty(entry, mesh) for entry in listed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it reads for this process alone, as is meant
            reader = checkpoint.HuggingFaceStorageReader(str(folder))  # pyright: ignore[reportPrivateImportUsage]
            checkpoint.load(tensors, storage_reader=reader, no_dist=True)  # pyright: ignore[reportPrivateImportUsage]
        for entry in listed:
            *path, last = entry["at"]
            place = state
            for key in path:
                place = place[key]
            place[last] = tensors[_name(entry["at"])]
    except (Exception, CheckpointException) as error:  # a hostile folder can make torch's reader raise anything
        raise CheckpointError(f"{folder}: refused: its shards are not those of the checkpoint beside it") from error
    return state


def _require_bytes(listed, folder):
    """Raise ValueError if the tensors that a checkpoint lists are larger than the shards, before memory is taken."""
    claimed = sum(math.prod(map(as_count, entry["shape"])) * _dtype(entry).itemsize for entry in listed)
    if claimed > sum(path.stat().st_size for path in folder.iterdir()):
        raise ValueError(f"its shards are to have {claimed} bytes")


def _empty(entry, mesh):
    import torch

    if mesh is None:
        return torch.empty(entry["shape"], dtype=_dtype(entry))
    from torch.distributed.tensor import Shard, empty

    return empty(entry["shape"], dtype=_dtype(entry), device_mesh=mesh, placements=[Shard(0)])


def _dtype(entry):
    import torch

    if entry["dtype"] not in _DTYPES:
        raise ValueError(entry["dtype"])
    return getattr(torch, entry["dtype"])


def note_of(ending: bytes) -> tuple[str, str] | None:
    """(name of the folder, checksum of its list) in the bytes before a checkpoint file's seal; None without shards."""
    match = _NOTE.search(ending)
    return (match[1].decode(), match[2].decode()) if match else None


def verify_shards(folder: Path, digest: str) -> None:
    """Raise CheckpointError unless the folder holds exactly the files that were written, unchanged."""
    try:
        present = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(folder)}
        strange = [name for name, is_file in present.items() if not is_file]  # to read a pipe could take forever
        if strange:
            raise CheckpointError(f"{folder / strange[0]}: refused: shards are plain files")
        listed = (folder / _SUMS).read_bytes()
        if hashlib.sha256(listed).hexdigest() != digest:
            raise CheckpointError(f"{folder / _SUMS}: damaged: its bytes do not match its checksum")
        sums = _sums_of(listed, folder / _SUMS)
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


def _sums_of(listed, path):
    """{name of a file in the folder: its SHA-256}, from the bytes of the list at path."""
    try:
        sums = json.loads(listed)
        if all(_FILE.fullmatch(name) and _SHA256.fullmatch(digest) for name, digest in sums.items()):
            return sums
    except (ValueError, RecursionError, AttributeError, TypeError):  # no JSON, no object, no text in it
        pass
    raise CheckpointError(f"{path}: refused: it is not a list of files and their checksums")


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
