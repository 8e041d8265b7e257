"""The loaders for data of one's own: image folders, tables, arrays and texts."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from base.data.arrays import ArrayDataLoader, read_array
from base.data.augmentations import RandomShift
from base.data.image_folders import ImageFolderDataLoader
from base.data.inputs import build_input
from base.data.mnist_files import read_mnist
from base.data.tables import TableDataLoader
from base.data.texts import TextDataLoader
from examples.cifar_resnet.data import read_cifar10
from utils import UserError
from utils.batches import DataError, batches_of


def whole(loader):
    """All batches of a loader, put together."""
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


# images in class folders


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders train and test of the classes cat (red, 6 of them), dog (green, 3) and owl (blue, 3)."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("train", "test"):
        for name, colour, number in (("cat", (255, 0, 0), 6), ("dog", (0, 255, 0), 3), ("owl", (0, 0, 255), 3)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20 + i, 10), colour).save(folder / part / name / f"{i}.png")
        (folder / part / "cat" / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_folders_give_normalized_squares_and_labels(pictures, in_memory):
    loader = ImageFolderDataLoader(str(pictures / "train"), 8, 5, shuffle=False, in_memory=in_memory)
    images, labels = whole(loader)
    assert loader.classes == ["cat", "dog", "owl"] and labels.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert images.shape == (12, 3, 8, 8) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(images.mean((2, 3)).argmax(1), labels)
    assert images[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-6)


def test_images_in_memory_and_from_files_are_the_same(pictures):
    memory, files = (
        whole(ImageFolderDataLoader(str(pictures / "train"), 8, 5, shuffle=False, in_memory=in_memory))[0]
        for in_memory in (True, False)
    )
    assert torch.equal(memory, files)


@pytest.mark.parametrize("in_memory", [True, False])
def test_augmentation_is_for_training_alone_and_a_function_of_the_epoch(pictures, in_memory):
    def epoch(number, augment):
        torch.manual_seed(3)
        loader = ImageFolderDataLoader(
            str(pictures / "train"), 8, 4, validation_split=4, in_memory=in_memory, augment=augment
        )
        loader.set_epoch(number)
        return whole(loader)[0], whole(loader.split_validation())[0]

    (first, valid), (again, _), (second, _), (plain, plain_valid) = (
        epoch(1, True),
        epoch(1, True),
        epoch(2, True),
        epoch(1, False),
    )
    assert torch.equal(first, again) and not torch.equal(first, plain)
    assert not torch.equal(first, second) and torch.equal(valid, plain_valid)


def test_images_to_test_on_have_the_labels_of_those_trained_on(pictures):
    folder = str(pictures / "train")
    assert len(whole(ImageFolderDataLoader(folder, 8, 5, training=False, test_folder=str(pictures / "test")))[1]) == 12
    with pytest.raises(UserError, match="test_folder: the config names no folder"):
        ImageFolderDataLoader(folder, 8, 5, training=False)


def test_image_that_cannot_be_read_is_named(pictures, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "good.png")
    (tmp_path / "b" / "bad.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=r"b/bad\.jpg: cannot be read as an image: "):
        ImageFolderDataLoader(str(tmp_path), 4, 2)
    loader = ImageFolderDataLoader(str(tmp_path), 4, 2, in_memory=False)
    loader.set_epoch(1)
    with pytest.raises(DataError, match=r"data_loader: sample 1: .*b/bad\.jpg: cannot be read as an image"):
        list(batches_of(loader))


def test_programs_are_not_started_for_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("L", (4, 4)).save(tmp_path / "b" / "x.png")
    with pytest.raises(UserError, match=r"a/x\.png: cannot be read as an image"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)


def test_folders_that_will_not_do_are_refused(tmp_path):
    with pytest.raises(UserError, match="folder: there is no folder"):
        ImageFolderDataLoader(str(tmp_path / "none"), 4, 2)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="has 1 folder; it should have one for each of two classes or more"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"folder: .*/a holds no images; fill it, or remove it"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)


def test_shift_moves_each_image_whole_and_fills_in_zeros():
    images = torch.zeros(64, 2, 5, 7, dtype=torch.uint8)
    images[:, :, 2, 3] = torch.tensor([7, 9], dtype=torch.uint8)
    moved = RandomShift(2)(images)
    assert moved.dtype == torch.uint8 and torch.equal(moved.sum((2, 3)), torch.tensor([[7, 9]] * 64))
    places = {tuple(image[0].nonzero()[0].tolist()) for image in moved}
    assert len(places) > 15 and places <= {(row, column) for row in range(5) for column in range(1, 6)}
    lopsided = torch.arange(4.0).expand(50, 1, 4, 4)
    assert {tuple(image[0, 0].tolist()) for image in RandomShift(0, flip=True)(lopsided)} == {
        (0, 1, 2, 3),
        (3, 2, 1, 0),
    }


# tables


@pytest.fixture
def table(tmp_path):
    """Path of a table of 40 rows: two numbers, a text, a patient, a class and a value."""
    rows = range(40)
    data = pandas.DataFrame(
        {
            "age": [20 + i for i in rows],
            "size": [1.5 * i * i for i in rows],
            "town": [("Bonn", "Köln", "Trier")[i % 3] for i in rows],
            "patient": [i // 4 for i in rows],
            "sick": [("yes", "no")[i % 4 == 0] for i in rows],
            "value": [3.0 * i for i in rows],
        }
    )
    path = tmp_path / "table.csv"
    data.to_csv(path, index=False)
    return str(path)


def edited(path, **columns):
    """The table with {column: {row: value}} changed, in a file beside it."""
    data = pandas.read_csv(path, dtype=str)
    for column, cells in columns.items():
        for row, value in cells.items():
            data.loc[row, column] = value
    data.to_csv(path + ".edited.csv", index=False)
    return path + ".edited.csv"


def test_numbers_are_standardized_by_the_training_part_alone(table):
    loader = TableDataLoader(table, "value", "regression", 8, validation_split=0.25, numeric=["age", "size"])
    features, target = whole(loader)
    assert features.shape == (30, 2) and target.shape == (30, 1) and target.dtype == torch.float32
    assert torch.allclose(features.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(features.std(0, correction=0), torch.ones(2), atol=1e-6)
    valid, valid_target = whole(loader.split_validation())
    age = pandas.read_csv(table)["age"].to_numpy()
    train = target.flatten().numpy() / 3 + 20
    expected = (valid_target.flatten().numpy() / 3 + 20 - train.mean()) / train.std()
    assert np.allclose(valid[:, 0], expected, atol=1e-5) and len(age) == 40


def test_categories_are_codes_and_one_that_is_new_has_the_code_0(table):
    test = edited(table, town={0: "Ulm", 1: "Bonn"})
    args = {"numeric": ["age"], "categorical": ["town"], "shuffle": False}
    loader = TableDataLoader(table, "sick", "classification", 8, **args)
    features, labels = whole(loader)
    assert features[:4, 1].tolist() == [1, 2, 3, 1] and loader.num_codes == [4]
    assert labels[:5].tolist() == [0, 1, 1, 1, 0] and loader.classes == ["no", "yes"] and labels.dtype == torch.int64
    testing = {"training": False, "test_path": test, **args}
    assert whole(TableDataLoader(table, "sick", "classification", 8, **testing))[0][:3, 1].tolist() == [0, 1, 3]
    hot = TableDataLoader(table, "sick", "classification", 8, one_hot=True, **testing)
    assert whole(hot)[0][:3, 1:].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert hot.columns == ["age", "town=Bonn", "town=Köln", "town=Trier"]


def test_category_of_the_validation_part_alone_has_the_code_0(table):
    lonely = pandas.read_csv(table)
    (row,) = np.random.RandomState(0).permutation(40)[:1]
    path = edited(table, town={row: "Ulm"})
    loader = TableDataLoader(path, "value", "regression", 8, validation_split=1, categorical=["town"])
    assert whole(loader.split_validation())[0].tolist() == [[0]] and loader.num_codes == [4] and len(lonely) == 40


def test_test_data_are_prepared_by_the_training_part(table):
    args = {"validation_split": 0.25, "numeric": ["age"], "shuffle": False, "standardize_target": True}
    loader = TableDataLoader(table, "value", "regression", 8, **args)
    test = TableDataLoader(table, "value", "regression", 8, training=False, test_path=table, **args)
    features, target = whole(test)
    order = np.random.RandomState(0).permutation(40)
    valid, valid_target = whole(loader.split_validation())
    assert len(features) == 40 and torch.equal(features[order[:10]], valid)
    assert torch.equal(target[order[:10]], valid_target)


def test_columns_are_told_apart_by_what_they_hold(table):
    loader = TableDataLoader(table, "value", "regression", 8, groups="patient", validation_split=0.2)
    assert loader.columns == ["age", "size", "town", "sick"] and loader.num_codes == [4, 3]


def test_classes_that_are_numbers_keep_their_order(table):
    path = edited(table, sick={i: str(i % 11) for i in range(40)})
    loader = TableDataLoader(path, "sick", "classification", 8, shuffle=False, numeric=["age"])
    assert loader.classes == [str(i) for i in range(11)] and whole(loader)[1][:12].tolist() == [*range(11), 0]


@pytest.mark.parametrize("fill", ["mean", "median"])
def test_missing_values_are_filled_by_the_training_part_if_the_config_says_so(table, fill):
    path = edited(table, size={7: None}, town={9: None})
    with pytest.raises(UserError, match=r'row 8, column \'size\': a value is missing; give "fill": "mean" or "median"'):
        TableDataLoader(path, "value", "regression", 8, numeric=["size"])
    with pytest.raises(UserError, match="row 10, column 'town': a value is missing"):
        TableDataLoader(path, "value", "regression", 8, categorical=["town"])
    loader = TableDataLoader(
        path, "value", "regression", 8, numeric=["size"], categorical=["town"], fill=fill, shuffle=False
    )
    features, _ = whole(loader)
    sizes = pandas.read_csv(path)["size"]
    filled = sizes.fillna(getattr(sizes, fill)())
    assert features[7, 0].item() == pytest.approx((filled[7] - filled.mean()) / filled.std(ddof=0), abs=1e-6)
    assert features[9, 1] == 1 and loader.num_codes == [5]  # a category of its own, the first by name


@pytest.mark.parametrize(
    ("cells", "arguments", "message"),
    [
        ({}, {"target": "valeu"}, "target: .* has no column 'valeu'; did you mean 'value'"),
        ({}, {"groups": "patent"}, "groups: .* has no column 'patent'; did you mean 'patient'"),
        ({}, {"stratify": "ill"}, "stratify: .* has no column 'ill'"),
        ({}, {"numeric": ["age", "hight"]}, "numeric: .* has no column 'hight'"),
        ({}, {"numeric": ["age", "value"]}, "numeric: column 'value' is named twice"),
        ({}, {"numeric": []}, "has no columns to learn from"),
        ({}, {"task": "clustering"}, "task: got 'clustering'"),
        ({}, {"fill": "zero"}, "fill: got 'zero'"),
        ({}, {"balance_classes": True}, "balance_classes: a regression target has no classes"),
        ({}, {"training": False}, "test_path: the config names no table"),
        ({}, {"path": "none.csv"}, "path: none.csv: cannot read the table: No such file"),
        ({}, {"path": "no\x1b\nne.csv"}, r"path: no\\x1b\\nne.csv: cannot read the table: No such file"),
        ({}, {"path": "/dev/zero"}, "path: /dev/zero: cannot read the table: not an ordinary file"),
        ({}, {"path": "http://127.0.0.1:9/a.csv"}, 'path: http:.*: is an address; .* give "allow_urls": true'),
        (
            {},
            {"path": "s3://a/b.csv", "allow_urls": True},
            "path: s3://a/b.csv: is an address; give the path of a file",
        ),
        ({}, {"path": "file:///a.csv", "allow_urls": True}, "path: file:///a.csv: is an address"),
        ({}, {"path": "simplecache::http://a/b", "allow_urls": True}, "path: simplecache::http://a/b: is an address"),
        ({}, {"training": False, "test_path": "ftp://a/b.csv"}, "test_path: ftp://a/b.csv: is an address"),
        ({"value": {3: None}}, {}, "row 4, column 'value': a value is missing"),
        ({"value": {3: "much"}}, {}, "row 4, column 'value': 'much' is not a number"),
        ({"age": {3: "?"}}, {}, "row 4, column 'age': '\\?' stands among numbers"),
        ({"age": {3: "?"}}, {"numeric": ["age"]}, "row 4, column 'age': '\\?' is not a number"),
        ({"age": {3: "inf", 5: "inf"}}, {}, "row 4 \\(and in 1 more\\), column 'age': inf is infinite"),
        ({"age": dict.fromkeys(range(40))}, {"fill": "mean", "numeric": ["age"]}, "'age' of .* is empty"),
        ({}, {"stratify": "town", "fold": "1/14"}, "fold: class Köln has 13 samples for 14 folds, so some would"),
        ({}, {"groups": "patient", "fold": "1/11"}, "fold: 11 folds of 10 groups"),
        ({}, {"groups": "patient", "stratify": "town", "fold": "1/5"}, "groups: a split goes by stratify or by groups"),
        ({}, {"fold": "1/5", "validation_split": 0.1}, "fold: validation_split sets samples aside too"),
    ],
)
def test_tables_and_arguments_that_will_not_do_are_refused(table, cells, arguments, message):
    args = {"path": edited(table, **cells), "target": "value", "task": "regression", "batch_size": 8, **arguments}
    with pytest.raises(UserError, match=message) as refused:
        TableDataLoader(**args)
    assert "\n" not in str(refused.value)


def test_class_that_the_training_table_does_not_hold_is_refused(table):
    test = edited(table, sick={2: "perhaps"})
    loader = TableDataLoader(table, "sick", "classification", 8, numeric=["age"], training=False, test_path=test)
    with pytest.raises(UserError, match="row 3, column 'sick': 'perhaps' is a class that the training table"):
        loader.as_validation()


def test_tables_are_fetched_only_where_that_is_allowed(table, monkeypatch):
    asked, csv = [], Path(table).read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda path, timeout: asked.append(path) or io.BytesIO(csv))
    address = "https://example.org/a.csv"
    args = {"target": "value", "task": "regression", "batch_size": 8, "numeric": ["age"], "fill": "mean"}
    with pytest.raises(UserError, match="allow_urls"):
        TableDataLoader(address, **args)
    assert asked == []
    assert TableDataLoader(address, **args, allow_urls=True).n_samples > 0 and asked == [address]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_compressed_tables_are_read_unless_they_are_damaged_or_bombs(tmp_path, monkeypatch, ending):
    path, args = str(tmp_path / f"a.csv.{ending}"), ("b", "regression", 8)
    pandas.DataFrame({"a": np.zeros(20_000), "b": np.zeros(20_000)}).to_csv(path, index=False)
    assert TableDataLoader(path, *args).n_samples == 20_000
    monkeypatch.setattr("base.data.local_files._ALWAYS_BYTES", 100_000)
    with pytest.raises(UserError, match=f"path: .*a.csv.{ending}: unpacks to more than 100 times its size"):
        TableDataLoader(path, *args)
    (tmp_path / f"a.csv.{ending}").write_bytes((tmp_path / f"a.csv.{ending}").read_bytes()[:30])
    with pytest.raises(UserError, match=f"path: .*a.csv.{ending}: cannot read the table"):
        TableDataLoader(path, *args)


def test_archives_are_to_be_unpacked_first(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"path: .*a\.tar\.gz: unpack it first"):
        TableDataLoader(str(tmp_path / "a.tar.gz"), "b", "regression", 8)


# arrays


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


def test_loaders_do_not_wait_at_pipes_nor_read_devices(tmp_path):
    for name in ("a.npy", "a.npz", "a.csv", "a.txt"):
        os.mkfifo(tmp_path / name)
    for folder in ("one", "two"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        os.mkfifo(tmp_path / "images" / folder / "a.png")
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    os.mkfifo(tmp_path / "data_batch_2.bin")
    for load in (
        lambda: read_array(f"{tmp_path}/a.npy", "data"),
        lambda: read_array(f"{tmp_path}/a.npz:x", "data"),
        lambda: read_array("/dev/zero", "data"),
        lambda: TableDataLoader(f"{tmp_path}/a.csv", "b", "regression", 8),
        lambda: TextDataLoader(f"{tmp_path}/a.txt", 4, 3),
        lambda: TextDataLoader("/dev/zero", 4, 3),
        lambda: ImageFolderDataLoader(f"{tmp_path}/images", 4, 2),
        lambda: read_cifar10(tmp_path, training=True),
    ):
        with pytest.raises(UserError, match="not an ordinary file"):
            load()


def test_paths_are_shown_in_one_line_whatever_they_hold(tmp_path):
    odd = f"{tmp_path}/a\x1b[2J\nerror: b"
    for load in (
        lambda: read_array(f"{odd}.npy", "data"),
        lambda: read_array(f"{odd}.npz:x", "data"),
        lambda: read_array(f"{odd}.npz", "data"),
        lambda: TableDataLoader(f"{odd}.csv", "b", "regression", 8),
        lambda: TextDataLoader(f"{odd}.txt", 4, 3),
        lambda: ImageFolderDataLoader(odd, 4, 2),
        lambda: read_cifar10(odd, training=True),
        lambda: read_mnist(odd, training=True),
    ):
        with pytest.raises(UserError, match="x1b") as refused:
            load()
        assert str(refused.value).isprintable()


# texts


def test_texts_are_blocks_of_bytes_and_the_bytes_that_follow(tmp_path):
    text = "Ein Blümchen stand am Wegesrand.".encode()
    (tmp_path / "text.txt").write_bytes(text)
    data, target = whole(TextDataLoader(str(tmp_path / "text.txt"), 4, 3, shuffle=False))
    assert data.dtype == target.dtype == torch.int64 and data.shape == target.shape == (len(text[1:]) // 4, 4)
    assert bytes(data.flatten().tolist()) == text[: data.numel()]
    assert bytes(target.flatten().tolist()) == text[1 : 1 + data.numel()]


def test_texts_split_and_test(tmp_path):
    (tmp_path / "text.txt").write_bytes(bytes(range(101)))
    (tmp_path / "test.txt").write_bytes(bytes(range(21)))
    path = str(tmp_path / "text.txt")
    loader = TextDataLoader(path, 10, 3, fold="1/5")
    assert loader.n_samples == 8 and len(loader.split_validation().sampler) == 2
    assert len(whole(TextDataLoader(path, 10, 3, training=False, test_path=str(tmp_path / "test.txt")))[0]) == 2
    for arguments, message in (
        ({"block_size": 101}, "block_size: .* has 101 bytes, and a block takes 102"),
        ({"block_size": 0}, "block_size: got 0"),
        ({"path": "none.txt"}, "path: none.txt: cannot read the text"),
        ({"training": False}, "test_path: the config names no text"),
    ):
        with pytest.raises(UserError, match=message):
            TextDataLoader(**{"path": path, "block_size": 10, "batch_size": 3, **arguments})


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zip", "PDF"])
def test_packed_texts_are_refused(tmp_path, kind):
    path = tmp_path / "text"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("poem.txt", "A rose is a rose. " * 20)
    else:
        packed = {
            "gzip": gzip.compress,
            "bzip2": bz2.compress,
            "xz": lzma.compress,
            "PDF": lambda text: b"%PDF-" + text,
        }
        path.write_bytes(packed[kind](b"A rose is a rose. " * 20))
    with pytest.raises(UserError, match=f"path: .*/text: is a {kind} file; give the text that it holds"):
        TextDataLoader(str(path), 4, 2)


def test_an_incomplete_last_batch_can_be_left_out_in_training_alone(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 2), np.float32))
    np.save(tmp_path / "y.npy", np.arange(9))
    args = (f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", 4)
    loader = ArrayDataLoader(*args, drop_last=True)
    assert [len(target) for _, target in loader] == [4, 4]
    assert [len(target) for _, target in loader.as_validation()] == [4, 4, 1]
    assert [len(target) for _, target in ArrayDataLoader(*args)] == [4, 4, 1]
