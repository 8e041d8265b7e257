"""Images keep their content, whatever their format, mode and orientation."""

import io

import numpy as np
import pytest
from PIL import Image, features

from base.data.image_files import read_image, readable, require_bright
from utils import UserError

RAMP = np.repeat(np.array([[0, 64, 128, 255]], np.uint8), 4, 0)  # grey, (4, 4), brighter to the right


def read(path, **how):
    """The first row of the image's channels, (3, 4)."""
    return read_image(str(path), (4, 4), **how)[:, 0].tolist()


def test_image_of_8_bits_is_read_as_before(tmp_path):
    colours = np.random.RandomState(0).randint(0, 256, (4, 4, 3), np.uint8)
    for mode in ("RGB", "RGBA"):
        Image.fromarray(colours).convert(mode).save(tmp_path / "x.png")
        assert np.array_equal(read_image(str(tmp_path / "x.png"), (4, 4)), colours.transpose(2, 0, 1))
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png") == [[0, 64, 128, 255]] * 3


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    assert read(path) == [[0, 64, 128, 255]] * 3


def test_16_bits_in_the_other_byte_order_are_scaled(tmp_path):
    path, pixels = tmp_path / "x.tif", (RAMP.astype(">u2") * 257).astype(">u2")
    Image.frombytes("I;16B", (4, 4), pixels.tobytes()).save(path)
    assert read(path) == [[0, 64, 128, 255]] * 3


def test_white_scales_images_of_any_depth(tmp_path):
    for name, values in (("12.png", np.uint16), ("int.tif", np.int32), ("float.tif", np.float32)):
        Image.fromarray((RAMP.astype(np.float64) * 4000 / 255).astype(values)).save(tmp_path / name)
        assert read(tmp_path / name, white=4000) == [[0, 64, 128, 255]] * 3
    assert read(tmp_path / "12.png", white=2000) == [[0, 128, 255, 255]] * 3


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(RAMP.astype(np.float32) / 255).save(path)
    assert read(path) == [[0, 64, 128, 255]] * 3
    for values, wrong in (
        (
            RAMP.astype(np.float32),
            r'x\.tif: .*: it holds values up to 255; give "white", the value that is to be white',
        ),
        (RAMP.astype(np.int32) * 100, r'x\.tif: .*: it holds values up to 25500; give "white"'),
        (RAMP.astype(np.int32) - 1000, r"x\.tif: .*: it holds values below 0, or that are not numbers"),
        (np.full((4, 4), np.nan, np.float32), r"x\.tif: .*: it holds values below 0, or that are not numbers"),
        (np.full((4, 4), np.inf, np.float32), r"x\.tif: .*: it holds values below 0, or that are not numbers"),
    ):
        Image.fromarray(values).save(path)
        with pytest.raises(UserError, match=wrong):
            read(path)


def test_16_bits_that_would_be_nearly_black_are_refused_unless_white_is_given(tmp_path):
    files = [str(tmp_path / f"{i}.png") for i in range(40)]
    for file in files:
        Image.fromarray(RAMP.astype(np.uint16) * 16).save(file)
    wrong = r'white: .*0\.png and others of 16 bits hold values up to 4080 only; give "white": 4080, .*, or 65535 for'
    with pytest.raises(UserError, match=wrong):
        require_bright(files, None)
    require_bright(files, 4095)
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(files[39])
    require_bright(files[39:] + files, None)
    Image.fromarray(RAMP).save(files[0])
    (tmp_path / "1.png").write_text("damaged")
    require_bright(files[:2], None)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = Image.fromarray(np.dstack([RAMP // 2] * 3 + [np.full_like(RAMP, 255)]))
    image.paste((1, 2, 3, 0), (3, 0, 4, 4))
    image.paste((0, 0, 0, 102), (0, 0, 1, 4))
    path = tmp_path / "x.png"
    if mode == "P":
        image = image.quantize(8)
    elif mode == "LA":
        image = image.convert("LA")
    image.save(path)
    assert read(path) == [[153, 32, 64, 255]] * 3  # 153 is 60 % of 255, below black that covers 40 %


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_strokes_on_transparency_are_put_on_black(tmp_path, mode):
    strokes = Image.fromarray(np.dstack([np.full((4, 4, 3), 255, np.uint8), RAMP]))
    strokes.convert(mode).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png") == [RAMP[0].tolist()] * 3
    Image.new(mode, (4, 4)).save(tmp_path / "x.png")  # nothing can be seen
    assert read(tmp_path / "x.png") == [[255] * 4] * 3


def test_a_white_page_with_a_transparent_corner_stays_white(tmp_path):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "page.png")
    assert read(tmp_path / "page.png") == [[255] * 4] * 3


def test_a_transparent_colour_becomes_white(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(RAMP).save(path, transparency=64)
    assert read(path) == [[0, 255, 128, 255]] * 3
    Image.fromarray(np.dstack([RAMP] * 3)).save(path, transparency=(128, 128, 128))
    assert read(path) == [[0, 64, 255, 255]] * 3
    flat = Image.fromarray(RAMP // 64).convert("L")
    flat.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 7, 7, 7])
    flat.save(path, transparency=3)
    assert read(path) == [[200, 0, 0, 255], [0, 200, 0, 255], [0, 0, 200, 255]]


def test_black_and_white_cmyk_and_animations_are_read(tmp_path):
    Image.fromarray(RAMP > 100).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png") == [[0, 0, 255, 255]] * 3
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert np.allclose(read(tmp_path / "x.jpg"), [[255] * 4, [0] * 4, [0] * 4], atol=3)
    frames = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    for ending in ("gif", "webp", "tif"):
        frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], lossless=True)
        assert read(tmp_path / f"x.{ending}") == [[0, 64, 128, 255]] * 3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, ending, orientation):
    """The top left pixel is bright once the image is turned as its orientation says (EXIF 2.3, 4.6.4 A)."""
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :8], upright[:8, 8:] = 240, 120
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"quality": 100} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"x.{ending}", exif=exif, **how)
    image = read_image(str(tmp_path / f"x.{ending}"), (16, 16))[0]
    assert np.allclose(image[4::8, 4::8], [[240, 120], [0, 0]], atol=8)


def test_orientation_is_read_beside_entries_that_cannot_be_written(tmp_path):
    turned = b"\x12\x01\x03\x00\x01\x00\x00\x00\x03\x00\x00\x00"  # by 180 degrees
    resolution_as_text = b"\x1a\x01\x02\x00\x02\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00" + turned + resolution_as_text + b"\x00" * 24
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=exif)
    assert read(tmp_path / "x.png") == [[255, 128, 64, 0]] * 3


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp", "avif", "ppm", "jp2", "qoi", "dds"])
def test_truncated_files_are_refused_by_name(tmp_path, ending):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = io.BytesIO()
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    Image.fromarray(noise).save(whole, {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}.get(ending, ending))
    path = tmp_path / f"x.{ending}"
    path.write_bytes(whole.getvalue())
    read_image(str(path), (8, 8))
    for share in (0, 0.3, 0.9):
        path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
        with pytest.raises(UserError, match=rf"x\.{ending}: cannot be read as an image: "):
            read_image(str(path), (8, 8))


def test_images_of_extreme_sizes_are_read(tmp_path):
    for size in ((1, 1), (1, 500), (500, 1)):
        Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "x.png")
        assert read_image(str(tmp_path / "x.png"), (4, 4)).tolist() == [[[value] * 4] * 4 for value in (9, 8, 7)]


def test_formats_that_start_programs_are_not_read():
    formats, endings = readable()
    assert not {"EPS", "WMF", "PDF", "PSD", "TGA"} & set(formats)
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".psd", ".tga", ".mpg"} & endings
    assert {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".webp", ".jp2", ".mpo"} <= endings
