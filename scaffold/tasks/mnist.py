"""--task mnist: the default job, on MNIST of the template or in a folder of yours."""

import json
import re

from base.data.mnist_files import read_mnist
from scaffold.tasks.looking import require_kind
from scaffold.tasks.plan import Plan
from scaffold.template import TEMPLATE
from utils.errors import UserError


def plan(command: str, data: str | None = None) -> Plan:
    """Return the plan for MNIST. data: folder of its files; by default a copy of the template's."""
    if data is not None:
        require_kind(data, "mnist")
    place = str(TEMPLATE / "data") if data is None else data
    try:
        counts = [f"{len(read_mnist(place, training)[0]):,}" for training in (True, False)]
    except UserError as error:
        text = re.sub(r"^(data_dir: )?", "--data: ", str(error))
        other = "; save images that are not MNIST's as x_train, y_train, x_test and y_test in a .npz file"
        raise UserError(text + f"{other}, for --task arrays" * ("MD5" in text)) from None
    config = json.loads((TEMPLATE / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in ("$schema", "name", "description")}
    if data is not None:
        config["data_loader"]["args"]["data_dir"] = data
    found = [f"{counts[0]} images of handwritten digits to train on, {counts[1]} to test on, of 28 x 28 pixels"]
    choices = {
        "split": "a tenth of the training images, drawn at random, to validate on; the test images are given",
        "model": "a small LeNet, which reaches 99.1 % on the test images",
        "metrics": "accuracy, and top_k_acc: whether the digit is among the three most probable",
        "training": "12 epochs, about 35 s on two CPU cores; the learning rate falls by a fifth each epoch",
    }
    return Plan(command, found, choices, config, {}, "docs/drawing.png", keeps_mnist=data is None)
