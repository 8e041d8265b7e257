"""Copies of a config, and configs that a script changes after they were read."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch

from helpers import tiny_config
from parse_config import PARTS, ConfigParser
from utils import read_json


@pytest.mark.parametrize("parts", [None, PARTS])
def test_a_copy_of_a_config_is_the_same_config_with_sections_of_its_own(tmp_path, parts):
    loader = {"type": "MnistDataLoader", "args": {"data_dir": "data/", "batch_size": 4}}
    sections = {"arch": {"type": "MnistModel"}, "data_loader": loader, "loss": "nll_loss"}
    first = ConfigParser(tiny_config(tmp_path) | sections, parts=parts)
    path = first.save_dir / "checkpoint-epoch1.pth"
    given = ConfigParser(first.config, path, parts=parts, new_run=True, run_id="branch", device="cpu")
    given.variants, given.keeps_nothing = ["seed 1"], True
    copied, shallow = copy.deepcopy(given), copy.copy(given)
    assert vars(copied) == vars(given) == vars(shallow) and shallow.config is given.config
    copied.config["optimizer"]["args"]["lr"] = 0.75
    assert given["optimizer"]["args"]["lr"] != 0.75 == copied.saved["optimizer"]["args"]["lr"]
    assert copied.save_dir.name == "branch" and copied.save_dir != path.parent
    reduced = pickle.loads(pickle.dumps(first))
    assert type(reduced) is ConfigParser and reduced.config == first.config


def test_a_copy_of_a_config_whose_run_has_a_folder_is_of_the_same_run(tmp_path):
    given = ConfigParser(tiny_config(tmp_path))
    assert given.save_dir == copy.deepcopy(given).save_dir


def test_a_run_keeps_what_a_script_writes_into_the_config_and_names_what_it_cannot(tmp_path, capsys):
    config = ConfigParser(tiny_config(tmp_path) | {"arch": {"type": "Net", "args": {}}})
    expected = config.config | {"sizes": [3, 4], "arch": {"type": "Net", "args": {"num_classes": 3}}, "part": {}}
    config["arch"]["args"]["num_classes"] = np.int64(3)
    config["optimizer"]["args"]["lr"] = np.float64(0.5)
    config["trainer"]["epochs"] = torch.tensor([4])
    own = {"sizes": (3, np.int32(4)), "own": logging.getLogger("own"), "part": {7: 1, "names": ["a", {1}]}}
    config.config.update(own)
    expected["optimizer"] = {"type": "SGD", "args": {"lr": 0.5, "momentum": 0.9}}
    expected["trainer"] = config["trainer"] | {"epochs": 2}
    assert config.saved == expected and type(config.saved["optimizer"]["args"]["lr"]) is float
    assert read_json(config.save_dir / "config.json") == expected
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cannot be saved" in line]
    assert line.endswith("cannot be saved: trainer.epochs, own, part.7, part.names.1")


def test_a_config_that_a_script_has_made_too_large_is_kept_as_it_was_read(tmp_path):
    config = ConfigParser(tiny_config(tmp_path))
    before = config.saved
    config.config["words"] = list(range(200_000))
    assert config.saved == before and config.save_dir
