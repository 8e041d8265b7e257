"""Changes to the files of a folder that are made together, all or none."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from utils.errors import UserError, shown

_ASIDE = ".update-"  # how the name of the folder for the new and the old files begins


def change_files(folder: Path, writes: dict[str, bytes], removals: Iterable[str]) -> None:
    """Write files and remove others, then folders that are left empty. A file that is replaced keeps its mode.

    writes: {path in the folder, with / between the parts: content}; the last one is written last.
    removals: paths of files in the folder.

    Raises UserError if the system refuses. Then, and if it is interrupted, the folder is as before.
    """
    moves: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        with _folder_aside(folder) as aside:
            staged = _stage(folder, writes, aside)
            try:
                for number, place in enumerate([*removals, *writes]):
                    if os.path.lexists(folder / place):
                        _move(folder / place, aside / f"old-{number}", moves)
                for place, file in staged.items():
                    path = folder / place
                    made += [parent for parent in reversed(path.parents) if not parent.exists()]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _move(file, path, moves)
            except BaseException:
                _undo(moves, made)
                raise
    except OSError as error:
        named = [Path(name) for name in (error.filename, error.filename2) if name]
        place = next((path for path in named if not path.parent.name.startswith(_ASIDE)), folder)
        raise UserError(f"{shown(place)}: {error.strerror or error}; nothing has been changed") from None
    for place in removals:
        _remove_if_empty((folder / place).parent, folder)


@contextlib.contextmanager
def _folder_aside(folder):
    """A folder for the new files and the old ones, on the same disk. It is kept if the old ones are still in it."""
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        yield aside
    except _NotUndone as error:
        raise UserError(f"{shown(folder)}: {error}; files of yours are in {shown(aside)}") from None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


class _NotUndone(Exception):
    """Moves that failed could not be undone, either."""


def _stage(folder, writes, aside):
    """Write the new files into the folder aside. Returns {path: file}."""
    staged = {}
    for number, (place, content) in enumerate(writes.items()):
        staged[place] = aside / f"new-{number}"
        staged[place].write_bytes(content)
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(folder / place, staged[place])
    return staged


def _move(start, end, moves):
    moves.append((start, end))  # first, so that an interrupt after the move finds it
    os.replace(start, end)


def _undo(moves, made):
    try:
        for start, end in reversed(moves):
            if os.path.lexists(end):
                os.replace(end, start)
        for parent in reversed(made):
            if parent.exists():
                parent.rmdir()
    except OSError as error:
        raise _NotUndone(f"a change failed and cannot be undone: {error.strerror or error}") from None


def _remove_if_empty(place, folder):
    """Remove a folder, and those above it within `folder`, if they hold nothing but a cache of Python."""
    while place != folder and place.is_dir() and {path.name for path in place.iterdir()} <= {"__pycache__"}:
        shutil.rmtree(place, ignore_errors=True)
        place = place.parent
