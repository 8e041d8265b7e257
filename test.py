"""Measure a checkpoint on the test data: python test.py -r saved/models/<name>/<run>/model_best.pth."""

import argparse
from typing import Any

from parse_config import PARTS, ConfigParser
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, shown
from utils.files import read_record, write_json


def main(config: ConfigParser, split: str, batch_size: int | None) -> None:
    """Print the loss and the metrics over a split of the data, and write them beside the checkpoint."""
    # Imported here, so that --help and an error in the config are answered without waiting for torch.
    from base.trained_model import TrainedModel
    from base.training.evaluate import evaluate, split_loader
    from base.training.loss_inputs import LossWatch
    from utils import MetricTracker, prepare_device
    from utils.runs.weights import on_device
    from utils.seed import seed_everything

    seed_everything(config.settings.seed)
    device, _ = prepare_device(config.settings.n_gpu, config.settings.device)
    checkpoint = config.load_checkpoint()
    trained = TrainedModel.of_checkpoint(checkpoint, config.config, device, config.resume)
    criterion = on_device(config.init_loss(), device)
    metrics = [on_device(metric, device) for metric in config.init_metrics()]
    loader, classes = split_loader(config.config, split, batch_size, device, trained.loader_state)

    tracker = MetricTracker.of(metrics, device)
    look = LossWatch("loss")
    values = evaluate(trained.model, criterion, metrics, loader, device, tracker, trained.precision, first_loss=look)
    position = {key: checkpoint.get(key) for key in ("epoch", "batch") if key == "epoch" or checkpoint.get(key)}
    result = {**position, "samples": len(loader.sampler), **values, **tracker.tables}
    report(config, split, result, classes)


def report(config: ConfigParser, split: str, result: dict[str, Any], classes: list | None) -> None:
    """Log a result, and add it to test_results.json beside the checkpoint: {checkpoint: {split: result}}.

    result: epoch (perhaps None), batch (of a checkpoint within an epoch), samples, and the values and tables by name.
    """
    from logger.tables import table_text

    assert config.resume is not None  # the checkpoint that was measured
    logger, path = config.get_logger("test"), config.resume.parent / "test_results.json"
    place = "" if result["epoch"] is None else f", epoch {result['epoch']}"
    within = f" and {result['batch']} batches" if "batch" in result else ""
    logger.info("%s%s%s, on %d %s samples", config.resume, place, within, result["samples"], split)
    for name, value in result.items():
        if isinstance(value, list):
            logger.info("    %s, a row for each target:\n%s", name, table_text(value, classes))
        elif name not in ("epoch", "batch", "samples"):
            logger.info("    %s: %s", name, value)
    try:
        results, damaged = read_record(path, _are_results, empty={})
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot read the earlier results: {error.strerror}") from None
    results.setdefault(config.resume.name, {})[split] = result
    write_json(results, path)
    if damaged:
        logger.warning("%s is damaged and was moved to %s", path, damaged)
    logger.info("written to %s", path)


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
        built = {name: part for name, part in PARTS.items() if name != "trackers"}  # their packages may be missing
        config = ConfigParser.from_args(parser, parts=built, also_logged=None)
        arguments = parser.parse_args()
        if config.resume is None:
            raise UserError("nothing to test; give a checkpoint with -r")
        main(config, arguments.split, arguments.bs)
