"""How a CSV file writes its numbers and rows, and what to say of texts that are numbers written in another way."""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

from utils.errors import UserError, brief, shortened


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """How a CSV file is written: the arguments of TableDataLoader of the same names.

    Raises UserError for a value that will not do.
    """

    separator: str = ","
    decimal: str = "."
    thousands: str | None = None
    missing: Sequence[str] = ()
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        texts = [self.separator, self.decimal, self.encoding, self.thousands or "", *self.missing]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("separator, decimal, thousands, missing and encoding should be texts")
        if len(self.separator) != 1 or self.separator in '"\r\n':
            raise UserError(f'separator: got {brief(self.separator)}; it should be one character, such as ";" or "\\t"')
        if self.decimal not in (".", ","):
            raise UserError(f'decimal: got {brief(self.decimal)}; it should be "." or ","')
        if self.thousands is not None and (len(self.thousands) != 1 or self.thousands in self.decimal + "+-0123456789"):
            raise UserError(f'thousands: got {brief(self.thousands)}; it should be another character than "decimal"')
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UserError(
                f'encoding: {brief(self.encoding)} is unknown; it is "utf-8", "latin-1", "cp1252" or the like'
            ) from None

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """Return the format of arguments(). Raises UserError for anything else."""
        try:
            form = cls(**arguments)
        except TypeError as error:
            raise UserError(f"form: {shortened(error)}") from None
        return dataclasses.replace(form, missing=tuple(form.missing))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as plain values."""
        return {**dataclasses.asdict(self), "missing": list(self.missing)}

    def as_trained(self) -> str:
        """Return what would do about a file in use that is written in another way than the training table."""
        written = f"{as_json(self.separator)} between values, {as_json(self.decimal)} before decimals, {self.encoding}"
        groups = f", {as_json(self.thousands)} between thousands" if self.thousands else ""
        return f"; write it as the training table was: {written}{groups}"

    def number(self, text: str) -> float:
        """Return the number that the text writes; nan if it writes none."""
        if not _pattern(self.decimal, self.thousands).fullmatch(text):
            return float("nan")
        return float(text.replace(self.thousands or "", "").replace(self.decimal, "."))


@functools.cache
def _pattern(decimal, thousands):
    whole = r"\d+" if thousands is None else rf"(?:\d+|\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+)"
    point = re.escape(decimal)
    number = rf"[-+]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?"
    return re.compile(number, re.ASCII | re.IGNORECASE)


def how_to_read(texts: Iterable[str], form: TableFormat) -> str:
    """Return what would make numbers of texts that are none, after a "; "; "" if nothing is known."""
    remedies = [remedy for text in itertools.islice(dict.fromkeys(texts), _SAMPLE) if (remedy := _remedy(text, form))]
    return next((remedy for remedy in remedies if remedy != _EITHER), remedies[0] if remedies else "")


_SAMPLE = 1000  # different texts to look at
_EITHER = '; give "thousands": ",", or "decimal": "," if the comma is a decimal one'


def _remedy(text, form):
    if form.decimal == "," and re.fullmatch(r"[-+]?\d*\.\d+", text):
        groups = '; give "thousands": "." if it groups digits' if re.fullmatch(r"[-+]?\d{1,3}\.\d{3}", text) else ""
        return f'; it has a decimal point, but "decimal" is ","{groups}'
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+\.\d*|[-+]?[1-9]\d{0,2}(,\d{3}){2,}", text):
        return '; give "thousands": ","'
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(\.\d{3})+,\d*|[-+]?[1-9]\d{0,2}(\.\d{3}){2,}", text):
        return '; give "decimal": "," and "thousands": "."'
    if re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", text):
        return _EITHER
    if re.fullmatch(r"[-+]?\d*,\d+(e[-+]?\d+)?", text, re.IGNORECASE):
        return '; give "decimal": ","'
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}([ '\u00a0\u202f\u2019_])\d{3}(\1\d{3})*([.,]\d*)?", text):
        sign = next(letter for letter in text.lstrip("+-") if not letter.isdigit())
        return f'; give "thousands": {as_json(sign)}' + (' and "decimal": ","' if "," in text else "")
    if re.fullmatch(r"[^\w\s]*[\d.,]+ ?[$€£¥₹%]|[-+(]*[$€£¥₹] ?-?[\d.,]+\)?", text):
        return "; take the signs of currency and percent out of the file"
    if re.fullmatch(r"\u2212[\d.,]+|\([\d.,]+\)", text):
        return '; write negative numbers with "-"'
    return ""


def as_json(value: Any) -> str:
    """Return the value as a config writes it, with escapes for what could not be seen."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
