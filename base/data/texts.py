"""YOURS: text files as bytes, named in a config as "texts.TextDataLoader"."""

from pathlib import Path

import numpy as np

from base import BaseDataLoader, InMemoryDataset
from base.data.local_files import local_file
from utils import UserError
from utils.errors import shown


class TextDataLoader(BaseDataLoader):
    """Batches of blocks of text for predicting the next byte: (input, target), both (B, block_size) int64.

    path: a text file, in whatever encoding, since tokens are its bytes: 0 to 255. Position i of the target is the byte
    behind position i of the input; every byte of the text but the first is a target once, save for a last incomplete
    block. test_path: the text that training=False serves. fold: "3/5" validates on the third of five parts. Blocks set
    aside lie all over the text; for a text of its own to validate on, give a valid_data_loader. device_resident: keep
    the text on the GPU.
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
    ):
        if block_size < 1:
            raise UserError(f"block_size: got {block_size}; it should be a number of bytes from 1 on")
        if not training and test_path is None:
            raise UserError("test_path: the config names no text to test on")
        argument = "path" if training else "test_path"
        dataset = _Blocks(read_blocks(path if training else test_path, block_size, argument))
        super().__init__(
            dataset, batch_size, shuffle, validation_split, num_workers, device_resident=device_resident, fold=fold
        )


class _Blocks(InMemoryDataset):
    def __getitems__(self, indices, seeder=None):
        (blocks,) = super().__getitems__(indices, seeder)
        blocks = blocks.long()
        return blocks[:, :-1].contiguous(), blocks[:, 1:].contiguous()


def read_blocks(path, block_size, argument="path"):
    """(N, block_size + 1) uint8: the file's bytes; each block begins with the last byte of the one before."""
    path = local_file(path, argument, "the text")
    try:
        text = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"{argument}: {shown(path)}: cannot read the text: {error.strerror}") from None
    if len(text) <= block_size:
        raise UserError(f"block_size: {shown(path)} has {len(text)} bytes, and a block takes {block_size + 1}")
    return np.lib.stride_tricks.sliding_window_view(text, block_size + 1)[::block_size].copy()
