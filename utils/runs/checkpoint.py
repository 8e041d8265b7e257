"""Checkpoint files: written whole or not at all, verified before they are trusted, and never able to run code.

A checkpoint is what torch.save writes, a zip archive, whose archive comment holds the SHA-256 of all bytes before
it. Any program that reads zip or torch files reads it; torch.load(path, weights_only=True) needs nothing of ours.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import re
import shutil
from collections import Counter, OrderedDict
from pathlib import Path

from utils.distributed.sharded_checkpoint import NOTE_BYTES, delete_unnamed, note_of, read_shards, verify_shards
from utils.errors import CheckpointError, Refused, brief, shortened
from utils.files import delete_left_over, replacing
from utils.runs.safetensors_io import read_safetensors
from utils.runs.torch_file import read_torch_file
from utils.untrusted import LONGEST_NAME, MOST_BITS, MOST_NESTED, as_count, as_number, require_harmless

_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_LEAST = {"epoch": 0, "batch": 0, "step": 0, "validated_step": 0, "best_epoch": 0, "not_improved_count": -1}
_KINDS = {
    "optimizer": dict,
    "config": dict,
    "attributes": dict,
    "rng": dict,
    "left_out": list,
    "of_other_processes": list,
    "log": dict,
    "shards": dict,
    "stop_reason": str,
}
_MOST_LOGGED = 10_000  # numbers of an epoch
_OF_THEIR_OWN = ("checkpoint.attributes", "checkpoint.config")  # in which a key may be any text
BEST_MODEL = "model_best.pth"
_OVERTAKEN = "overtaken-"
_KEPT_WITHIN_EPOCHS = 2  # newest ones, the second in case the first is damaged
_NO_COMMENT = (0).to_bytes(2, "little")  # a zip archive ends with its comment's length and the comment


def save_checkpoint(state, path):
    """Write state to path: temporary file, flush, rename, flush of the folder.

    state: dict of tensors and plain python values. Raises CheckpointError, with the old file untouched, if it
    holds anything else or if the file cannot be written.
    """
    import torch

    state = plain(state)
    with replacing(path, "the checkpoint", CheckpointError) as file:
        sealed = _SealedFile(file)
        try:
            torch.save(state, sealed)
        except RuntimeError as error:
            raise sealed.error or error from None  # torch's says only that bytes are missing
        sealed.finish(state["shards"]["note"].encode() if "shards" in state else b"")


def copy_checkpoint(source, path):
    """Put a copy of a checkpoint file at path, as safely as save_checkpoint writes one."""
    with open(source, "rb") as original, replacing(path, "the checkpoint", CheckpointError) as copy:
        shutil.copyfileobj(original, copy, 1 << 24)


def load_checkpoint(path, shards=True):
    """The dict that was saved, tensors on the CPU. Raises CheckpointError for anything that is not whole and safe.

    shards: whether to read sharded tensors too, as whole ones; with_shards can do it later. Also reads files without a
    checksum: those of plain torch.save, which may be a state_dict alone, those of the old template, and .safetensors.
    """
    path = Path(path)
    try:
        state = _read(path)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes torch's reader raise
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it refers to {name[1]}" if name else "its content is not that of a checkpoint"
        reason = error if isinstance(error, Refused) else reason
        raise CheckpointError(f"{path}: refused: {reason}; only tensors and plain values are read") from error
    state = _require_kinds(state, path)
    return with_shards(state, path) if shards else state


def _read(path):
    """What the file holds: plain values and tensors, whatever a checkpoint may make of them."""
    if path.suffix == ".safetensors":
        state = read_safetensors(path)
        require_harmless(state, path.stat().st_size)
    elif _verify(path):
        state = read_torch_file(path)
        require_harmless(state, path.stat().st_size)
    else:
        from utils.runs.old_checkpoint import load_old_checkpoint

        state = load_old_checkpoint(path)
    alone = isinstance(state, dict) and state and all(hasattr(value, "layout") for value in state.values())
    return {"state_dict": state} if alone else state  # of a model


def with_shards(state, path, mesh=None):
    """The state that load_checkpoint has read from path without shards, if it has any, with them.

    mesh: the processes over which they are sharded now; None for whole tensors, on the CPU.
    """
    if "shards" not in state:
        return state
    note = _note_on_shards(path)
    if note is None:
        raise CheckpointError(f"{path}: refused: its tensors are in shards, and it names no folder of them")
    return _require_kinds(read_shards(state, path.parent / note[0], mesh), path)


def _require_kinds(state, path):
    """The state. Raises CheckpointError if it is not that of a checkpoint."""
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise CheckpointError(f"{path}: not a checkpoint: it holds no 'state_dict'")
    for key, kind in _KINDS.items():
        if key in state and type(state[key]) is not kind:
            raise CheckpointError(f"{path}: its {key!r} is of type {type(state[key]).__name__}, not {kind.__name__}")
    for key in [*_LEAST, "monitor_best"]:
        try:
            as_number(state.get(key, 0)) if key == "monitor_best" else as_count(state.get(key, 0), _LEAST[key])
        except ValueError as error:
            raise CheckpointError(f"{path}: its {key!r}: {error}") from None
    if len(state.get("log", ())) > _MOST_LOGGED:
        raise CheckpointError(f"{path}: its 'log' has {len(state['log'])} entries")
    for key in ("state_dict", "trained_state_dict"):
        weights = state.get(key, {})
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise CheckpointError(f"{path}: its {key!r} is no dict of names that are text")
    return state


def checksum_of(path):
    """The checksum that a checkpoint file says it has, as text; "" if it says none."""
    path = Path(path)
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_BYTES))
        seal = file.read()
    return seal.removeprefix(_SEAL).decode() if seal.startswith(_SEAL) else ""


def find_checkpoint(where, save_dir="saved"):
    """Path of the checkpoint meant by a file, a run folder or "latest" (the newest run below save_dir).

    In a folder it is the newest one that verifies. Returns (path, [why newer ones were passed over]).
    """
    folder = Path(where)
    if str(where) == "latest":
        folder = newest_run(save_dir) or Path(save_dir) / "models"
    elif not os.path.isdir(folder):
        return folder, []
    damaged = []
    for path in sorted(folder.glob("*.pth"), key=_progress_of, reverse=True):
        if path.name.startswith(_OVERTAKEN):
            continue
        try:
            _verify(path)
            return path, damaged
        except CheckpointError as error:
            damaged.append(str(error))
    of_runs = filter(Path.is_file, folder.glob("*/*.pth"))
    newest = max(of_runs, key=lambda path: path.stat().st_mtime, default=None)
    if newest and not damaged:
        raise CheckpointError(f"{folder}: holds runs and is none; its newest one with a checkpoint is {newest.parent}")
    raise CheckpointError(*damaged, f"{folder}: no checkpoint there that could be used")


def newest_run(save_dir, name="*"):
    """Folder of the run below save_dir that saved a checkpoint last, of a job of that name; None if none did."""
    runs = Path(save_dir) / "models"
    found = [path for path in runs.glob(f"{name if name == '*' else glob.escape(name)}/*/*.pth") if path.is_file()]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest and newest.parent


def checkpoint_name(epoch, batch=0):
    """File name of the checkpoint after an epoch, or after the first batches of the epoch that follows it."""
    return f"checkpoint-epoch{epoch + 1}-batch{batch}.pth" if batch else f"checkpoint-epoch{epoch}.pth"


def set_aside_overtaken(folder, epoch, batch=0):
    """Put "overtaken-" before the names of checkpoints further on than this one, from which a run goes on.

    Nothing is lost, and they are no longer taken for the newest; nor model_best.pth for the best, if it is of theirs.
    Returns the names that they had.
    """
    folder = Path(folder)
    later = [path for path in folder.glob("checkpoint-epoch*.pth") if _progress_of(path) > (epoch, batch)]
    later += [path for path in folder.glob("top-*.pth") if _epoch_at_top(path) > epoch]
    best = folder / BEST_MODEL
    if later and best.exists() and _is_further(best, epoch, batch):
        later.append(best)
    for path in later:
        path.replace(_free_name(path))
    return sorted(path.name for path in later)


def find_logged(folder, name, value, files="checkpoint-epoch*.pth"):
    """Path of the checkpoint among these files of the folder whose epoch logged this value under the name, or None."""
    for path in sorted(Path(folder).glob(files)):
        with contextlib.suppress(CheckpointError):
            state = load_checkpoint(path, shards=False)
            logged = state.get("log", {}).get(name)
            if not state.get("batch") and type(logged) in (int, float) and logged == value:
                return path
    return None


def _is_further(path, epoch, batch):
    try:
        state = load_checkpoint(path, shards=False)
    except CheckpointError:
        return True
    return (state.get("epoch", 0), state.get("batch", 0)) > (epoch, batch)


def _free_name(path):
    numbers = itertools.chain([""], (f"{number}-" for number in itertools.count(2)))
    places = (path.with_name(f"{_OVERTAKEN}{number}{path.name}") for number in numbers)
    return next(place for place in places if not place.exists())


def prune_checkpoints(folder, keep_last=None):
    """Delete all but the newest keep_last of the checkpoints after epochs (None: keep all), and what killed saves left.

    Those within epochs, from which a run that was killed goes on, are deleted once there are two newer checkpoints.
    """
    delete_left_over(folder, ".*.pth.*.tmp")
    files = filter(Path.is_file, Path(folder).glob("checkpoint-epoch*.pth"))
    saved = sorted(filter(_progress_of, files), key=_progress_of)
    after_epochs = [path for path in saved if _progress_of(path)[1] == 0]
    old = after_epochs[:-keep_last] if keep_last else []
    for path in [*old, *(path for path in saved[:-_KEPT_WITHIN_EPOCHS] if _progress_of(path)[1])]:
        path.unlink(missing_ok=True)
    if any(Path(folder).glob("*.shards")) or any(Path(folder).glob(".*.shards.tmp")):
        notes = map(_note_on_shards, filter(Path.is_file, Path(folder).glob("[!.]*")))  # named as a callback likes
        delete_unnamed(folder, {note[0] for note in notes if note})


def plain(value, where="checkpoint", copy=False, depth=0):
    """The value with NumPy scalars as python numbers. Raises CheckpointError for what a safe file cannot hold.

    copy: with tensors of its own, in host memory, that later training does not change. depth: of the place in a state.
    """
    import numpy as np
    import torch

    if type(value) is int and value.bit_length() > MOST_BITS:
        raise CheckpointError(f"{where}: an integer of {value.bit_length()} bits cannot be saved")
    if value is None or type(value) in (str, bool, int, float):
        return value
    if depth > MOST_NESTED:
        raise CheckpointError(f"{shortened(where)}: what is nested more than {MOST_NESTED} deep cannot be saved")
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value.detach(), where, copy)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict, Counter):
        return _plain_dict(value, where, copy, depth)
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{where}.{i}", copy, depth + 1) for i, item in enumerate(value))
    raise CheckpointError(
        f"{where}: a {type(value).__module__}.{type(value).__qualname__} cannot be saved; "
        "a checkpoint holds tensors, numbers, text, lists and dicts"
    )


def _plain_tensor(tensor, where, copy):
    """The tensor in a form that is read again: of no class of its own, and with a number in memory for each entry."""
    import torch

    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        raise CheckpointError(f"{where}: a meta, quantized or nested tensor cannot be saved")
    tensor = (tensor if type(tensor) is torch.Tensor else tensor.as_subclass(torch.Tensor)).resolve_conj().resolve_neg()
    if copy:
        return tensor.to("cpu", copy=True)
    stretched = tensor.layout == torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes()
    return tensor.clone(memory_format=torch.contiguous_format) if stretched else tensor


def _plain_dict(value, where, copy, depth):
    """A dict of the same type, which MultiStepLR's Counter needs, with the version marks of a module's state."""
    new = type(value)()
    for key, item in value.items():
        if type(key) not in (str, int):
            raise CheckpointError(f"{where}: the key {brief(key)} cannot be saved; keys are text or integers")
        if not str(key).isprintable() and where.startswith("checkpoint") and not where.startswith(_OF_THEIR_OWN):
            raise CheckpointError(
                f"{where}: the name {brief(key)} cannot be saved; names are one line of printable text"
            )
        if len(str(key)) > LONGEST_NAME:
            raise CheckpointError(f"{where}: a key of {len(str(key))} characters cannot be saved")
        new[key] = plain(item, f"{where}.{key}", copy, depth + 1)
    if isinstance(value, OrderedDict):
        vars(new).update(vars(value))
    return new


class _SealedFile:
    """What torch.save writes a zip archive to; its bytes go on into the file, and their checksum behind them.

    The archive's last bytes, the length of its empty comment, are held back, for the checksum becomes its comment.
    """

    def __init__(self, file):
        self._file = file
        self._digest = hashlib.sha256()
        self._held = b""
        self.error = None

    def write(self, data):
        if len(data) < len(_NO_COMMENT):
            data = self._held + bytes(data)
        else:
            self._put(self._held)
        self._put(data[: -len(_NO_COMMENT)])
        self._held = bytes(data[-len(_NO_COMMENT) :])

    def flush(self):
        """For torch.save, which calls it before the file is complete."""

    def finish(self, note=b""):
        """Write what was held back, and behind it the note and the checksum."""
        self._put((len(note) + _SEAL_BYTES).to_bytes(len(self._held), "little"))
        self._put(note)
        self._file.write(_SEAL + self._digest.hexdigest().encode())

    def _put(self, data):
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def _verify(path):
    """True if the file's checksum is right, False if it is a whole file that has none. Raises CheckpointError."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        num_bytes = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(max(0, num_bytes - _SEAL_BYTES))
            seal = file.read()
            file.seek(0)
            digest = _digest_of_first(file, num_bytes - _SEAL_BYTES) if seal.startswith(_SEAL) else ""
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    if digest and start == b"PK\x03\x04":
        if seal == _SEAL + digest.encode():
            if note := _note_on_shards(path):
                verify_shards(path.parent / note[0], note[1])
            return True
        raise CheckpointError(f"{path}: damaged: its bytes do not match its checksum")
    if start == b"PK\x03\x04" and seal[-22:-18] == b"PK\x05\x06" and seal.endswith(_NO_COMMENT):
        return False  # a plain torch file, complete to its end record
    if start[:2] == b"\x80\x02":
        return False  # torch's file format before 1.6, a bare pickle
    if path.suffix in (".json", ".yaml", ".yml", ".toml"):
        raise CheckpointError(f"{path}: a config, not a checkpoint; give a config with -c")
    raise CheckpointError(f"{path}: {'empty' if num_bytes == 0 else 'damaged or not a checkpoint'}")


def _note_on_shards(path):
    """(name of the folder with the checkpoint's shards, checksum of its list); None if it has none."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_BYTES - NOTE_BYTES))
        return note_of(file.read()[:-_SEAL_BYTES])


def _digest_of_first(file, num_bytes):
    """SHA-256 of the first num_bytes of the file, in hexadecimal."""
    digest = hashlib.sha256()
    while num_bytes > 0:
        chunk = file.read(min(num_bytes, 1 << 20))
        if not chunk:
            break
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.hexdigest()


def _epoch_at_top(path):
    """The epoch in the name of a file that the callback SaveTopK wrote; 0 for others."""
    match = re.fullmatch(r"top-.+-epoch(\d+)\.pth", path.name)
    return int(match[1]) if match else 0


def _progress_of(path):
    """(whole epochs, batches beyond them) by a checkpoint's name; () for others, which so come after all of these."""
    match = re.fullmatch(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth", path.name)
    if match is None:
        return ()
    return (int(match[1]), 0) if match[2] is None else (int(match[1]) - 1, int(match[2]))
