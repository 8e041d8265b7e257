"""TextDataLoader: batches of blocks of a text file, as bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import Input
from base.data.local_files import local_file
from base.data.splits import samples_to_serve
from utils.errors import UserError, shown

if TYPE_CHECKING:
    from base.data.seeded import SampleSeeder

# The first bytes of files that hold texts, but not as text.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"%PDF-": "PDF"}


class TextInput(Input):
    """Blocks of text: raw (B, block_size) bytes; the model's input is the same as int64."""

    example = "The "

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size=block_size)

    def read(self, file: str | BinaryIO) -> np.ndarray:
        """Raise UserError: a text is continued, not read as an example."""
        place = file if isinstance(file, str) else getattr(file, "name", "the file")
        raise UserError(f"{shown(place)}: a model of texts continues a prompt: give --prompt and the text")

    @property
    def reads_files(self) -> bool:
        """Whether read takes an open file: texts are sent as such."""
        return False

    def parse(self, value: Any) -> np.ndarray:
        """Return the bytes (T,) of a text to continue, in UTF-8. Raises UserError for anything else."""
        if not isinstance(value, str) or not value:
            raise UserError("an example should be a text of at least one letter")
        try:
            return np.frombuffer(value.encode(), np.uint8)
        except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can hold
            raise UserError("an example should be a text that UTF-8 can encode") from None

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what parse takes."""
        return {"type": "string", "minLength": 1}

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, block_size) int64."""
        return raw.long()


class TextDataLoader(BaseDataLoader):
    """Batches of blocks of text for predicting the next byte: (input, target), both (B, block_size) int64.

    Position i of the target is the byte after position i of the input. Every byte of the text but the first is a
    target once, except those of an incomplete last block.

    path: a text file in any encoding; tokens are its bytes, 0 to 255.
    block_size: bytes in an input.
    validation_split, fold: the blocks set aside lie all over the text. To validate on another text, give the config a
        valid_data_loader.
    test_path: the text to serve if training is False.
    test_split: share of the blocks, or their number, to set aside as test data, if test_path names none.

    The other arguments are those of BaseDataLoader. Raises UserError for a text shorter than a block, and for a
    packed one.
    """

    def __init__(
        self,
        path: str,
        block_size: int,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        test_path: str | None = None,
        fold: str | None = None,
        device_resident: bool = False,
        drop_last: bool = False,
        test_split: float = 0.0,
    ) -> None:
        if block_size < 1:
            raise UserError(f"block_size: got {block_size}; it should be a number of bytes from 1 on")
        self.input = TextInput(block_size)
        if training or test_split:
            blocks = read_blocks(path, block_size)
        elif test_path is None:
            raise UserError("test_path: the config names no text to test on")
        else:
            blocks = read_blocks(test_path, block_size, "test_path")
        parts = (_Blocks(blocks), batch_size, shuffle, validation_split, num_workers)
        samples = samples_to_serve(len(blocks), test_split, training, ("test_path", test_path))
        super().__init__(*parts, device_resident=device_resident, fold=fold, drop_last=drop_last, samples=samples)


class _Blocks(InMemoryDataset):
    def __getitems__(self, indices: Sequence[int], seeder: "SampleSeeder | None" = None) -> tuple[torch.Tensor, ...]:
        (blocks,) = super().__getitems__(indices, seeder)
        blocks = blocks.long()
        return blocks[:, :-1].contiguous(), blocks[:, 1:].contiguous()


def read_blocks(path: str, block_size: int, argument: str = "path") -> np.ndarray:
    """Return the file's bytes as (N, block_size + 1) uint8; each block begins with the last byte of the one before."""
    path = local_file(path, argument, "the text")
    try:
        text = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"{argument}: {shown(path)}: cannot read the text: {error.strerror}") from None
    for start, kind in _PACKED.items():
        if text[: len(start)].tobytes() == start:
            raise UserError(f"{argument}: {shown(path)}: is a {kind} file; give the text that it holds")
    if len(text) <= block_size:
        raise UserError(f"block_size: {shown(path)} has {len(text)} bytes, and a block takes {block_size + 1}")
    return np.lib.stride_tricks.sliding_window_view(text, block_size + 1)[::block_size].copy()
