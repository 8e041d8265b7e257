"""ArrayDataLoader: the samples, targets and splits of .npy and .npz files, and which are refused."""

import zipfile

import numpy as np
import pytest
import torch

from base.data.arrays import ArrayDataLoader, read_array
from base.data.inputs import build_input
from helpers import whole
from utils import UserError


@pytest.fixture
def arrays(tmp_path):
    """Folder of arrays in .npy files, and the same in all.npz."""
    generator = np.random.default_rng(0)
    made = {
        "images": generator.integers(0, 256, (20, 1, 4, 4), np.uint8),
        "labels": np.arange(20, dtype=np.uint8) % 4,
        "values": generator.normal(size=(20, 2)),
        "ids": np.repeat(["a", "b", "c", "d"], 5),
    }
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "all.npz", **made)
    return tmp_path


def test_arrays_are_served_as_what_models_take(arrays):
    images, labels = whole(ArrayDataLoader(f"{arrays}/images.npy", f"{arrays}/labels.npy", 6, shuffle=False))
    assert images.dtype == torch.float32 and images.shape == (20, 1, 4, 4) and 0 <= images.min() < images.max() <= 1
    assert labels.dtype == torch.int64 and labels[:5].tolist() == [0, 1, 2, 3, 0]
    loader = ArrayDataLoader(f"{arrays}/images.npy", f"{arrays}/labels.npy", 6, shuffle=False)
    declared = build_input(loader.state_dict()["input"])
    assert torch.equal(declared(torch.as_tensor(np.load(arrays / "images.npy"))), images)
    again, values = whole(ArrayDataLoader(f"{arrays}/all.npz:images", f"{arrays}/all.npz:values", 6, shuffle=False))
    assert torch.equal(again, images) and values.dtype == torch.float32 and values.shape == (20, 2)


@pytest.mark.parametrize(
    ("stored", "dtype", "expected"),
    [
        ("int8", None, torch.float32),
        ("int16", None, torch.float32),
        ("uint16", None, torch.float32),
        ("bool", None, torch.float32),
        ("float16", None, torch.float32),
        ("float64", None, torch.float32),
        ("int32", None, torch.int64),
        ("int64", None, torch.int64),
        ("int64", "float32", torch.float32),
        ("uint16", "int64", torch.int64),
        ("uint8", "uint8", torch.uint8),
        ("uint8", "float32", torch.float32),
        ("float32", "float64", torch.float64),
    ],
)
@pytest.mark.parametrize("device_resident", [False, True])
def test_data_have_the_dtype_that_models_take_or_the_one_asked_for(tmp_path, stored, dtype, expected, device_resident):
    rows = (np.arange(12).reshape(6, 2) % 2 if stored == "bool" else np.arange(12).reshape(6, 2)).astype(stored)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "target.npy", np.arange(6))
    loader = ArrayDataLoader(
        f"{tmp_path}/rows.npy", f"{tmp_path}/target.npy", 4, False, dtype=dtype, device_resident=device_resident
    )
    served = whole(loader.to(torch.device("cpu")))[0]
    assert served.dtype == expected and served.tolist() == rows.tolist()  # as they are, not scaled


@pytest.mark.parametrize(
    ("stored", "classes", "expected", "names"),
    [
        (["no", "yes", "no"], ["yes", "no"], [1, 0, 1], ["yes", "no"]),
        ([b"no", b"yes", b"no"], ["no", "yes"], [0, 1, 0], ["no", "yes"]),
        ([1, 2, 1], [1, 2], [0, 1, 0], ["1", "2"]),
        ([-1.0, 1.0, -1.0], [-1, 1], [0, 1, 0], ["-1", "1"]),
        ([True, False, True], [False, True], [1, 0, 1], ["False", "True"]),
        ([[1], [0], [1]], ["cat", "dog"], [1, 0, 1], ["cat", "dog"]),
        ([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], ["cat", "dog"], [1, 0, 1], ["cat", "dog"]),
        ([[0, 255], [255, 255], [0, 0]], [0, 255], [[0, 1], [1, 1], [0, 0]], ["0", "255"]),
    ],
)
def test_targets_become_the_numbers_of_the_classes_in_the_config(tmp_path, stored, classes, expected, names):
    np.save(tmp_path / "rows.npy", np.zeros((3, 2)))
    np.save(tmp_path / "target.npy", np.array(stored))
    loader = ArrayDataLoader(f"{tmp_path}/rows.npy", f"{tmp_path}/target.npy", 3, False, classes=classes)
    target = whole(loader)[1]
    assert target.tolist() == expected and target.dtype == torch.int64 and loader.classes == names
    floats = ArrayDataLoader(
        f"{tmp_path}/rows.npy", f"{tmp_path}/target.npy", 3, False, classes=classes, target_dtype="float32"
    )
    assert whole(floats)[1].tolist() == expected and whole(floats)[1].dtype == torch.float32


def test_targets_are_a_column_if_asked_for(arrays):
    args = {
        "shuffle": False,
        "target_as_column": True,
        "target_dtype": "float32",
        "validation_split": 4,
        "stratify": True,
    }
    loader = ArrayDataLoader(f"{arrays}/images.npy", f"{arrays}/labels.npy", 6, **args)
    target = whole(loader)[1]
    assert target.shape == (16, 1) and target.dtype == torch.float32 and set(target.flatten().tolist()) == {0, 1, 2, 3}


def test_npy_files_are_mapped(arrays):
    loader = ArrayDataLoader(f"{arrays}/images.npy", f"{arrays}/labels.npy", 6)
    assert isinstance(loader.dataset.arrays[0].base, np.memmap)


def test_arrays_split_by_class_and_by_group(arrays):
    loader = ArrayDataLoader(
        f"{arrays}/values.npy", f"{arrays}/labels.npy", 6, fold="2/5", stratify=True, balance_classes=True
    )
    assert whole(loader.split_validation())[1].bincount().tolist() == [1, 1, 1, 1]
    grouped = ArrayDataLoader(
        f"{arrays}/values.npy", f"{arrays}/labels.npy", 6, groups=f"{arrays}/ids.npy", validation_split=0.5
    )
    assert len(grouped.valid_sampler) == 10
    assert {i // 5 for i in grouped.valid_sampler.indices.tolist()} & {
        i // 5 for i in grouped.sampler.indices.tolist()
    } == set()


def test_arrays_to_test_on_are_whole(arrays):
    args = {"test_data": f"{arrays}/all.npz:images", "test_target": f"{arrays}/all.npz:labels"}
    loader = ArrayDataLoader(f"{arrays}/images.npy", f"{arrays}/labels.npy", 6, training=False, **args)
    assert len(whole(loader)[1]) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "{}/none.npy"}, "data: .*none.npy: cannot read the array: No such file"),
        ({"data": "{}/all.npz"}, "data: got '.*all.npz'; say which array of it, as in '.*all.npz:name'"),
        ({"target": "{}/all.npz:label"}, "target: .* has no array 'label'; there are images, labels, values, ids"),
        ({"data": "{}/none.npz:x"}, "data: .*none.npz: cannot read the arrays: No such file"),
        ({"data": "{}/objects.npy"}, "data: .*objects.npy: not a whole .npy file of numbers"),
        ({"data": "{}/objects.npz:x"}, "data: .*objects.npz: not a whole .npz file of numbers"),
        ({"target": "{}/values.npy", "balance_classes": True}, "balance_classes: is for classes, and .* holds none"),
        ({"target": "{}/values.npy", "stratify": True}, "stratify: is for classes, and .* holds none"),
        (
            {"target": "{}/ids.npy"},
            r'^target: .*ids.npy holds text; give "classes": \["a", "b", "c", "d"\], its values in the order of their',
        ),
        (
            {"training": False, "test_data": "{}/images.npy", "test_target": "{}/ids.npy"},
            '^test_target: .*ids.npy holds text; give "classes"',
        ),
        ({"data": "{}/ids.npy"}, "^data: .*ids.npy holds <U1; it should hold real numbers"),
        ({"data": "{}/complex.npy"}, "^data: .*complex.npy holds <c16; it should hold real numbers"),
        ({"data": "{}/empty.npy"}, r"^data: .*empty.npy holds no samples; its shape is \(0, 4\)"),
        ({"data": "{}/one.npy"}, "^data: .*one.npy is a single number; it should have a row for each sample"),
        ({"data": "{}/labels5.npy"}, "^data: .*labels5.npy has 5 samples, and .*labels.npy has 20; both should"),
        ({"target": "{}/values.npy", "target_dtype": "int64"}, "^target: .*values.npy holds .*, which is not an int"),
        (
            {"target": "{}/values.npy", "target_as_column": True},
            r"^target_as_column: is for targets \(N,\), and .* \(20, 2\)",
        ),
        (
            {"data": "{}/values.npy", "dtype": "int64"},
            "^data: .*values.npy holds .*, which is not an integer; leave dtype out",
        ),
        ({"dtype": "floaty"}, "^dtype: got 'floaty'; it should be one of float32, "),
        ({"target_dtype": "uint8"}, "^target_dtype: got 'uint8'; it should be one of float32, int64"),
        ({"training": False}, "test_data: the config names no arrays"),
        ({"groups": "{}/labels5.npy", "fold": "1/2"}, r"groups: has the shape \(5,\); one value for each of 20"),
    ],
)
def test_arrays_that_will_not_do_are_refused(arrays, arguments, message):
    np.save(arrays / "objects.npy", np.array([object()]), allow_pickle=True)
    np.savez(arrays / "objects.npz", x=np.array([object()]))
    others = {"labels5": np.arange(5), "empty": np.zeros((0, 4)), "one": np.array(3.0), "complex": np.ones(20) * 1j}
    for name, array in others.items():
        np.save(arrays / f"{name}.npy", array)
    args = {"data": "{}/images.npy", "target": "{}/labels.npy", "batch_size": 4, **arguments}
    with pytest.raises(UserError, match=message):
        ArrayDataLoader(**{key: v.format(arrays) if isinstance(v, str) else v for key, v in args.items()})


def npy(dtype, shape):
    """A .npy file that promises such an array, and holds 64 bytes."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("'|V0'", "(1000,)"),  # divides by its size
        ("'<U0'", "(1000,)"),
        ("'<i8'", "(1000000000000,)"),
        ("'<i8'", "(4611686018427387904, 4611686018427387904)"),
        ("'<i8'", "(-1,)"),
        ("'<i8'", "(True, 'x')"),
        ("[('a', '<i8')]", "(2,)"),
    ],
)
def test_arrays_that_promise_what_they_do_not_hold_are_refused(tmp_path, dtype, shape):
    (tmp_path / "a.npy").write_bytes(npy(dtype, shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "x.npy")
    for name, kind in (("a.npy", "npy"), ("a.npz:x", "npz")):
        with pytest.raises(UserError, match=f"data: .*a.{kind}: not a whole .{kind} file of numbers"):
            read_array(f"{tmp_path}/{name}", "data")


def test_arrays_that_unpack_to_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("base.data.local_files._ALWAYS_BYTES", 100_000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1_000_000))
    with pytest.raises(UserError, match=r"data: .*a\.npz: unpacks to more than 100 times its size"):
        read_array(f"{tmp_path}/a.npz:x", "data")
