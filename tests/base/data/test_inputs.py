"""Inputs: raw examples of every kind become what training has seen, and are built again."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.examples import Examples, in_batches
from base.data.inputs import ArrayInput, ImageInput, build_input
from base.data.outputs import Output
from base.data.sources import Sources, refuse_overwriting
from helpers import named
from utils import UserError


def examples_of(sources, input, output=None):
    return named(Sources(sources, input, output or Output()))


def digits_input():
    return ImageInput(1, 28, 28, mean=[0.1307], std=[0.3081], background="dark", margin=4)


def drawing(size=(28, 28)):
    """A light stroke on black, off the centre."""
    pixels = np.zeros(size, np.uint8)
    pixels[size[0] // 4 : size[0] // 2, size[1] // 5 : size[1] // 4] = 200
    return pixels


def test_an_image_of_the_right_size_and_background_is_read_as_it_is(tmp_path):
    Image.fromarray(drawing()).save(tmp_path / "a.png")
    raw = digits_input().read(str(tmp_path / "a.png"))
    assert np.array_equal(raw, drawing()[None])


def test_the_arithmetic_is_that_of_single_numbers_bit_for_bit():
    raw = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    mean, std = [0.1, 0.1307, 0.7], [0.3081, 0.2, 0.3]
    result = ImageInput(3, 8, 8, mean, std)(raw)
    for channel in range(3):
        wanted = raw[:, channel].float().sub_(mean[channel] * 255).div_(std[channel] * 255)
        assert torch.equal(result[:, channel], wanted)


@pytest.mark.parametrize("size", [(56, 56), (300, 220), (20, 90)])
@pytest.mark.parametrize("look", ["light on dark", "dark on light", "coloured", "transparent"])
def test_drawings_of_any_size_and_colour_come_to_the_same_place(tmp_path, size, look):
    ink = drawing(size)
    if look == "dark on light":
        image = Image.fromarray(255 - ink)
    elif look == "coloured":
        image = Image.fromarray(np.stack([255 - ink, 255 - ink // 2, 255 - ink], axis=2))
    elif look == "transparent":
        image = Image.fromarray(np.stack([np.zeros_like(ink)] * 3 + [ink], axis=2))
    else:
        image = Image.fromarray(ink)
    image.save(tmp_path / "a.png")
    raw = digits_input().read(str(tmp_path / "a.png")).astype(float)[0]
    assert raw.shape == (28, 28) and raw.max() == 255
    rows, columns = np.flatnonzero(raw.any(axis=1)), np.flatnonzero(raw.any(axis=0))
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) == 19  # 20 pixels, as in MNIST
    centre = [(raw.sum(axis=1 - axis) @ np.arange(28)) / raw.sum() for axis in (0, 1)]
    assert np.abs(np.array(centre) - 13.5).max() <= 0.5


def test_an_empty_drawing_is_empty(tmp_path):
    Image.new("L", (50, 50), 255).save(tmp_path / "a.png")
    assert not digits_input().read(str(tmp_path / "a.png")).any()


def test_a_photograph_is_turned_upright_and_cropped_around_its_centre(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    image = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)  # stored on its side
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert (ImageInput(3, 10, 10, [0] * 3, [1] * 3).read(str(tmp_path / "a.png")) == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        digits_input().read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("given", [digits_input(), ArrayInput(), ArrayInput("int64")])
def test_an_input_is_built_again_from_what_a_checkpoint_holds(given):
    again = build_input(given.spec())
    assert type(again) is type(given) and again.spec() == given.spec()
    raw = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(again(raw), given(raw))


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (3, "the checkpoint's input should be"),
        ({"type": "os.system", "args": {}}, "the checkpoint's input.type: there is no module"),
        ({"type": "MnistDataLoader", "args": {}}, "the checkpoint's input.type: 'MnistDataLoader' is the wrong kind"),
        ({"type": "ArrayInput", "args": {"no": 1}}, "the checkpoint's input.args.no: no such argument"),
        ({"type": "ImageInput", "args": {"channels": 1}}, "the checkpoint's input.args.height: missing"),
    ],
)
def test_an_input_of_a_stranger_is_refused(spec, error):
    with pytest.raises(UserError, match=f"^{error}"):
        build_input(spec)


def test_arrays_of_another_kind_than_the_training_data_are_refused():
    pixels, numbers, indices = (ArrayInput(None, name, [2]) for name in ("uint8", "float32", "int64"))
    rows = torch.tensor([[0, 255]])
    assert torch.equal(pixels(rows.to(torch.uint8)), torch.tensor([[0.0, 1.0]]))
    assert (
        torch.equal(numbers(rows.double()), torch.tensor([[0.0, 255.0]])) and indices(rows.int()).dtype == torch.int64
    )
    for given, raw in ((pixels, rows.float()), (numbers, rows.to(torch.uint8)), (indices, rows.float())):
        with pytest.raises(UserError, match=r"^the raw examples are torch\.\w+, and the model is trained on"):
            given(raw)
    assert pixels.parse([0, 255]).dtype == np.uint8 and indices.parse([1, 2]).dtype == np.int64
    with pytest.raises(UserError, match=r"^an example should be an array \(2,\); got \(3,\)$"):
        numbers.parse([1, 2, 3])
    assert indices.parse([0, 2**53 + 1]).tolist() == [0, 2**53 + 1]  # which float32 does not hold
    for given, raw in ((indices, [0.5, 1]), (indices, [0, 1e30]), (pixels, [0, 256]), (pixels, [-1, 0])):
        with pytest.raises(UserError, match=r"^an example should hold integers from -?\d+ to \d+, as the model's"):
            given.parse(raw)
    with pytest.raises(UserError, match=r"^an example should be an array of numbers"):
        ArrayInput(None, "float16", [1]).parse([1e6])


def test_examples_come_from_files_folders_patterns_arrays_and_standard_input(tmp_path, monkeypatch):
    for name in ("b/1.png", "b/c/2.PNG", "b/.hidden/3.png", "b/notes.txt", "a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing()).save(tmp_path / name, "png")
    np.save(tmp_path / "rows.npy", np.stack([drawing()[None]] * 2))
    np.savez(tmp_path / "one.npz", images=np.stack([drawing()[None]]))
    monkeypatch.setattr("sys.stdin", iter([f"{tmp_path}/a.png\n", "\n"]))
    sources = ["a.png", "b", "*.png", "rows.npy", "one.npz"]
    found = examples_of([*(f"{tmp_path}/{source}" for source in sources), "-"], digits_input())
    names = [name.removeprefix(f"{tmp_path}/") for name, _ in found]
    files = ["a.png", "b/1.png", "b/c/2.PNG", "a.png"]
    assert names == [*files, "rows.npy:0", "rows.npy:1", "one.npz:0", "a.png"]
    assert all(np.array_equal(raw, drawing()[None]) for _, raw in found)


def test_a_file_that_cannot_be_read_is_an_example_with_its_error(tmp_path):
    ((name, error),) = examples_of([f"{tmp_path}/none.png"], digits_input())
    assert name == f"{tmp_path}/none.png" and isinstance(error, UserError)


@pytest.mark.parametrize("source", ["", "*.png"])
def test_sources_without_any_example_are_refused(tmp_path, source):
    with pytest.raises(UserError, match=r"holds no files|no file matches"):
        (examples_of([f"{tmp_path}/{source}"], digits_input()))


def test_array_files_that_cannot_be_read_are_examples_with_their_errors(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.save(tmp_path / "one.npy", np.float32(3))
    np.save(tmp_path / "texts.npy", np.array(["a"]))
    np.save(tmp_path / "other.npy", np.zeros((2, 8), np.uint8))
    np.save(tmp_path / "big.npy", np.zeros((1, 1, 28, 28), ">i2"))
    names = ["none.npy", "bad.npz", "one.npy", "texts.npy", "other.npy", "big.npy"]
    found = examples_of([f"{tmp_path}/{name}" for name in names], digits_input())
    assert [isinstance(raw, UserError) for _, raw in found] == [True] * 5 + [False]
    assert "no whole .npz" not in str(found[1][1]) and "not a whole .npz file" in str(found[1][1])
    assert (
        "other.npy: the raw examples are uint8 (2, 8); they should be pixels" in str(found[4][1])
        and found[5][1].dtype.isnative
    )


def test_numbers_that_are_no_pixels_are_refused_and_the_other_files_read(tmp_path):
    for name, numbers, dtype in (("much", [300], "u2"), ("below", [-1], "i8"), ("all", [0, 255], "u2")):
        np.save(tmp_path / f"{name}.npy", np.resize(np.array(numbers, dtype), (2, 1, 28, 28)))
    rows = np.zeros((2, 1, 28, 28), np.int64)
    rows[1, 0, 0, 0] = 256
    np.save(tmp_path / "late.npy", rows)
    found = [
        raw for _, raw in examples_of([f"{tmp_path}/{n}.npy" for n in ("much", "below", "late", "all")], digits_input())
    ]
    assert [str(error) for error in found[:3]] == [
        f"{tmp_path}/{name}.npy: the raw examples hold numbers from {given}; pixels are from 0 to 255"
        for name, given in (("much", "300 to 300"), ("below", "-1 to -1"), ("late", "0 to 256"))
    ]
    assert [raw.shape for raw in found[3:]] == [(1, 28, 28)] * 2


def test_an_array_of_another_kind_is_an_example_with_its_error(tmp_path):
    np.save(tmp_path / "pixels.npy", np.zeros((2, 3), np.uint8))
    np.save(tmp_path / "numbers.npy", np.zeros((2, 3), np.float32))
    input = ArrayInput(None, "float32", [3])
    (name, error), *others = examples_of([f"{tmp_path}/pixels.npy", f"{tmp_path}/numbers.npy"], input)
    assert (
        str(error).startswith(f"{name}: the raw examples are torch.uint8, and the model is trained on")
        and len(others) == 2
    )


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_one_example_without_its_dimension_of_examples_is_an_error(tmp_path, dtype):
    np.save(tmp_path / "one.npy", np.zeros(3, np.float32))
    ((name, error),) = examples_of([f"{tmp_path}/one.npy"], ArrayInput(dtype, "float32", [3]))
    wanted = "the raw examples are (3,); they should be (N, 3)"
    assert str(error) == f"{name}: {wanted}"
    (found,) = examples_of([f"{tmp_path}/one.npy"], ArrayInput(dtype, "float32", []))[:1]
    assert found[1].shape == () and len(examples_of([f"{tmp_path}/one.npy"], ArrayInput(dtype, "float32"))) == 3


def test_of_an_archive_of_several_arrays_one_is_to_be_named(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    ((_, error),) = examples_of([f"{tmp_path}/two.npz"], ArrayInput())
    assert str(error) == f"{tmp_path}/two.npz: holds 2 arrays, a, b; name one, as in {tmp_path}/two.npz:name"


def test_a_pattern_may_begin_with_a_folder_that_reads_like_one(tmp_path):
    (tmp_path / "set[1]").mkdir()
    Image.fromarray(drawing()).save(tmp_path / "set[1]" / "a.png")
    (found,) = examples_of([f"{tmp_path}/set[1]/*.png"], digits_input())
    assert found[0] == f"{tmp_path}/set[1]/a.png"


def test_folders_are_looked_at_before_the_first_example(tmp_path):
    Image.fromarray(drawing()).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: the folder holds no files"):
        (examples_of([f"{tmp_path}/a.png", f"{tmp_path}/empty"], digits_input()))
    with pytest.raises(
        UserError, match=r"no files that end in \.npy, \.npz, and the checkpoint holds no input that reads"
    ):
        examples_of([str(tmp_path)], None)


def test_standard_input_may_hold_any_name_but_not_none(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9.png\n/none/*.png\n")))
    assert [name for name, _ in examples_of(["-"], digits_input())] == ["caf\udce9.png", "/none/*.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match=r"^-: standard input lists no files"):
        (examples_of(["-"], digits_input()))


def test_folders_named_by_classes_give_targets(tmp_path):
    for name in ("cat/1.png", "cat/old/2.png", "dog/3.png", "unsure/4.png", "5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing()).save(tmp_path / name)
    (tmp_path / "dog" / "0.png").write_bytes(b"no image")

    def targets(source, classes):
        parts = Sources([str(source)], digits_input(), Output(classes))
        joined = Examples.joined(list(parts))
        good = [Path(name).name for place, name in enumerate(joined.names) if place not in joined.errors]
        return joined.target if joined.target is None else dict(zip(good, joined.target.tolist(), strict=True))

    wanted = {"5.png": -1, "1.png": 1, "2.png": 1, "3.png": 0, "4.png": -1}
    assert targets(tmp_path, ["dog", "cat"]) == wanted
    assert targets(tmp_path, ["cow"]) is targets(tmp_path, None) is targets(tmp_path / "cat", ["cat"]) is None


def test_files_read_ahead_stay_in_order_with_their_errors(tmp_path):
    class Slow(ArrayInput):
        suffixes = (".x",)

        def read(self, file):
            number = int(Path(file).stem)
            time.sleep(0.002 * (number % 3 == 0))
            if number % 7 == 0:
                raise UserError(f"{number} is broken")
            return np.array([number])

    for number in range(100):
        (tmp_path / f"{number:03d}.x").touch()
    sources = Sources([str(tmp_path)], Slow(), Output())
    found = [(int(Path(name).stem), raw) for name, raw in named(sources)]
    assert [number for number, _ in found] == list(range(100)) and sources.total == 100
    assert all((str(raw) == f"{n} is broken") if n % 7 == 0 else raw.tolist() == [n] for n, raw in found)


def test_batches_keep_order_errors_and_targets():
    error = UserError("no")
    parts = [
        Examples(["a", "b"], np.array([1, 2])),
        Examples(["c"], errors={0: error}),
        Examples(["d", "e", "f"], np.array([5, 6]), {0: error}),
        Examples([str(n) for n in range(7)], np.arange(7) + 10, {}, np.arange(7)),
    ]
    batches = list(in_batches(parts, 4))
    assert [len(batch) for batch in batches] == [4, 2, 4, 3]
    assert [(name, raw) for batch in batches for name, raw in named([batch])] == named(parts)
    assert batches[0].errors == {2: error, 3: error} and batches[1].raw.tolist() == [5, 6]
    assert [None if b.target is None else b.target.tolist() for b in batches] == [None, None, [0, 1, 2, 3], [4, 5, 6]]


def test_a_model_without_an_input_takes_arrays_and_says_what_to_add_for_files(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.eye(3))
    monkeypatch.setattr("sys.stdin", io.StringIO("b.png\n"))
    found = examples_of([f"{tmp_path}/a.npy", "-"], None)
    assert np.array_equal([raw for _, raw in found[:3]], np.eye(3))
    assert "b.png: the checkpoint holds no input that would read it; give arrays of what the" in str(found[3][1])
    with pytest.raises(UserError, match=r"b\.png: the checkpoint holds no input"):
        Sources([f"{tmp_path}/a.npy", "b.png"], None, Output())


def test_an_image_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: has more than \d+,\d+,\d+ pixels, which would fill the memory$"):
        digits_input().read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["animated", "CMYK", "16 bits", "1 bit", "palette"])
def test_a_drawing_of_any_kind_of_file_is_read_alike(tmp_path, kind):
    image = Image.fromarray(255 - drawing((56, 56)))
    wanted = digits_input().read(_saved(image, tmp_path / "a.png"))
    if kind == "animated":
        file = _saved(image, tmp_path / "b.gif", save_all=True, append_images=[Image.new("L", image.size, 255)])
    elif kind == "16 bits":
        file = _saved(Image.fromarray(np.asarray(image).astype(np.uint16) * 257), tmp_path / "b.png")
    elif kind == "CMYK":
        file = _saved(image.convert("RGB").convert("CMYK"), tmp_path / "b.tif")
    else:
        file = _saved(image.convert({"1 bit": "1", "palette": "P"}[kind], dither=Image.Dither.NONE), tmp_path / "b.png")
    assert np.abs(digits_input().read(file).astype(int) - wanted).max() <= (0 if kind != "1 bit" else 255 - 200)


def _saved(image, path, **how):
    image.save(path, **how)
    return str(path)


def test_a_source_is_not_overwritten(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/x.csv", "y.csv"):
        (tmp_path / name).write_text("size\n1\n")
    refuse_overwriting([f"{tmp_path}/y.csv", f"{tmp_path}/*/*.png", "-", "none"], [None, f"{tmp_path}/new.csv"])
    refuse_overwriting([f"{tmp_path}/a"], [f"{tmp_path}/y.csv"])
    for source, path in (("y.csv", "a/../y.csv"), ("*.csv", "y.csv"), ("a", "a/b/x.csv")):
        with pytest.raises(UserError, match="is to be read and written; give another name"):
            refuse_overwriting([f"{tmp_path}/{source}"], [f"{tmp_path}/{path}"])


@pytest.mark.parametrize("value", [["1"], None, [None], {}, [{}], [[1], [1, 2]], 10**400, [1e308], [1j]])
def test_what_is_no_array_of_numbers_is_refused_as_an_example(value):
    with pytest.raises(UserError, match=r"^an example should be an array of numbers, all rows of equal length$"):
        ArrayInput().parse(value)


def test_an_array_of_json_is_an_example_of_float32():
    assert ArrayInput().parse([[1, 2.5], [True, 0]]).tolist() == [[1, 2.5], [1, 0]]
    assert ArrayInput().parse(3).dtype == np.float32
    assert not ArrayInput().reads_files and digits_input().reads_files
