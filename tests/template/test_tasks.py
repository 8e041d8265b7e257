"""new_project.py --task: what it finds in data, what it writes, and that the project trains, tests and predicts."""

import json
import re

import numpy as np
import pytest
from forked import run_forked
from PIL import Image
from task_plans import plan_for, write_table

import new_project
from base.data.image_folders import ImageFolderDataLoader
from base.data.splits import samples_to_serve
from helpers import PROJECT, SHORT, run, run_here
from made_sets import made_fashion
from parse_config import PARTS, ConfigParser
from scaffold.tasks.choose import TASKS
from scaffold.tasks.looking import choose_split, duration, duration_text, fitting_task
from scaffold.tasks.plan import as_text
from scaffold.tasks.rooms.image_model import ConvNet
from scaffold.tasks.rooms.table_model import TableNet
from utils import UserError
from utils.config.check import check_types


def made(target, *words):
    """A project for these flags, made in this process. Returns its plan."""
    plan = plan_for(*words)
    new_project.main(target, git=False, plan=plan)
    return plan


def flowers(number=60, gaps=False):
    """Rows of a column of each kind, whose target can be told from the first."""
    draw = np.random.RandomState(0)
    for i in range(number):
        kind = i % 3
        size = "" if gaps and i == 7 else round(kind + 0.1 * draw.rand(), 3)
        yield [
            f"row-{i}",
            size,
            ["red", "blue"][i % 2],
            f"2024-01-{i % 28 + 1:02}",
            i // 6,
            "",
            ["ash", "elm", "fig"][kind],
        ]


HEADER = ["name", "size", "colour", "day", "garden", "note", "tree"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tiny data for each task."""
    folder = tmp_path_factory.mktemp("given data")
    draw = np.random.RandomState(0)
    write_table(folder / "trees.csv", flowers(gaps=True), HEADER)
    write_table(folder / "prices.csv", [[i, i % 7, 3.5 * i + i % 7] for i in range(60)], ["area", "floor", "price"])
    for i in range(48):
        place = folder / "photos" / ["cat", "dog"][i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.randint(0, 80, (12, 16, 3)) + 170 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    labels = np.arange(60) % 2
    np.savez(folder / "rows.npz", x=draw.rand(60, 3) + labels[:, None], y=labels, person=np.arange(60) // 5)
    np.savez(
        folder / "shots.npz", images=draw.randint(0, 256, (60, 9, 10)).astype(np.uint8), labels=np.arange(60) * 1.5
    )
    (folder / "poem.txt").write_text("the rose is red, the violet blue.\n" * 60)
    return folder


# what is written, for each task


JOBS = {
    "table": (["trees.csv", "--target", "tree"], ["trees.csv"], "accuracy"),
    "regression": (["prices.csv", "--target", "price"], ["prices.csv"], "R2"),
    "image-folder": (["photos"], ["photos/cat", "photos/dog"], "accuracy"),
    "arrays": (["rows.npz"], ["rows.npz:x"], "accuracy"),
    "images": (["shots.npz"], ["shots.npz:images"], "R2"),
    "text": (["poem.txt"], ["--prompt", "the "], "bits"),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_it_trains_is_measured_and_predicts(job, data, tmp_path):
    words, examples, metric = JOBS[job]
    task = {"regression": "table", "images": "arrays"}.get(job, job)
    project = tmp_path / "project"
    made(project, "--task", task, "--data", data / words[0], *words[1:])
    assert not (project / "data").exists() and not (project / "notebooks").exists()
    run_forked("train.py", "-c", "config.json", *SHORT, "--set", "n_gpu=0", cwd=project)
    values = json.loads(run_forked("test.py", "--json", "-r", "latest", "-d", "cpu", cwd=project).stdout)["values"]
    assert np.isfinite([values["loss"], values[metric]]).all()
    examples = [word if job == "text" else data / word for word in examples]
    told = run_forked("predict.py", "-r", "latest", "-d", "cpu", *examples, cwd=project).stdout
    assert len(told.splitlines()) > 1


@pytest.mark.slow
def test_the_tests_and_the_lint_of_a_made_project_pass(data, tmp_path):
    made(tmp_path / "project", "--task", "table", "--data", data / "trees.csv", "--target", "tree")
    assert "3 passed" in run_forked("-m", "pytest", cwd=tmp_path / "project").stdout
    run("-m", "ruff", "check", ".", cwd=tmp_path / "project")
    run("-m", "ruff", "format", "--check", ".", cwd=tmp_path / "project")


@pytest.mark.parametrize("job", [*JOBS, "mnist"])
def test_the_config_passes_the_check_and_names_the_data_by_an_absolute_path(job, data, monkeypatch):
    words = JOBS[job][0] if job in JOBS else []
    task = {"regression": "table", "images": "arrays"}.get(job, job)
    monkeypatch.chdir(data)
    plan = plan_for("--task", task, *(["--data", *words] if words else []))
    args = plan.config["data_loader"]["args"]
    if words:
        place = next(args[key] for key in ("path", "folder", "data") if key in args)
        assert place.startswith(str(data / words[0]))
        assert args["test_split"] == args["validation_split"] == 0.2
    text = as_text({"name": "x", **plan.config})
    assert json.loads(text) == {"name": "x", **plan.config} and max(map(len, text.splitlines())) <= 160
    assert all(plan.choices.values()) and all("\n" not in line for line in [*plan.found, *plan.choices.values()])


def test_the_readme_gives_the_command_what_was_found_and_a_line_for_each_choice(data, tmp_path):
    plan = made(tmp_path / "p", "--task", "table", "--data", data / "trees.csv", "--target", "tree")
    readme = (tmp_path / "p" / "README.md").read_text()
    assert f"Made with `python new_project.py made --task table --data '{data}/trees.csv' --target tree`" in readme
    for line in [*plan.found, *(f"**{part}**: {choice}" for part, choice in plan.choices.items())]:
        assert f"- {line}\n" in readme
    assert f"python predict.py -r latest '{data}/trees.csv'" in readme
    assert "LeNet" not in readme and "first_steps" not in readme + (tmp_path / "p" / "docs" / "README.md").read_text()
    assert not (tmp_path / "p" / "docs" / "new_projects.md").exists()
    for page in [tmp_path / "p" / "README.md", *(tmp_path / "p" / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)[#)]", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_what_was_found_is_said_before_the_project_is_ready(data, tmp_path, capsys):
    made(tmp_path / "p", "--task", "table", "--data", data / "prices.csv", "--target", "price")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "found: 60 rows and 3 columns" and lines[-2] == f"p is ready in {tmp_path / 'p'}"


# tables


def test_each_kind_of_column_is_found(data):
    plan = plan_for("--task", "table", "--data", data / "trees.csv", "--target", "tree", "--group", "garden")
    args = plan.config["data_loader"]["args"]
    assert args["numeric"] == ["size"] and args["categorical"] == ["colour"] and args["fill"] == "median"
    assert args["groups"] == "garden" and "stratify" not in args
    assert (
        plan.config["arch"]["args"] | {"n_numeric": 1, "codes": [3], "out_features": 3} == plan.config["arch"]["args"]
    )
    text = "\n".join(plan.found)
    assert "60 rows and 7 columns" in text and "tree: 3 classes: ash 20, elm 20, fig 20" in text
    for line in ("name, which holds 60 different texts in", "day, which holds dates or times", "note, which is empty"):
        assert f"\nleft out: {line}" in text
    assert "missing values: 1 in size" in text


def test_classes_are_stratified_and_numbers_are_not(data):
    args = plan_for("--task", "table", "--data", data / "trees.csv", "--target", "tree").config["data_loader"]["args"]
    assert args["stratify"] == "tree" and args["task"] == "classification" and "standardize_target" not in args
    plan = plan_for("--task", "table", "--data", data / "prices.csv", "--target", "price")
    args = plan.config["data_loader"]["args"]
    assert args["task"] == "regression" and args["standardize_target"] and "stratify" not in args
    assert (
        plan.found[1]
        == f"price: numbers from 0 to {3.5 * 59 + 3:g}, on average {np.mean([3.5 * i + i % 7 for i in range(60)]):g}"
    )


# images, arrays, texts


def test_folders_called_train_and_test_are_parts_and_not_classes(data, tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in ("cat", "dog"):
            (tmp_path / part / name).symlink_to(data / "photos" / name)
    plan = plan_for("--task", "image-folder", "--data", tmp_path)
    args = plan.config["data_loader"]["args"]
    assert args["folder"] == str(tmp_path / "train") and args["test_folder"] == str(tmp_path / "test")
    assert plan.example.startswith(str(tmp_path / "test"))  # to predict for what was trained on says little
    assert "test_split" not in args and args["image_size"] == 12 and args["augment"]


def test_a_folder_called_val_beside_one_to_test_on_is_validated_on(data, tmp_path, monkeypatch):
    for part in ("train", "val", "test"):
        for name in ("cat", "dog")[: 1 if part == "val" else 2]:
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).symlink_to(data / "photos" / name)
    plan = plan_for("--task", "image-folder", "--data", tmp_path)
    config = plan.config
    args = config["data_loader"]["args"]
    assert args["test_folder"] == str(tmp_path / "test") and "validation_split" not in args
    assert "48 samples to train on, 24 to validate on; these and the test data are given" in plan.choices["split"]
    served = [ImageFolderDataLoader(**config[key]["args"]) for key in ("data_loader", "valid_data_loader")]
    assert [len(loader.dataset) for loader in served] == [48, 24] and served[0].split_validation() is None
    (tmp_path / "test").rename(tmp_path / "other")
    args = plan_for("--task", "image-folder", "--data", tmp_path).config["data_loader"]["args"]
    assert args["test_folder"] == str(tmp_path / "val") and args["validation_split"] == 0.2


def test_images_whose_classes_may_be_digits_are_not_mirrored(data, tmp_path):
    for name, place in (("0", "cat"), ("1", "dog")):
        (tmp_path / name).symlink_to(data / "photos" / place)
    plan = plan_for("--task", "image-folder", "--data", tmp_path)
    assert "augment" not in plan.config["data_loader"]["args"] and "neither shifted" in plan.choices["images"]


def test_arrays_are_found_by_their_names_or_by_the_flag(data, tmp_path):
    args = plan_for("--task", "arrays", "--data", data / "rows.npz", "--group", "person").config["data_loader"]["args"]
    assert args["data"].endswith(":x") and args["groups"].endswith(":person") and args["classes"] == [0, 1]
    arrays = np.load(data / "rows.npz")
    np.save(tmp_path / "a.npy", arrays["x"])
    np.save(tmp_path / "b.npy", arrays["y"])
    args = plan_for("--task", "arrays", "--data", tmp_path / "a.npy", "--target", tmp_path / "b.npy").config[
        "data_loader"
    ]["args"]
    assert args["target"] == str(tmp_path / "b.npy")
    np.savez(tmp_path / "c.npz", X_train=arrays["x"], y_train=arrays["y"], X_test=arrays["x"], y_test=arrays["y"])
    args = plan_for("--task", "arrays", "--data", tmp_path / "c.npz").config["data_loader"]["args"]
    assert args["test_data"].endswith(":X_test") and "test_split" not in args


def test_flags_for_arrays_leave_the_usual_names_as_they_are_and_what_is_unused_is_said(data, tmp_path):
    x, y = (np.load(data / "rows.npz")[name] for name in "xy")
    np.savez(tmp_path / "c.npz", x_train=x, y_train=y, x_test=x, y_test=y, weight=y)
    plan = plan_for("--task", "arrays", "--data", tmp_path / "c.npz", "--target", "y_train")
    args = plan.config["data_loader"]["args"]
    assert args["test_data"].endswith(":x_test") and args["test_target"].endswith(":y_test")
    assert plan.example.endswith(":x_test") and plan.found[2:] == ["left out: weight, of the same file"]
    np.savez(tmp_path / "s.npz", signal=x, y=y, subject=np.arange(60) // 5)
    plan = plan_for("--task", "arrays", "--data", tmp_path / "s.npz", "--target", "y", "--group", "subject")
    args = plan.config["data_loader"]["args"]
    assert args["data"].endswith(":signal") and args["groups"].endswith(":subject") and len(plan.found) == 2


@pytest.mark.parametrize(
    ("shape", "model"),
    [((9, 10), "ConvNet"), ((3, 9, 9), "ConvNet"), ((9, 9, 3), "ConvNet"), ((4, 100), "TableNet"), ((5,), "TableNet")],
)
def test_the_model_fits_the_shape_of_the_samples(tmp_path, shape, model):
    np.savez(tmp_path / "a.npz", x=np.random.RandomState(0).rand(40, *shape), y=np.arange(40) % 2)
    arch = plan_for("--task", "arrays", "--data", tmp_path / "a.npz").config["arch"]
    assert arch["type"] == model
    made = {"ConvNet": ConvNet, "TableNet": TableNet}[model](**arch["args"])
    import torch

    assert made(torch.rand(6, *shape)).shape == (6, 2)


def test_a_text_is_described_whole_also_after_its_last_block(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\r\n" * 400 + b"c\n")
    plan = plan_for("--task", "text", "--data", tmp_path / "a.txt")
    assert plan.found == ["1,602 bytes of text, 5 different ones, in 401 lines", "25 blocks of 64 bytes"]


def test_mnist_can_be_in_a_folder_of_its_own(tmp_path):
    plan = plan_for("--task", "mnist", "--data", PROJECT / "data")
    assert plan.config["data_loader"]["args"]["data_dir"] == str(PROJECT / "data") and not plan.keeps_mnist
    made(tmp_path / "p", "--task", "mnist", "--data", PROJECT / "data")
    config = ConfigParser.from_file(tmp_path / "p" / "config.json")
    check_types(config.config, PARTS)
    assert not (tmp_path / "p" / "data").exists() and config["name"] == "p"


# parts and durations


def test_small_classes_are_drawn_at_random_and_groups_kept_together():
    labels = ["a"] * 97 + ["b"] * 3
    assert "stratify" not in choose_split(100, "x", stratify=(True, labels)).args
    assert choose_split(100, "x", stratify=(True, ["a"] * 95 + ["b"] * 5)).args["stratify"] is True
    split = choose_split(100, "x", groups=("person", np.arange(100) // 10))
    rest = samples_to_serve(100, 0.2, True, ("", None), groups=np.arange(100) // 10)
    assert split.args["groups"] == "person" and set(split.train) < set(rest)


def test_long_epochs_are_cut():
    assert duration(1_000, 10, steps=2_000, most_epochs=100) == {"epochs": 20}
    assert duration(1_000, 10, steps=99_000, most_epochs=100) == {"epochs": 100}
    assert duration(1_000_000, 10, steps=2_000, most_epochs=100) == {"epochs": 5, "len_epoch": 400}
    assert "not of all data" in duration_text({"epochs": 5, "len_epoch": 400}, "")


def test_an_epoch_of_few_samples_is_several_passes_so_that_there_are_steps_enough(tmp_path):
    assert duration(96, 16, steps=4_000, most_epochs=100, least_steps=2_000) == {"epochs": 100, "len_epoch": 20}
    assert duration(320, 16, steps=4_000, most_epochs=100, least_steps=2_000) == {"epochs": 100}
    path = write_table(tmp_path / "t.csv", [[i, "ab"[i % 2]] for i in range(30)], ["x", "target"])
    plan = plan_for("--task", "table", "--data", path)
    trainer = plan.config["trainer"]
    assert trainer["epochs"] * trainer["len_epoch"] == 2_000
    assert "100 epochs of 20 batches, more than one pass" in plan.choices["training"]


def test_a_task_is_guessed_from_the_data(data):
    names = {"trees.csv": "table", "photos": "image-folder", "rows.npz": "arrays", "poem.txt": "text"}
    assert {name: fitting_task(str(data / name)) for name in names} == names
    assert fitting_task(str(PROJECT / "data")) == "mnist" and fitting_task("x.doc") is None


# what is refused


@pytest.fixture(scope="module")
def bad(data, tmp_path_factory):
    """Data of which nothing can be made."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "one" / "cat" / "1.png")
    for name in ("cat", "dog"):
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "1.png").write_text("no image")
        (folder / "few" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(folder / "few" / name / "1.png")
    (folder / "birds" / "owl").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "birds" / "owl" / "1.png")
    write_table(folder / "three.csv", [[1, 2], [3, 4], [5, 6]], ["x", "y"])
    write_table(folder / "wide.csv", [range(6_000)] * 2, [f"c{i}" for i in range(6_000)])
    write_table(folder / "same.csv", [[i, "a"] for i in range(30)], ["x", "y"])
    write_table(folder / "gap.csv", [[i, "" if i == 4 else "ab"[i % 2]] for i in range(30)], ["x", "y"])
    write_table(folder / "hole.csv", [[i, "" if i == 4 else i + 0.5] for i in range(30)], ["x", "y"])
    write_table(folder / "class.csv", [[i, "abc"[i % 3]] for i in range(30)], ["x", "y"])
    write_table(folder / "words.csv", [["many" if i == 2 else i, "ab"[i % 2]] for i in range(30)], ["x", "y"])
    write_table(folder / "two.csv", [[i, "ab"[i % 2]] for i in range(30)], ["x", "y"])
    write_table(folder / "number.csv", [[i, i + 0.5] for i in range(30)], ["x", "y"])
    write_table(folder / "texts.csv", [[i, f"text {i}"] for i in range(30)], ["x", "y"])
    write_table(folder / "narrow.csv", [[i] for i in range(30)], ["x"])
    write_table(folder / "groups.csv", [[i, i % 2, i % 3] for i in range(30)], ["x", "y", "who"])
    (folder / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x81\x8d")
    (folder / "nothing.csv").touch()
    (folder / "short.txt").write_text("too short")
    (folder / "zeros.txt").write_bytes(bytes(5_000))
    (folder / "torn.npz").write_bytes(b"PK\x03\x04torn")
    made_fashion(folder / "fashion")
    np.savez(folder / "odd.npz", a=np.zeros((30, 2)), b=np.zeros(30))
    np.savez(folder / "lengths.npz", x=np.zeros((30, 2)), y=np.zeros(20))
    np.savez(folder / "none.npz", x=np.zeros((0, 2)), y=np.zeros(0))
    np.savez(folder / "equal.npz", x=np.zeros((30, 2)), y=np.zeros(30))
    np.savez(folder / "nan.npz", x=np.full((30, 2), np.nan), y=np.arange(30) % 2)
    return folder


REFUSED = [
    ("--task table", "--task table: say with --data where the data are"),
    ("--data {bad}/three.csv", "--data: say with --task what the data are: image-folder, table, text, arrays, mnist"),
    ("--task tables --data x", "--task: invalid choice: 'tables'"),
    ("--task text --data {data}/poem.txt --target x", "--target: is for --task table and --task arrays"),
    ("--task table --data {bad}/\udcff.csv", ".csv: is not in UTF-8, in which configs are; rename it"),
    ("--task table --data {bad}/none.csv", "none.csv: there is no such file"),
    ("--task image-folder --data {bad}/none", "none: there is no such folder"),
    (
        "--task table --data {data}/photos",
        "photos: is a folder, and --task table needs a file; try --task image-folder",
    ),
    (
        "--task image-folder --data {data}/trees.csv",
        "is a file, and --task image-folder needs a folder; try --task table",
    ),
    ("--task image-folder --data {bad}/empty", "empty has 0 folders; it should have one for each of two classes"),
    ("--task image-folder --data {bad}/one", "one has 1 folder; it should have one for each of two classes"),
    ("--task image-folder --data {bad}/broken", "1.png: cannot be read as an image"),
    ("--task image-folder --data {bad}/few", "few: has 2 samples; parts to train, validate and test on need 20"),
    ("--task image-folder --data {data}/photos --test {bad}/birds", "birds has the classes owl, which the training"),
    ("--task table --data {bad}/three.csv --target y", "has 3 rows; parts to train, validate and test on need 20"),
    ("--task table --data {bad}/wide.csv --target c0", "has 6,000 columns; a table may have 5,000"),
    ("--task table --data {bad}/same.csv --target y", "all rows of {bad}/same.csv have the same 'y': 'a'"),
    ("--task table --data {bad}/gap.csv --target y", "row 5, column 'y': a value is missing; remove the row"),
    ("--task table --data {bad}/hole.csv --target y", "row 5, column 'y': a value is missing; remove the row"),
    (
        "--task table --data {bad}/two.csv --target y --test {bad}/class.csv",
        "row 3 (and in 9 more), column 'y': 'c' is no",
    ),
    (
        "--task table --data {bad}/two.csv --target y --test {bad}/words.csv",
        "row 3, column 'x': 'many' is not a number",
    ),
    (
        "--task table --data {bad}/number.csv --target y --test {bad}/hole.csv",
        "hole.csv: row 5, column 'y': a value is",
    ),
    ("--task table --data {bad}/texts.csv --target y", "column 'y' of {bad}/texts.csv holds 30 different texts"),
    ("--task table --data {bad}/narrow.csv --target x", "has a single column, 'x'; a table has one to"),
    ("--task table --data {bad}/groups.csv --target y --group who", "--group: holds 3 groups"),
    ("--task table --data {bad}/groups.csv --target y --group whom", "--group: {bad}/groups.csv has no column 'whom'"),
    ("--task table --data {data}/prices.csv --target prise", "has no column 'prise'; did you mean 'price'?"),
    ("--task table --data {data}/prices.csv", "--target: say which column of {data}/prices.csv to predict"),
    ("--task table --data {bad}/picture.csv --target y", "picture.csv: is not a text file; save the table as CSV"),
    ("--task table --data {bad}/nothing.csv --target y", "nothing.csv is empty"),
    ("--task text --data {bad}/short.txt", "has 9 bytes; a text to learn from has 1,281 or more"),
    ("--task text --data {bad}/zeros.txt", "is no text: it holds zero bytes"),
    ("--task arrays --data {bad}/torn.npz", "torn.npz: not a whole .npz file of arrays"),
    ("--task arrays --data {bad}/odd.npz", "--target: say which array of {bad}/odd.npz to predict; there are a, b"),
    ("--task arrays --data {bad}/lengths.npz", "has 30 samples, and the target 20"),
    ("--task arrays --data {bad}/none.npz", "none.npz:x: has 0 samples; parts to train, validate and test on need 20"),
    ("--task arrays --data {bad}/equal.npz", "all samples have the same target: 0.0"),
    ("--task arrays --data {bad}/nan.npz", "holds values that are not finite"),
    ("--task arrays --data {data}/trees.csv --target y", "trees.csv"),
    ("--task mnist --data {data}/photos", "--data: no train-images-idx3-ubyte.gz in"),
    ("--task mnist --data {bad}/fashion", "put the original file in its place; save images that are not MNIST's as "),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_data_that_will_not_do_are_refused_in_one_line(words, message, data, bad, capsys):
    spaced = str(data).replace(" ", "\0")
    words = [word.replace("\0", " ") for word in words.format(data=spaced, bad=bad).split()]
    with pytest.raises((UserError, SystemExit)) as raised:
        plan_for(*words)
    text = capsys.readouterr().err if isinstance(raised.value, SystemExit) else str(raised.value)
    assert message.format(data=data, bad=bad) in text and len(text.strip().splitlines()) == 1, text


def test_a_refusal_ends_the_command_with_status_2_and_makes_nothing(bad, tmp_path):
    words = ("--task", "table", "--data", bad / "three.csv", "--target", "y")
    done = run_here("new_project.py", tmp_path / "made", *words, status=2)
    assert done.stderr.startswith("error: --data: ") and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert not (tmp_path / "made").exists()


def test_the_page_describes_every_task():
    page = (PROJECT / "docs" / "new_projects.md").read_text()
    for task in TASKS:
        assert f"\n## `--task {task}`\n" in page and f" --task {task} " in page.partition("##")[0].replace("\n", " ")
