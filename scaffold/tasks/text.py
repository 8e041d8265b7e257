"""--task text: continue a text, byte by byte."""

import os
from pathlib import Path

import numpy as np

from base.data.local_files import local_file
from base.data.texts import read_blocks
from scaffold.tasks.looking import MIN_SAMPLES, choose_split, duration, duration_text, require_kind
from scaffold.tasks.plan import Plan, config_for, loaders_file
from scaffold.template import TEMPLATE
from utils.errors import UserError, shown

_BLOCK_SIZE = 64
_BATCH_SIZE = 16
_STEPS = 1_600  # about three minutes on two CPU cores
_MODEL = TEMPLATE / "examples" / "char_lm" / "model.py"


def plan(command: str, data: str, test: str | None = None) -> Plan:
    """Return the plan for a text file. test: another text to test on."""
    require_kind(data, "text")
    blocks = _blocks(data, "--data")
    if test is not None:
        _blocks(test, "--test")
    tested = None if test is None else {"test_path": test}
    split = choose_split(len(blocks), data, tested=tested)
    length = duration(len(split.train), _BATCH_SIZE, _STEPS, most_epochs=40)
    args = {"path": data, "block_size": _BLOCK_SIZE, "batch_size": _BATCH_SIZE, **split.args}
    config = config_for(
        "Continues a text",
        arch={"type": "CharTransformer", "args": {"width": 96, "n_heads": 4, "n_layers": 2, "dropout": 0.2}},
        loaders={"data_loader": {"type": "TextDataLoader", "args": args}},
        optimizer={"type": "AdamW", "args": {"lr": 0.003, "weight_decay": 0.1}, "decay_biases_and_norms": False},
        loss="torch.nn.CrossEntropyLoss",
        metrics=[{"type": "model.bits_per_character", "name": "bits"}],
        length=length,
        monitor="min val_loss",
        histograms=10,
    )
    text = Path(data).read_bytes()
    choices = {
        "samples": f"blocks of {_BLOCK_SIZE} bytes; so any language will do",
        "split": split.text.replace("samples", "blocks"),
        "model": "a causal transformer of two layers, the smallest that learns words and their order in minutes",
        "metrics": "bits of information in the next byte, given those before it: 8 for noise, about 2 for a good model",
        "training": duration_text(length, "at most about three minutes on two CPU cores; the learning rate falls to 0"),
    }
    found = [
        f"{len(text):,} bytes of text, {len(set(text))} different ones, in {len(text.splitlines()):,} lines",
        f"{len(blocks):,} blocks of {_BLOCK_SIZE} bytes",
    ]
    rooms = {
        "model/model.py": _MODEL.read_text(encoding="utf-8").replace('"""A small', '"""YOURS: a small', 1),
        "data_loader/data_loaders.py": loaders_file("TextDataLoader", "base/data/texts.py"),
    }
    return Plan(command, found, choices, config, rooms, '--prompt "The "')


def _blocks(path: str, flag: str) -> np.ndarray:
    """The blocks of a text. Raises UserError for a file that is none."""
    size, least = os.path.getsize(local_file(path, flag, "the text")), MIN_SAMPLES * _BLOCK_SIZE + 1
    if size < least:
        raise UserError(f"{flag}: {shown(path)}: has {size:,} bytes; a text to learn from has {least:,} or more")
    blocks = read_blocks(path, _BLOCK_SIZE, flag)
    if (blocks == 0).any():
        raise UserError(f"{flag}: {shown(path)}: is no text: it holds zero bytes")
    return blocks
