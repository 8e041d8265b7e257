"""Checkpoint files: written completely or not at all, verified before use, and unable to run code.

A checkpoint is the zip archive that torch.save writes, whose archive comment holds the SHA-256 of all bytes before it.
Any program that reads zip or torch files can read it; torch.load(path, weights_only=True) needs nothing of ours.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.distributed.sharded_checkpoint import NOTE_BYTES, delete_unnamed, note_of, read_shards, verify_shards
from utils.errors import CheckpointError
from utils.files import delete_left_over, delete_unless_in_use, replacing
from utils.runs.run_folder import unsaved_since
from utils.runs.safetensors_io import read_safetensors
from utils.runs.torch_file import read_torch_file, refusing, write_torch_file
from utils.untrusted import as_count, as_number, plain, require_harmless

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

FORMAT = 1
"""Version of what a checkpoint's entries mean. 0, or none: schedules in steps may have counted batches."""
BEST_MODEL = "model_best.pth"
WORDS = "latest", "best"  # which name a checkpoint of the newest run
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
_COUNTS = ("format", "epoch", "batch", "step", "validated_step", "best_epoch", "not_improved_count")
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
_OVERTAKEN = "overtaken-"
_KEPT_WITHIN_EPOCHS = 2  # newest ones, the second in case the first is damaged
_NO_COMMENT = (0).to_bytes(2, "little")  # a zip archive ends with the length of its comment and the comment

# ---- write and read a file


def save_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write state to path: temporary file, flush, rename, flush of the folder.

    state: dict of tensors and plain Python values. Raises CheckpointError, leaving the old file untouched, if it
    holds anything else or if the file cannot be written.
    """
    state = plain(state)
    with replacing(path, "the checkpoint", CheckpointError) as file:
        sealed: Any = _SealedFile(file)  # has what torch.save calls
        try:
            write_torch_file(state, sealed)
        except RuntimeError as error:
            raise sealed.error or error from None  # torch's error says only that bytes are missing
        sealed.finish(state["shards"]["note"].encode() if "shards" in state else b"")


def copy_checkpoint(source: str | Path, path: str | Path) -> None:
    """Write a copy of a checkpoint file to path, as safely as save_checkpoint writes."""
    with open(source, "rb") as original, replacing(path, "the checkpoint", CheckpointError) as copy:
        shutil.copyfileobj(original, copy, 1 << 24)


def load_checkpoint(path: str | Path, shards: bool = True) -> dict[str, Any]:
    """Return the dict that was saved, tensors on the CPU. Raises CheckpointError for a damaged or unsafe file.

    shards: also read sharded tensors, as whole ones; with_shards can read them later. Files without a checksum are
    read too: those of plain torch.save, which may be a state_dict alone, those of the old template, and .safetensors.
    """
    with refusing(path := Path(path)):
        state = _read(path)
    state = _require_kinds(state, path)
    return with_shards(state, path) if shards else state


def _read(path):
    is_safetensors = path.suffix == ".safetensors"
    if is_safetensors or _verify(path):
        state = read_safetensors(path) if is_safetensors else read_torch_file(path)
        require_harmless(state, path.stat().st_size)
    else:
        from utils.old_forms.checkpoint import load_old_checkpoint

        state = load_old_checkpoint(path)
    is_state_dict = isinstance(state, dict) and state and all(hasattr(value, "layout") for value in state.values())
    return {"state_dict": state} if is_state_dict else state


def with_shards(state: dict[str, Any], path: Path, mesh: "DeviceMesh | None" = None) -> dict[str, Any]:
    """Return the state that load_checkpoint read from path without shards, with its sharded tensors.

    mesh: the processes over which they are sharded now; None for whole tensors on the CPU.
    """
    if "shards" not in state:
        return state
    note = note_of(_ending_of(path)[0])
    if note is None:
        raise CheckpointError(f"{path}: refused: its tensors are in shards, and it names no folder of them")
    return _require_kinds(read_shards(state, path.parent / note[0], mesh), path)


def _require_kinds(state, path):
    """Return the state. Raises CheckpointError if an entry is not what a checkpoint holds under its name."""
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise CheckpointError(f"{path}: not a checkpoint: it holds no 'state_dict'")
    for key, kind in _KINDS.items():
        if key in state and type(state[key]) is not kind:
            raise CheckpointError(f"{path}: its {key!r} is of type {type(state[key]).__name__}, not {kind.__name__}")
    for key in (*_COUNTS, "monitor_best"):
        value, least = state.get(key, 0), -1 if key == "not_improved_count" else 0
        try:
            as_number(value) if key == "monitor_best" else as_count(value, least)
        except ValueError as error:
            raise CheckpointError(f"{path}: its {key!r}: {error}") from None
    if state.get("format", 0) > FORMAT:
        newer = f"a newer version of this project wrote it, in format {state['format']}"
        raise CheckpointError(f"{path}: {newer}; this version reads up to format {FORMAT}; update the project")
    if len(state.get("log", ())) > _MOST_LOGGED:
        raise CheckpointError(f"{path}: its 'log' has {len(state['log'])} entries")
    for key in ("state_dict", "trained_state_dict"):
        weights = state.get(key, {})
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise CheckpointError(f"{path}: its {key!r} is not a dict whose keys are text")
    return state


class _SealedFile:
    """File that torch.save writes an archive to: passes the bytes on, and puts their checksum behind them.

    The checksum becomes the archive's comment, so the last bytes, the length of the empty comment, are held back.
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
        """Do nothing: torch.save calls it before the file is complete."""

    def finish(self, note):
        """Write the length of the comment, and the comment: the note and the checksum."""
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


def checksum_of(path: str | Path) -> str:
    """Return the checksum that a checkpoint file states, in hexadecimal; "" if it states none."""
    _, seal = _ending_of(path) if Path(path).is_file() else (b"", b"")
    return seal.removeprefix(_SEAL).decode() if seal.startswith(_SEAL) else ""


def _ending_of(path):
    """(bytes in which a note on shards may stand, bytes of the seal) at the end of a file."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SEAL_BYTES - NOTE_BYTES))
        ending = file.read()
    return ending[:-_SEAL_BYTES], ending[-_SEAL_BYTES:]


def _verify(path):
    """True if the file's checksum is right, False for a complete file without one. Raises CheckpointError."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        num_bytes = path.stat().st_size
        note, seal = _ending_of(path)
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            digest = _digest_of_first(file, num_bytes - _SEAL_BYTES) if seal.startswith(_SEAL) else ""
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    if digest and start == b"PK\x03\x04":
        if seal != _SEAL + digest.encode():
            raise CheckpointError(f"{path}: damaged: its bytes do not match its checksum")
        if shards := note_of(note):
            verify_shards(path.parent / shards[0], shards[1])
        return True
    is_complete = seal[-22:-18] == b"PK\x05\x06" and seal.endswith(_NO_COMMENT)
    if (start == b"PK\x03\x04" and is_complete) or start[:2] == b"\x80\x02":
        return False  # a plain torch file, of today's format or of the one before 1.6, a bare pickle
    if path.suffix in (".json", ".yaml", ".yml", ".toml"):
        raise CheckpointError(f"{path}: a config, not a checkpoint; give a config with -c")
    raise CheckpointError(f"{path}: {'empty' if num_bytes == 0 else 'damaged or not a checkpoint'}")


def _digest_of_first(file, num_bytes):
    """SHA-256 of the first num_bytes of the file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(max(0, min(num_bytes, 1 << 20))):
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.hexdigest()


# ---- the checkpoints of a run


def checkpoint_name(epoch: int, batch: int = 0) -> str:
    """Return the file name of the checkpoint after an epoch, or after the first batches of the next epoch."""
    return f"checkpoint-epoch{epoch + 1}-batch{batch}.pth" if batch else f"checkpoint-epoch{epoch}.pth"


def progress_of(path: str | Path) -> tuple[int, ...]:
    """Return (complete epochs, batches after them) by a checkpoint's name; () for other names, which sorts first."""
    match = re.fullmatch(r"checkpoint-epoch(\d+)(?:-batch(\d+))?\.pth", os.path.basename(path))
    if match is None:
        return ()
    return (int(match[1]), 0) if match[2] is None else (int(match[1]) - 1, int(match[2]))


def find_checkpoint(where: str | Path, save_dir: str | Path = "saved") -> tuple[Path, list[str]]:
    """Return (path, [why newer ones were skipped]) of the checkpoint that a file, a run folder or one of WORDS names.

    "latest" is the newest run below save_dir, and "best" its best model; a run folder is its newest checkpoint that
    verifies. Raises CheckpointError if there is none, or no such file.
    """
    folder, damaged = Path(where), []
    if str(where) in WORDS:
        folder = newest_run(save_dir) or Path(save_dir) / "models"
        damaged += unsaved_since(folder, Path(save_dir).glob("models/*/*"))
        folder = folder / BEST_MODEL if str(where) == "best" else folder
    if str(where) != "latest" and not os.path.isdir(folder):
        try:
            folder.stat()
        except FileNotFoundError:
            is_word = len(folder.parts) == 1 and not folder.suffix
            remedy = "; give a checkpoint, the folder of a run, latest or best" if is_word else ""
            raise CheckpointError(f"{folder}: no such checkpoint{remedy}") from None
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot read the checkpoint: {error.strerror}") from error
        return folder, damaged
    for path in sorted(folder.glob("*.pth"), key=progress_of, reverse=True):
        if path.name.startswith(_OVERTAKEN):
            continue
        try:
            _verify(path)
            return path, damaged
        except CheckpointError as error:
            damaged.append(str(error))
    newest = _newest_file(folder.glob("*/*.pth"))
    if newest and not damaged:
        holds = "holds runs and is not one itself; the newest run in it with a checkpoint is"
        raise CheckpointError(f"{folder}: {holds} {newest.parent}")
    raise CheckpointError(*damaged, f"{folder}: no checkpoint there that could be used")


def newest_run(save_dir: str | Path, name: str = "*") -> Path | None:
    """Return the folder of the run below save_dir that saved a checkpoint last, None without one.

    name: of the job whose runs to look at; "*" for all.
    """
    newest = _newest_file((Path(save_dir) / "models").glob(f"{name if name == '*' else glob.escape(name)}/*/*.pth"))
    return newest and newest.parent


def _newest_file(paths):
    return max(filter(Path.is_file, paths), key=lambda path: path.stat().st_mtime, default=None)


def find_logged(folder: str | Path, name: str, value: float, files: str = "checkpoint-epoch*.pth") -> Path | None:
    """Return the path of the checkpoint, among these files of the folder, whose epoch logged the value; or None."""
    for path in sorted(Path(folder).glob(files)):
        with contextlib.suppress(CheckpointError):
            state = load_checkpoint(path, shards=False)
            logged = state.get("log", {}).get(name)
            if not state.get("batch") and type(logged) in (int, float) and logged == value:
                return path
    return None


def set_aside_overtaken(folder: str | Path, epoch: int, batch: int = 0) -> list[str]:
    """Rename checkpoints later than this one, where a run resumes, to "overtaken-..."; return their former names.

    They are kept, but no longer taken for the newest; nor is model_best.pth for the best if it is one of them.
    """
    folder = Path(folder)
    later = [path for path in folder.glob("checkpoint-epoch*.pth") if progress_of(path) > (epoch, batch)]
    for path in folder.glob("top-*.pth"):  # of the callback SaveTopK
        match = re.fullmatch(r"top-.+-epoch(\d+)\.pth", path.name)
        if match and int(match[1]) > epoch:
            later.append(path)
    best = folder / BEST_MODEL
    if later and best.exists() and _is_later(best, epoch, batch):
        later.append(best)
    for path in later:
        number, place = 1, path.with_name(f"{_OVERTAKEN}{path.name}")
        while place.exists():
            number += 1
            place = path.with_name(f"{_OVERTAKEN}{number}-{path.name}")
        path.replace(place)
    return sorted(path.name for path in later)


def _is_later(path, epoch, batch):
    try:
        state = load_checkpoint(path, shards=False)
    except CheckpointError:
        return True
    return (state.get("epoch", 0), state.get("batch", 0)) > (epoch, batch)


def prune_checkpoints(folder: str | Path, keep_last: int | None = None) -> None:
    """Delete all but the newest keep_last checkpoints after epochs (None: keep all), and files of killed saves.

    Checkpoints within epochs, from which a killed run resumes, are deleted once there are two newer checkpoints.
    """
    delete_left_over(folder, ".*.pth.*.tmp")
    files = filter(Path.is_file, Path(folder).glob("checkpoint-epoch*.pth"))
    saved = sorted(filter(progress_of, files), key=progress_of)
    old = [path for path in saved if progress_of(path)[1] == 0][:-keep_last] if keep_last else []
    old += [path for path in saved[:-_KEPT_WITHIN_EPOCHS] if progress_of(path)[1]]
    for path in old:
        delete_unless_in_use(path)
    if any(Path(folder).glob("*.shards")) or any(Path(folder).glob(".*.shards.tmp")):
        files = filter(Path.is_file, Path(folder).glob("[!.]*"))  # callbacks may name checkpoints as they like
        notes = [note_of(_ending_of(path)[0]) for path in files]
        delete_unnamed(folder, {note[0] for note in notes if note})
