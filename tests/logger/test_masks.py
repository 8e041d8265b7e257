"""Class maps as PNG files."""

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.inputs import Examples
from base.data.outputs import Output
from base.trained_model import Predictions
from logger.masks import MaskWriter
from utils.errors import UserError

CLASSES = Output(["sky", "sea", "land"], kind="classes")
MAPS = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [1, 0]]])


def part(names, maps=MAPS, output=CLASSES, errors=()):
    outputs = torch.nn.functional.one_hot(maps, 3).movedim(-1, 1).float()
    errors = {place: UserError("no") for place in errors}
    return Predictions(Examples(names, errors=errors), outputs, None, None, output)


def test_pixels_are_class_numbers_and_files_are_called_as_their_examples(tmp_path):
    masks = MaskWriter(str(tmp_path / "new" / "masks"))
    masks.add(part(["x/a.jpg", "broken.jpg", "y/a.png"], errors=[1]))
    masks.add(part(["test:0", "rows.npy:1"]))
    written = {path.name: np.asarray(Image.open(path)).tolist() for path in (tmp_path / "new" / "masks").iterdir()}
    first, second = MAPS.tolist()
    assert written == {"a.png": first, "a-2.png": second, "test-0.png": first, "rows.npy-1.png": second}


def test_outputs_that_are_no_class_maps_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--masks: the outputs are \(2, 3, 2, 2\); masks need \(N, classes, H, W\)"):
        MaskWriter(str(tmp_path / "m")).add(part(["a", "b"], output=Output(["sky", "sea"])))
    assert not (tmp_path / "m").exists()


def test_a_folder_that_holds_files_or_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="holds files; give another folder"):
        MaskWriter(str(tmp_path))
    with pytest.raises(UserError, match=r"a\.png: is no folder to write into"):
        MaskWriter(str(tmp_path / "a.png"))
    MaskWriter(None).add(part(["a", "b"]))
