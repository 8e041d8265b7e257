"""Measure a checkpoint on the test data: python test.py -r saved/models/<name>/<run>/model_best.pth."""

import argparse
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parse_config import PARTS, ConfigParser
from utils.config.schema import OTHER_LOADERS
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, shown
from utils.json_io import read_record, write_json

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader


def main(config: ConfigParser, split: str, batch_size: int | None) -> None:
    """Print the loss and the metrics over a split of the data, and write them beside the checkpoint."""
    # Imported here, so that --help and a mistake are answered without waiting for torch.
    import torch

    import data_loader.data_loaders as module_data
    import model.loss as module_loss
    import model.metric as module_metric
    import model.model as module_arch
    from base.training.evaluate import evaluate
    from base.training.precision import apply_switches
    from logger.tables import table_text
    from utils import MetricTracker, prepare_device
    from utils.config.schema import TrainerSettings
    from utils.rules import precision_error
    from utils.runs.weights import load_weights
    from utils.seed import seed_everything

    logger = config.get_logger("test")
    settings = config.settings
    seed_everything(settings.seed)
    device, _ = prepare_device(settings.n_gpu, settings.device)

    model = config.init_obj("arch", module_arch)
    checkpoint = config.load_checkpoint()
    load_weights(model, checkpoint["state_dict"])
    model = model.to(device)
    trained_with = TrainerSettings.model_validate(config["trainer"])
    precision = "fp32" if precision_error(trained_with.precision, device.type) else trained_with.precision
    apply_switches(model, trained_with.model_copy(update={"compile": False, "precision": precision}), device)
    criterion = config.init_loss(module_loss)
    if isinstance(criterion, torch.nn.Module):
        criterion = criterion.to(device)
    metrics = config.init_metrics(module_metric)
    loader = build_loader(config, module_data, split, batch_size, device)

    tracker = MetricTracker.of(metrics, device)
    values = evaluate(model, criterion, metrics, loader, device, tracker, precision)
    samples = len(loader.sampler)
    place = f", epoch {checkpoint['epoch']}" if "epoch" in checkpoint else ""
    within = f" and {checkpoint['batch']} batches" if checkpoint.get("batch") else ""
    logger.info("%s%s%s, on %d %s samples", config.resume, place, within, samples, split)
    for name, value in values.items():
        logger.info("    %s: %s", name, value)
    for name, rows in tracker.tables.items():
        logger.info("    %s, a row for each target:\n%s", name, table_text(rows, loader.classes))
    trained = {"epoch": checkpoint.get("epoch")} | ({"batch": checkpoint["batch"]} if within else {})
    result = {**trained, "samples": samples, **values, **tracker.tables}
    results = config.resume.parent / "test_results.json"
    damaged = record_result(results, config.resume.name, split, result)
    if damaged:
        logger.warning("%s was not what this program wrote: it is %s now", results, damaged)
    logger.info("written to %s", results)


def build_loader(
    config: ConfigParser, module_data: ModuleType, split: str, batch_size: int | None, device: "torch.device"
) -> "DataLoader":
    """The loader over one split, in a fixed order; its classes are the names of the classes, or None.

    Raises UserError if the config's loader has no such split.
    """
    separate = f"{split}_data_loader"
    name = separate if separate in OTHER_LOADERS and config.get(separate) else "data_loader"
    args = config[name].setdefault("args", {})
    if batch_size is not None:
        args["batch_size"] = batch_size
    if split == "test":
        args |= test_arguments(config, module_data, name)
    loader = config.init_obj(name, module_data).to(device)
    of_split = loader.as_validation() if split != "valid" or name == separate else loader.split_validation()
    if of_split is None:
        raise UserError("--split valid: the config sets no samples aside: data_loader.args.validation_split is 0")
    of_split.classes = getattr(loader, "classes", None)
    return of_split


def test_arguments(config: ConfigParser, module_data: ModuleType, name: str) -> dict[str, Any]:
    """What makes the section's loader one of all the test data, {argument: value}. Raises UserError if it has none."""
    known, given = config.parameters(name, module_data), config[name]["args"]
    if "training" not in known and name == "data_loader":
        loader = config[name]["type"]
        raise UserError(
            f"--split test: {loader} has no 'training' argument, and there is no test_data_loader; "
            "use --split valid or train"
        )
    arguments = {"training": False if name == "data_loader" else given.get("training", False)}
    if not config.find_type(name, module_data).fits_on_training_part:
        arguments |= {"validation_split": 0, "fold": None}
    return {key: value for key, value in arguments.items() if key in known}


def record_result(path: Path, checkpoint: str, split: str, result: dict[str, Any]) -> Path | None:
    """Put a result into the file, {checkpoint: {split: result}}, beside those of other checkpoints and splits.

    Returns where a file that is not such a one was moved, else None.
    """
    try:
        results, damaged = read_record(path, _are_results, empty={})
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot read the earlier results: {error.strerror}") from None
    results.setdefault(checkpoint, {})[split] = result
    write_json(results, path)
    return damaged


def _are_results(content):
    return isinstance(content, dict) and all(isinstance(splits, dict) for splits in content.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a checkpoint on data that it was not trained on.")
    parser.add_argument("-r", "--resume", metavar="CHECKPOINT", help="checkpoint or run folder to test, or 'latest'")
    parser.add_argument("-c", "--config", metavar="FILE", help="config whose values replace the checkpoint's")
    parser.add_argument("-d", "--device", metavar="DEVICE", help="GPUs to use, as in 2,3; or auto, cpu, cuda, mps")
    parser.add_argument("--split", choices=["test", "valid", "train"], default="test", help="which samples (test)")
    parser.add_argument("--bs", "--batch_size", type=int, metavar="N", help="batch size, by default the config's")
    with clean_exit():
        refuse_several("test.py")
        built = {name: part for name, part in PARTS.items() if name != "trackers"}  # whose packages may not be here
        config = ConfigParser.from_args(parser, parts=built, also_logged=None)
        arguments = parser.parse_args()
        if config.resume is None:
            raise UserError("nothing to test; give a checkpoint with -r")
        main(config, arguments.split, arguments.bs)
