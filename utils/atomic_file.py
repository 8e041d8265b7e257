"""Files of weights that take the place of older ones whole or not at all, whatever happens meanwhile."""

import contextlib
import os

from utils.errors import CheckpointError


@contextlib.contextmanager
def replacing(path):
    """A temporary file to write, which then, flushed to the disk, takes the place of the one at path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        reason = error.strerror if path.parent.is_dir() else "its folder is no longer there"
        raise CheckpointError(f"{path}: cannot save the checkpoint: {reason}; earlier ones are untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def flush_folder(folder):
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
