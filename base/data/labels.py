"""Class numbers of labels in any form: text, numbers, or one-hot rows."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UserError, brief, shortened, shown

_MAX_LISTED = 50  # classes in a suggestion


def class_numbers(labels: np.ndarray | Sequence[Any], classes: Sequence[Any], where: str = "target") -> np.ndarray:
    """Return each label's position in classes, int64: (N,) for one label a sample, else the shape of labels.

    labels: (N,), (N, 1) or (N, ...), each one of classes; integers from 0 to C-1 if classes are text, which then names
        them; or one-hot rows (N, C).
    classes: the C values of a label, all text or all numbers, in the order of their class numbers.
    where: begins the error's text.

    Raises UserError for classes that are no such list, and for a label that is none of them.
    """
    values, is_text = _class_values(classes)
    labels = _as_text_or_numbers(np.asarray(labels), where)
    if labels.ndim == 0:
        raise UserError(f"{where} is a single value; there should be one for each sample")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    has_text = labels.dtype.kind == "U"
    if not has_text and labels.ndim == 2 and labels.shape[1] == len(values) and _is_one_hot(labels):
        return labels.argmax(axis=1).astype(np.int64)
    if has_text and not is_text:
        raise UserError(f"{where} holds text; {suggestion(labels)}")
    if is_text and not has_text:  # the classes are names of the numbers
        values, is_text = np.arange(len(values)), False
    order = np.argsort(values, kind="stable")
    places = np.searchsorted(values, labels, sorter=order).clip(max=len(values) - 1)
    numbers = order[places].astype(np.int64)
    if (wrong := values[numbers] != labels).any():
        place = np.unravel_index(wrong.argmax(), wrong.shape)
        row = f"row {place[0]} of its {len(labels)} is" if labels.ndim == 1 else f"row {place[0]} holds"
        listed = _listed(classes if has_text or not isinstance(classes[0], str) else values)
        raise UserError(f"{where}: {row} {brief(labels[place].item())}, which is not in classes: {listed}")
    return numbers


def suggestion(labels: np.ndarray) -> str:
    """Return what a config should say about such labels: 'give "classes": ["cat", "dog"], ...'."""
    values = np.unique(labels)
    if len(values) > _MAX_LISTED:
        return f'give "classes", a list of its {len(values)} values in the order of their class numbers'
    return f'give "classes": {_listed(values)}, its values in the order of their class numbers'


def text_of(labels: np.ndarray, where: str = "target") -> np.ndarray:
    """Return labels of bytes, as a file may hold them, as text; other labels unchanged."""
    if labels.dtype.kind != "S":
        return labels
    try:
        return np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} holds bytes that are not text in UTF-8: {shortened(error)}") from None


def _class_values(classes):
    """(array of the values of classes, whether they are text)."""
    kinds = {str if isinstance(value, str) else type(value) for value in classes}
    is_list = isinstance(classes, (list, tuple)) and len(classes) > 1
    if not is_list or not (kinds == {str} or kinds <= {int, float} or kinds == {bool}):
        wanted = 'a list of two or more texts or numbers, such as ["cat", "dog"] or [1, 2, 3]'
        raise UserError(f"classes: got {brief(classes)}; it should be {wanted}")
    values = np.asarray(classes, np.int64) if kinds == {bool} else np.asarray(classes)
    if len(np.unique(values)) < len(values):
        twice = next(value for i, value in enumerate(classes) if value in classes[:i])
        raise UserError(f"classes: {brief(twice)} is there twice")
    return values, kinds == {str}


def _as_text_or_numbers(labels, where):
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        return labels.astype(str)
    labels = text_of(labels, where)
    if labels.dtype.kind not in "biufU":
        raise UserError(f"{where} holds {labels.dtype.str}; labels are text or numbers")
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def _is_one_hot(rows):
    return bool(((rows == 1).sum(axis=1) == 1).all() and (np.count_nonzero(rows, axis=1) == 1).all())


def _listed(values):
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    more = ", ..." if len(values) > _MAX_LISTED else ""
    return shown(f"[{json.dumps(values[:_MAX_LISTED], ensure_ascii=False)[1:-1]}{more}]")
