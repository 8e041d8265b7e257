"""Which files of a folder of class folders are images of which class."""

import os
import shutil

import pytest
from PIL import Image

from base.data import class_folders
from base.data.class_folders import find_images
from utils import UserError


def make(root, *files):
    """Write files below the root: images where the ending is one of an image, else texts."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".jfif", ".jpe"):
            Image.new("RGB", (4, 4)).save(path, "PNG")
        else:
            path.write_text("no image")
    return str(root)


def found(root):
    """({class: files below the root}, notes)."""
    notes = []
    classes, files, labels = find_images(str(root), "folder", notes)
    names = [os.path.relpath(file, root) for file in files]
    return {name: [f for f, n in zip(names, labels, strict=True) if n == i] for i, name in enumerate(classes)}, notes


def refusal(root, argument="folder"):
    with pytest.raises(UserError) as refused:
        find_images(str(root), argument)
    assert "\n" not in str(refused.value)
    return str(refused.value).replace(f"{root}{os.sep}", "").replace(str(root), "ROOT")


def test_hidden_files_and_those_of_systems_are_passed_over_at_any_depth_and_counted(tmp_path):
    make(tmp_path, "cat/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png", "cat/.DS_Store", "cat/._1.png")
    make(tmp_path, "cat/a/b/2.PNG", "cat/a/.b/3.png", "cat/a/__MACOSX/2.png", "cat/Thumbs.db", "cat/@eaDir/1.png/x.jpg")
    make(tmp_path, "dog/1.png", "dog/notes.txt", "dog/clip.mp4", "dog/README", "labels.csv", "__MACOSX/cat/._1.png")
    make(tmp_path, ".ipynb_checkpoints/x.png", "loose.png", "dog/desktop.ini", "dog/more.TXT", "dog/old.png~")
    files, notes = found(tmp_path)
    assert files == {"cat": ["cat/1.png", "cat/a/b/2.PNG"], "dog": ["dog/1.png"]}
    counts = "8 hidden, 2 .txt, 1 .csv, 1 in no class folder"
    assert notes == [f"passed over: {counts}, 1 .db, 1 without an ending, 1 .mp4, 1 .ini, 1 more"]


def test_folders_of_images_alone_have_no_notes(tmp_path):
    make(tmp_path, "cat/1.png", "dog/1.png", "dog/sub/2.png")
    assert found(tmp_path) == ({"cat": ["cat/1.png"], "dog": ["dog/1.png", "dog/sub/2.png"]}, [])


def test_endings_of_all_formats_that_are_read_count_in_any_case(tmp_path):
    names = ("a.jfif", "b.jpe", "c.AVIF", "d.webp", "e.Tif", "f.jp2", "g.pbm", "h.apng", "i.dib", "j.mpo", "k.JPG")
    make(tmp_path, "other/1.png", *(f"cat/{name}" for name in names))
    make(tmp_path, *(f"cat/not.{ending}" for ending in ("eps", "ps", "wmf", "emf", "pdf", "psd", "svg", "tga")))
    files, notes = found(tmp_path)
    assert files["cat"] == sorted(f"cat/{name}" for name in names)
    assert sorted(notes[0].removeprefix("passed over: ").split(", ")) == sorted(
        f"1 .{ending}" for ending in ("eps", "ps", "wmf", "emf", "pdf", "psd", "svg", "tga")
    )


def test_links_are_followed_and_files_keep_their_own_path(tmp_path):
    root = tmp_path / "root"
    make(tmp_path, "elsewhere/deep/3.png", "photo.png", "root/cat/real/1.png", "root/dog/1.png")
    (root / "cat" / "camera").symlink_to("../../elsewhere")
    (root / "cat" / "again").symlink_to("real")
    (root / "cat" / "link.png").symlink_to("../../photo.png")
    (root / "owl").symlink_to(tmp_path / "elsewhere2")
    make(tmp_path, "elsewhere2/9.png")
    files, notes = found(root)
    assert files["cat"] == ["cat/camera/deep/3.png", "cat/link.png", "cat/real/1.png"] and files["owl"] == ["owl/9.png"]
    assert notes == ["passed over: 1 linked and read already"]


def test_cycles_of_links_end(tmp_path):
    make(tmp_path, "cat/1.png", "cat/sub/2.png", "dog/1.png")
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "cat" / "sub" / "self").symlink_to(".")
    (tmp_path / "cat" / "itself.txt").symlink_to("itself.txt")
    (tmp_path / "dog" / "top").symlink_to("/")
    files, notes = found(tmp_path)
    assert files == {"cat": ["cat/1.png", "cat/sub/2.png"], "dog": ["dog/1.png"]}
    assert notes == ["passed over: 3 linked and read already, 1 .txt"]


def test_folder_in_two_classes_is_refused(tmp_path):
    make(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "kitten").symlink_to("cat")
    assert refusal(tmp_path) == "folder: kitten: a link puts its images into classes cat and kitten; remove the link"


def test_broken_links_to_images_are_refused(tmp_path):
    make(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / "dog" / name).symlink_to("../../.git/annex/objects/" + name)
    wrong = "folder: dog/x.jpg (and 1 more beside it): a link to what is not there; mend it, or remove it"
    assert refusal(tmp_path) == wrong
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / "dog" / name).unlink()
    (tmp_path / "dog" / "camera").symlink_to("camera")
    assert refusal(tmp_path) == "folder: dog/camera: a link to what is not there; mend it, or remove it"


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("train", "val"), 'give "folder": "train", "test_folder": "val"'),
        (("Train", "Test", "Validation"), 'give "folder": "Train", "test_folder": "Test"'),
        (("train", "valid", "annotations"), 'give "folder": "train", "test_folder": "valid"'),
        (("test", "val"), 'give "folder": "test", "test_folder": "test"'),
        (("seg_train", "seg_test", "seg_pred"), 'give "folder": "seg_train", "test_folder": "seg_test"'),
        (("train2017", "val2017"), 'give "folder": "train2017", "test_folder": "val2017"'),
        (("trainA", "trainB", "testA", "testB"), 'give "folder": "trainA", "test_folder": "testA"'),
        (("training_set", "test_set"), 'give "folder": "training_set", "test_folder": "test_set"'),
    ],
)
def test_parts_of_the_data_are_no_classes(tmp_path, names, remedy):
    make(tmp_path, *(f"{name}/cat/1.png" for name in names))
    assert refusal(tmp_path) == f"folder: ROOT holds parts of the data and not classes; {remedy}"


@pytest.mark.parametrize(
    "names",
    [("valid", "invalid"), ("test_positive", "test_negative"), ("train", "car", "plane"), ("dev", "prod"), ("a", "A")],
)
def test_classes_that_are_called_like_parts_are_taken(tmp_path, names):
    make(tmp_path, *(f"{name}/1.png" for name in names))
    assert list(found(tmp_path)[0]) == sorted(names)


def test_parts_within_a_class_are_refused(tmp_path):
    make(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/1.png")
    assert refusal(tmp_path) == (
        "folder: cat, within a class, holds parts of the data; make a folder of each part, with the class folders in it"
    )


def test_folder_around_the_class_folders_is_refused_with_the_right_one(tmp_path):
    make(tmp_path, "flowers/flowers/rose/1.png", "flowers/flowers/tulip/1.png", "__MACOSX/flowers/._1.png")
    wrong = 'folder: ROOT has 1 folder; flowers/flowers has 2; give "folder": "flowers/flowers"'
    assert refusal(tmp_path).replace(str(tmp_path) + "/", "") == wrong
    shutil.move(tmp_path / "flowers" / "flowers" / "rose", tmp_path / "flowers" / "flowers" / "train")
    shutil.move(tmp_path / "flowers" / "flowers" / "tulip", tmp_path / "flowers" / "flowers" / "test")
    assert 'give "folder": "flowers/flowers/train", "test_folder": "flowers/flowers/test"' in refusal(tmp_path)


def test_images_without_class_folders_are_named(tmp_path):
    make(tmp_path, "1.png", "2.png", "labels.csv")
    wrong = "folder: ROOT has images, but no folders; it should have one for each of two classes or more"
    assert refusal(tmp_path) == wrong


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    make(tmp_path, "data/cat/1.png", "data/dog/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_images("~/data", "folder")[1] == [f"{tmp_path}/data/cat/1.png", f"{tmp_path}/data/dog/1.png"]


def test_class_of_other_files_says_what_it_holds(tmp_path):
    make(tmp_path, "cat/1.heic", "cat/2.heic", "cat/.x.png", "dog/1.png")
    assert refusal(tmp_path) == "folder: cat holds no images, only 2 .heic, 1 hidden; fill it, or remove it"


def test_names_in_other_spellings_of_unicode_are_one_class(tmp_path):
    make(tmp_path, "Ko\u0308ln/1.png", "Bonn \n/1.png")
    assert list(found(tmp_path)[0]) == ["Bonn \n", "K\u00f6ln"]
    make(tmp_path, "K\u00f6ln/1.png")
    assert "two folders are called K" in refusal(tmp_path)


def test_doubtful_names_are_told(tmp_path):
    make(tmp_path, "Cat/1.png", "cat/1.png", "cat/1_mask.png", "dog/images/1.png", "dog/masks/1.png", "unmask/1.png")
    assert found(tmp_path)[1] == [
        "classes whose names differ in upper and lower case alone: Cat, cat",
        f"images that are masks by their names, but are read as any other: 2, such as {tmp_path}/cat/1_mask.png",
    ]


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path, "cat/1.png", "dog/closed/1.png")
    scandir = os.scandir

    def refuse_closed(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(class_folders.os, "scandir", refuse_closed)
    assert refusal(tmp_path) == "folder: dog/closed: cannot read the folder: Permission denied"
