"""Reads the raw example of a file with an Input, and says in one line why that is not possible."""

from typing import Any, BinaryIO

import numpy as np

from utils.errors import UserError, shortened, shown


def read_example(input: Any, file: str | BinaryIO) -> np.ndarray:
    """Return what the read of an Input returns.

    Raises UserError, naming the file, whatever read raises, and for an example of another shape than in training.
    """
    place = shown(file if isinstance(file, str) else getattr(file, "name", "the file"))
    try:
        example = np.asarray(input.read(file))
    except UserError:
        raise
    except Exception as error:  # libraries raise what they like for a file that is damaged
        reason = f"{type(error).__name__}: {shortened(error)}"
        raise UserError(f"{place}: {type(input).__name__} cannot read it: {reason}") from error
    if input.is_checked_by_shape:
        try:
            input.require(example[None])
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    return example
