"""Segmentation masks as PNG files."""

import os
import re
import signal
import unicodedata

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


def written(folder, *parts):
    """{path below the folder: the pixels of the mask}, written as predict.py does."""
    with MaskWriter(str(folder)) as masks:
        for one in masks.fitting(parts):
            masks.add(one)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)).tolist() for path in files}


def named(folder, *names):
    """The paths of the masks of examples with these names, in their order."""
    parts = [part([name], MAPS[:1] * 0 + place % 3) for place, name in enumerate(names)]
    found = written(folder, *parts)
    assert len(found) == len(names)
    return set(found)


def test_pixels_are_class_numbers_and_files_are_called_as_their_examples(tmp_path):
    found = written(
        tmp_path / "new" / "masks",
        part(["x/a.jpg", "broken.jpg", "y/a.png"], errors=[1]),
        part(["test:0", "rows.npy:1"]),
    )
    first, second = MAPS.tolist()
    assert found == {"x/a.png": first, "y/a.png": second, "test-0.png": first, "rows.npy-1.png": second}


def test_one_output_of_two_named_classes_and_classes_without_names_give_masks(tmp_path):
    logits, wanted = torch.tensor([[[[-1.0, 0.5], [2.0, -3.0]]]]), [[0, 1], [1, 0]]
    for name, output, outputs in (
        ("one", Output(["road", "rest"], kind="logits"), logits),
        ("many", Output(kind="classes"), torch.cat([-logits, logits], dim=1)),
    ):
        found = written(tmp_path / name, Predictions(Examples(["a.jpg"]), outputs, None, None, output))
        assert found == {"a.png": wanted}


def test_paths_begin_below_the_common_folder_and_keep_all_that_every_system_takes(tmp_path):
    names = "/data/x/a (1).jpg", "/data/x/sub/A.jpg", "/data/x/sub/a.jpg", "/data/x/sub/a.png", "/data/x/b?.jpg"
    assert named(tmp_path / "m", *names) == {"a (1).png", "sub/A.png", "sub/a-2.png", "sub/a-3.png", "b-.png"}
    decomposed = unicodedata.normalize("NFD", "Café.jpg")
    assert named(tmp_path / "n", "/data/" + decomposed, "/data/Café.jpg") == {"Café.png", "Café-2.png"}
    assert named(tmp_path / "o", "a.jpg", "../b.jpg", "./a-2.jpg", "a.png") >= {"b.png"}


def test_the_same_name_ten_thousand_times_takes_no_time_that_grows_with_its_square():
    masks = MaskWriter(None)
    assert [masks._path_for("a.png") for _ in range(10_000)][-1].endswith("/a-10000.png")
    assert masks._path_for("a-10000.png").endswith("/a-10000-2.png")


def test_nothing_is_left_of_a_run_that_fails(tmp_path):
    def broken():
        yield part(["a", "b"])
        raise UserError("no more")

    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(UserError, match="no more"), MaskWriter(str(folder)) as masks:
            for one in masks.fitting(broken()):
                masks.add(one)
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and not list((tmp_path / "old").iterdir())


@pytest.mark.parametrize(
    ("shape", "output", "message"),
    [
        ((2, 3, 2, 2), Output(["sky", "sea"]), "the data loader's classes are 2; name as many as there are outputs"),
        ((2, 3, 2, 2), Output(["a", "b", "c"]), "nothing says that they are classes; give a loss of your own expects"),
        ((2, 1, 2, 2), Output(), 'one output needs two named classes, and a loss of your own expects = "logits"'),
        ((2, 3), CLASSES, r"masks are made of outputs \(N, classes, H, W\)"),
        ((1, 257, 1, 1), Output(kind="classes"), "a PNG holds 256 class numbers at most; --save-outputs takes all"),
    ],
)
def test_outputs_that_give_no_masks_are_refused_before_a_row_is_shown(tmp_path, shape, output, message):
    found = Predictions(Examples(["a", "b"][: shape[0]]), torch.zeros(shape), None, None, output)
    with pytest.raises(UserError, match=rf"^--masks: the outputs are {re.escape(str(shape))}; {message}"):
        list(MaskWriter(str(tmp_path / "m")).fitting([found]))
    assert not (tmp_path / "m").exists() and list(MaskWriter(None).fitting([found])) == [found]


def test_outputs_that_are_nan_are_named(tmp_path):
    found = part(["a.png", "broken", "b.png"], errors=[1])
    found.outputs[1, :, 0, 1] = torch.nan
    with pytest.raises(UserError, match=r"^--masks: b\.png: the model's outputs are nan or infinite"):
        written(tmp_path / "m", found)
    assert not (tmp_path / "m").exists()


def test_a_folder_that_holds_files_or_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="holds files; give another folder"):
        MaskWriter(str(tmp_path))
    with pytest.raises(UserError, match=r"a\.png: is not a folder that can be used"):
        MaskWriter(str(tmp_path / "a.png"))
    with pytest.raises(UserError, match=r"a\.png/m: cannot be written|a\.png/m: is not a folder"):
        written(tmp_path / "a.png" / "m", part(["a", "b"]))


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with MaskWriter(None) as masks:
        masks.add(part(["a", "b"]))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_writes_is_kept(tmp_path):
    folder, told = tmp_path / "m", os.pipe()
    killed = os.fork()
    if not killed:
        try:
            masks = MaskWriter(str(folder))
            masks.add(part(["a.jpg", "b.jpg"]))
            os.write(told[1], b".")
            signal.pause()
        finally:
            os._exit(1)
    os.read(told[0], 1)
    with pytest.raises(UserError, match="holds files; give another folder"):
        MaskWriter(str(folder))
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    assert len(list(folder.iterdir())) == 1
    assert written(folder, part(["x.jpg", "y.jpg"])).keys() == {"x.png", "y.png"} == {p.name for p in folder.iterdir()}
    with pytest.raises(UserError, match="holds files"):
        MaskWriter(str(folder))
