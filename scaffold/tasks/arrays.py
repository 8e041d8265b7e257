"""--task arrays: predict one array from another, in .npy or .npz files of NumPy."""

import shlex
from typing import Any

import numpy as np

from base.data.arrays import read_array
from base.data.labels import text_of
from scaffold.tasks.images import OPTIMIZER, convolutions
from scaffold.tasks.looking import (
    Split,
    choose_split,
    duration_text,
    measures,
    numbers_text,
    require_kind,
    require_samples,
    shares,
)
from scaffold.tasks.plan import ABOUT_R_SQUARED, Plan, config_for, loaders_file, room, with_r_squared
from scaffold.tasks.rows import ABOUT, table_net
from utils.errors import UserError, brief, quantity, shortened, shown

# names that people give to (data, target, data to test on, target to test on)
_NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_data", "train_target", "test_data", "test_target"),
    ("x", "y", "", ""),
    ("data", "target", "test_data", "test_target"),
    ("data", "labels", "", ""),
    ("images", "labels", "", ""),
    ("features", "labels", "", ""),
]
_KEYS = ("data", "target", "test_data", "test_target")  # of what _NAMES lists
_MAX_FEATURES = 100_000
_FEW_CLASSES = 20
_LOOKED_AT = 10_000  # samples, of data that may be larger than memory
_SMALLEST_IMAGE = 8  # pixels


def plan(command: str, data: str, target: str | None = None, group: str | None = None) -> Plan:
    """Return the plan for arrays. target, group: the name of an array in the .npz file, or a .npy file."""
    require_kind(data, "arrays")
    places = _places(data, target, group)
    rows, targets = read_array(places["data"], "--data"), _targets(places["target"])
    _require_fitting(rows, targets, places)
    classes, labels = _classes(targets)
    names = [] if classes is None else [str(value) for value in classes]
    counts = [] if classes is None else np.bincount(labels, minlength=len(classes)).tolist()
    split = choose_split(
        len(rows),
        data,
        stratify=(True, labels) if classes is not None and group is None else None,
        groups=None if group is None else _groups(data, group, len(rows)),
        tested={f"test_{name}": places[f"test_{name}"] for name in ("data", "target")}
        if "test_data" in places
        else None,
    )
    out_features = 1 if classes is None else len(classes)
    arch, optimizer, batch_size, length, about_model, dtype = _network(rows, split, out_features)
    args: dict[str, Any] = {"data": places["data"], "target": places["target"], "batch_size": batch_size, **split.args}
    args |= {} if dtype is None else {"dtype": dtype}
    if classes is not None:
        args["classes"] = classes
        metrics, monitor, why = measures(len(classes), counts, few=len(rows) < 1_000)
        described = shares(names, counts)
    else:
        args |= {"target_dtype": "float32", "target_as_column": targets.ndim == 1}
        metrics, monitor = [{"type": "RSquared", "name": "R2"}], "min val_loss"
        why = ABOUT_R_SQUARED
        mean, std = float(targets[split.train].mean()), float(targets[split.train].std())
        if std == 0:
            raise UserError(f"--target: {shown(places['target'])}: all targets to train on are equal, {mean:g}")
        described = numbers_text(targets, mean)
        arch["args"] |= {"target_mean": _short(mean), "target_std": _short(std)}
    config = config_for(
        "Predicts one array from another",
        arch=arch,
        loaders={"data_loader": {"type": "ArrayDataLoader", "args": args}},
        optimizer=optimizer,
        loss="torch.nn.MSELoss" if classes is None else "cross_entropy",
        metrics=metrics,
        length=length,
        monitor=monitor,
        histograms=20,
    )
    task = "regression, since the target holds" if classes is None else "classification, since the target holds"
    choices = {
        "task": f"{task} {'numbers' if classes is None else 'texts or whole numbers of which each occurs often'}",
        "split": split.text,
        "model": about_model,
        "metrics": why,
        "training": duration_text(length, f"with {batch_size} samples in a batch; the learning rate falls to 0"),
    }
    found = [
        f"{shown(places['data'])}: {len(rows):,} samples {_shape(rows.shape[1:])} of {rows.dtype}",
        f"{shown(places['target'])}: {described}",
        *_unused(places, data, group),
    ]
    rooms = {
        "model/model.py": room("table_model.py" if arch["type"] == "TableNet" else "image_model.py"),
        "data_loader/data_loaders.py": loaders_file("ArrayDataLoader", "base/data/arrays.py"),
    }
    if classes is None:
        rooms["model/metric.py"] = with_r_squared()
    example = places.get("test_data", places["data"])
    return Plan(command, found, choices, config, rooms, shlex.quote(shown(example)))


def _places(data: str, target: str | None, group: str | None) -> dict[str, str]:
    """{"data", "target" and perhaps "test_data", "test_target": place of the array, as read_array takes it}.

    group: the array of groups, which is no data.
    """
    if not data.endswith(".npz"):
        if target is None:
            raise UserError(f"--target: say which .npy file holds the targets of {shown(data)}")
        return {"data": data, "target": _beside(data, target)}
    names = _names_in(data)
    lower = {name.lower(): name for name in names}
    named = (row for row in _NAMES if row[0] in lower and row[1] in lower)
    usual = next((row for row in named if target is None or lower[row[1]] == target), None)
    if usual is not None:
        number = 4 if usual[2] in lower and usual[3] in lower else 2
        return {key: f"{data}:{lower[name]}" for key, name in zip(_KEYS[:number], usual, strict=False)}
    if target is None:
        listed = ", ".join(map(shown, names))
        raise UserError(f"--target: say which array of {shown(data)} to predict; there are {listed}")
    others = [name for name in names if name not in (target, group) and name.lower() not in ("group", "groups")]
    if len(others) != 1:
        others = [name for name in others if name.lower() in {row[0] for row in _NAMES}]
        if len(others) != 1:
            raise UserError(
                f"--data: {shown(data)} holds {', '.join(map(shown, names))}; save data as 'x' and target as 'y'"
            )
    return {"data": f"{data}:{others[0]}", "target": _beside(data, target)}


def _unused(places: dict[str, str], data: str, group: str | None) -> list[str]:
    """A line on the arrays of the .npz file that are neither learned from nor tested on."""
    if not data.endswith(".npz"):
        return []
    used = {place.removeprefix(f"{data}:") for place in places.values()} | {group}
    names = [shown(name) for name in _names_in(data) if name not in used]
    return [f"left out: {shortened(', '.join(names))}, of the same file"] if names else []


def _beside(data: str, name: str) -> str:
    """The place of an array that a flag names: within the .npz file, or a .npy file."""
    if data.endswith(".npz") and not name.endswith(".npy"):
        return f"{data}:{name}"
    from scaffold.tasks.choose import absolute

    return absolute(name)


def _names_in(path: str) -> list[str]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return list(arrays)
    except Exception as error:  # NumPy raises many kinds for a damaged file
        raise UserError(f"--data: {shown(path)}: not a whole .npz file of arrays: {brief(str(error))}") from None


def _targets(place: str) -> np.ndarray:
    targets = text_of(read_array(place, "--target"), f"--target: {shown(place)}")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0] if targets.dtype.kind in "biuU" else targets
    if targets.ndim > 2 or (targets.ndim == 2 and targets.shape[1] != 1):
        raise UserError(
            f"--target: {shown(place)} is {_shape(targets.shape)}; it should have one value for each sample"
        )
    if targets.dtype.kind == "f" and not np.isfinite(targets).all():
        raise UserError(f"--target: {shown(place)} holds values that are not finite; remove these samples")
    return targets


def _require_fitting(rows: np.ndarray, targets: np.ndarray, places: dict[str, str]) -> None:
    where = f"--data: {shown(places['data'])}"
    if rows.ndim < 2 or rows.dtype.kind not in "biuf":
        raise UserError(
            f"{where} is {rows.dtype} {_shape(rows.shape)}; it should be numbers, with a row for each sample"
        )
    if len(rows) != len(targets):
        raise UserError(
            f"{where} has {quantity(len(rows), 'sample')}, and the target {len(targets):,}; both should have as many"
        )
    require_samples(len(rows), places["data"])
    if (number := int(np.prod(rows.shape[1:]))) > _MAX_FEATURES:
        raise UserError(f"{where} has {number:,} numbers in a sample; at most {_MAX_FEATURES:,} will do")
    if rows.dtype.kind == "f" and not np.isfinite(rows[:_LOOKED_AT]).all():
        raise UserError(f"{where} holds values that are not finite; replace them, as by the mean of their column")


def _classes(targets: np.ndarray) -> tuple[list[Any] | None, np.ndarray]:
    """(classes as a config holds them, class number of each sample); (None, ...) for targets that are numbers."""
    values, labels = np.unique(targets, return_inverse=True)
    whole = targets.dtype.kind in "biuU" or bool((targets % 1 == 0).all())
    often = len(values) <= max(_FEW_CLASSES, len(targets) // 50)
    consecutive = len(values) <= _FEW_CLASSES or targets.dtype.kind == "U" or values[-1] - values[0] == len(values) - 1
    if targets.dtype.kind == "f" and len(values) > _FEW_CLASSES:
        return None, labels
    if not (whole and often and consecutive):
        if targets.dtype.kind == "U":
            raise UserError(
                f"--target: holds {len(values)} different texts in {len(targets)} samples; classes occur often"
            )
        return None, labels
    if len(values) < 2:
        raise UserError(f"--target: all samples have the same target: {brief(values[0].item())}")
    return values.tolist(), labels.ravel()


def _groups(data: str, group: str, length: int) -> tuple[str, np.ndarray]:
    place = _beside(data, group)
    groups = read_array(place, "--group")
    if groups.shape != (length,):
        raise UserError(
            f"--group: {shown(place)} is {_shape(groups.shape)}; it should have an id for each of {length:,} samples"
        )
    return place, groups


def _network(
    rows: np.ndarray, split: Split, out_features: int
) -> tuple[dict[str, Any], dict[str, Any], int, dict[str, int], str, str | None]:
    """(sections arch and optimizer, batch size, duration, what to say about the model, dtype of the loader or None)."""
    shape, num_train = rows.shape[1:], len(split.train)
    dtype = "float32" if rows.dtype.kind in "biu" and rows.dtype != np.uint8 else None
    last = len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
    height, width = shape[:2] if last else shape[-2:] if len(shape) in (2, 3) else (0, 0)
    channels = 1 if len(shape) == 2 else shape[2] if last else shape[0]
    if min(height, width) < _SMALLEST_IMAGE or channels > 4:
        arch, optimizer, batch_size, length = table_net(num_train, out_features, int(np.prod(shape)))
        arch["args"]["standardize"] = True
        about = f"{ABOUT}; it scales each number by its mean and deviation in training"
        return arch, optimizer, batch_size, length, about, dtype
    arch, batch_size, length = convolutions(num_train, out_features, channels, height, width)
    some = np.asarray(rows[split.train[:: -(-num_train // _LOOKED_AT)]], np.float64)
    some = some / 255 if rows.dtype == np.uint8 else some  # as the loader does
    arch["args"] |= {"pixel_mean": _short(some.mean()), "pixel_std": _short(some.std() or 1.0)}
    if last:
        arch["args"]["channels_are_last"] = True
    about = f"a small convolutional network, since a sample {_shape(shape)} is like an image"
    return arch, OPTIMIZER, batch_size, length, about, dtype


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "a single number"
