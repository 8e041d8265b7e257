"""A project's files while it is moved in: changes are made in a copy, and reach it at once, or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scaffold.git import run_git
from utils.errors import UserError, shortened

_COPIED = (".py", ".txt", ".json", ".md", ".toml", ".yaml", ".yml", ".cfg")  # others are linked


class Tree:
    """A copy of a project in a temporary folder, and what was changed in it.

    project: the folder of the original, the root of a git repository or a folder in one, without uncommitted changes.
    folder: of the copy. Its code is copied, data and runs are links to the original's.
    tracked: paths of the files that git knows, relative to the folder, in "/".
    """

    def __init__(self, project: Path, folder: Path, tracked: list[str]) -> None:
        self.project, self.folder, self.tracked = project, folder, tracked
        self.changed: dict[str, bool] = {}  # path: whether the file is there afterwards

    def exists(self, place: str) -> bool:
        """Whether the copy has such a file or folder."""
        return os.path.lexists(self.folder / place)

    def read(self, place: str) -> str | None:
        """Return a file's text with its line ends; None if it is not UTF-8."""
        try:
            return (self.folder / place).read_bytes().decode()
        except UnicodeDecodeError:
            return None

    def write(self, place: str, content: str | bytes) -> None:
        """Write a file of the copy. Raises UserError if a folder of the project on the way to it is a link."""
        path = self.folder / place
        for parent in reversed(Path(place).parents[:-1]):
            if (self.folder / parent).is_symlink():
                self._copy_linked(parent)
        if path.is_symlink():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.changed[place] = True

    def remove(self, place: str) -> None:
        """Delete a file of the copy."""
        (self.folder / place).unlink()
        self.changed[place] = False

    def _copy_linked(self, place):
        """Make a folder of the copy, so far a link to the original's, one of its own that holds links."""
        original, copy = self.project / place, self.folder / place
        if original.is_symlink():
            raise UserError(f"{original}: is a link, and files would be written through it; replace it by a folder")
        copy.unlink()
        copy.mkdir()
        for entry in original.iterdir():
            _link(copy / entry.name, entry)

    def python_files(self) -> list[str]:
        """Return the paths of all code of the copy that git knows or the move has written."""
        places = {*self.tracked, *self.changed}
        return sorted(place for place in places if place.endswith(".py") and (self.folder / place).is_file())

    def require_only_tracked_changes(self) -> None:
        """Raise UserError if a file would be overwritten that git does not know, and could not bring back."""
        there = [place for place in self.changed if os.path.lexists(self.project / place)]
        if lost := sorted(set(there) - set(self.tracked)):
            raise UserError(
                f"{self.project / lost[0]}: git ignores it, and it would be overwritten; move it away first"
            )

    def commit(self, message: str) -> str:
        """Make the changes in the project, in one commit, and return its abbreviated name.

        Raises UserError if git refuses; the project is then as it was.
        """
        new = [place for place in self.changed if not os.path.lexists(self.project / place)]
        made = [folder for place in new for folder in Path(place).parents if not (self.project / folder).exists()]
        try:
            for place, stays in self.changed.items():
                if stays:
                    (self.project / place).parent.mkdir(parents=True, exist_ok=True)
                    if (self.project / place).is_symlink():  # else the file that it leads to would be written
                        (self.project / place).unlink()
                    shutil.copyfile(self.folder / place, self.project / place)
                else:
                    (self.project / place).unlink(missing_ok=True)
            self._git("add", "-A", "-f", "--", *(f":(literal){place}" for place in self.changed))
            self._git("commit", "-q", "-m", message)
        except BaseException as error:
            run_git(self.project, "reset", "-q", "--hard")
            for place in new:
                (self.project / place).unlink(missing_ok=True)
            for folder in sorted(set(made), key=lambda folder: -len(folder.parts)):
                with contextlib.suppress(OSError):
                    (self.project / folder).rmdir()
            if not isinstance(error, OSError):
                raise
            raise UserError(f"{self.project}: cannot be written: {error.strerror}; nothing was changed") from None
        return run_git(self.project, "rev-parse", "--short", "HEAD").stdout.strip()

    def _git(self, *arguments):
        done = run_git(self.project, *arguments)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise UserError(shortened(f"git {arguments[0]} failed, nothing was changed: {said}"))


@contextlib.contextmanager
def copied(project: Path) -> Iterator[Tree]:
    """A context with the Tree of a project; the copy is deleted at its end."""
    listed = run_git(project, "ls-files", "-z").stdout.split("\0")
    tracked = [place for place in listed if place and (project / place).is_file()]
    with tempfile.TemporaryDirectory(prefix="adopt-") as folder:
        target = Path(folder).resolve() / project.name
        code = {place for place in tracked if place.endswith(_COPIED) and not (project / place).is_symlink()}
        _mirror(project, target, code, {parent for place in code for parent in Path(place).parents})
        yield Tree(project, target, tracked)


def _mirror(source, target, code, folders, inside=Path()):
    """Copy the files in `code`, and link all others; folders without code are linked as a whole."""
    target.mkdir(parents=True)
    for entry in list(os.scandir(source)):
        place = inside / entry.name
        if entry.name in (".git", "__pycache__"):
            continue
        if place in folders and entry.is_dir(follow_symlinks=False):
            _mirror(source / entry.name, target / entry.name, code, folders, place)
        elif place.as_posix() in code:
            shutil.copyfile(entry.path, target / entry.name)
        else:
            _link(target / entry.name, Path(entry.path))


def _link(path, original):
    """Make a link to a file or folder. Raises UserError where the system does not allow that."""
    try:
        path.symlink_to(original.resolve(), target_is_directory=original.is_dir())
    except OSError as error:
        reason = f"cannot be linked from a working copy ({error.strerror}); on Windows, turn on developer mode"
        raise UserError(f"{original}: {reason}, see docs/systems.md") from None
