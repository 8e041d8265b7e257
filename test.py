"""Measure a checkpoint on the test data: python test.py -r saved/models/<name>/<run>/model_best.pth."""

import argparse
from typing import Any

from parse_config import PARTS, ConfigParser
from utils.config.json_flag import json_flag
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit


def main(config: ConfigParser, split: str, batch_size: int | None) -> dict[str, Any]:
    """Return the loss and the metrics over a split of the data, after they are logged and written to a file."""
    # Imported here, so that --help and an error in the config are answered without waiting for torch.
    from base.trained_model import TrainedModel
    from base.training.evaluate import evaluate, split_loader
    from base.training.examine import Examination
    from base.training.loss_inputs import LossWatch
    from base.training.summary import num_samples_of
    from logger.report import renew_report
    from logger.results import as_object, record_result
    from utils import MetricTracker, prepare_device
    from utils.runs.weights import load_loss, on_device
    from utils.seed import seed_everything

    seed_everything(config.settings.seed)
    device, _ = prepare_device(config.settings.n_gpu, config.settings.device)
    checkpoint = config.load_checkpoint()
    trained = TrainedModel.of_checkpoint(checkpoint, config.config, device, config.resume)
    criterion = on_device(config.init_loss(), device)
    load_loss(criterion, checkpoint, config.config)
    metrics = [on_device(metric, device) for metric in config.init_metrics()]
    loader, classes = split_loader(config.config, split, batch_size, device, trained.loader_state)

    tracker = MetricTracker.of(metrics, device)
    examination = Examination(trained, loader, split)
    parts = trained.model, criterion, metrics, loader, device, tracker, trained.precision
    values = evaluate(*parts, first_loss=LossWatch("loss"), observe=examination.add)
    position = {key: checkpoint.get(key) for key in ("epoch", "batch") if key == "epoch" or checkpoint.get(key)}
    result = {**position, "samples": num_samples_of(loader) or examination.num_samples, **values, **tracker.tables}
    assert config.resume is not None  # the checkpoint that was measured
    logger = config.get_logger("test")
    record_result(config.resume, split, result, classes, logger)
    if config["trainer"].get("report", True):
        renew_report(config.resume, examination.details, logger)
    return as_object(config.resume, split, result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a checkpoint on data that it was not trained on.")
    parser.add_argument("-r", "--resume", metavar="CHECKPOINT", help="checkpoint or run folder; 'latest' or 'best'")
    parser.add_argument("-c", "--config", metavar="FILE", help="config whose values replace the checkpoint's")
    parser.add_argument("-d", "--device", metavar="DEVICE", help="GPUs to use, as in 2,3; or auto, cpu, cuda, mps")
    parser.add_argument("--split", choices=["test", "valid", "train"], default="test", help="which samples (test)")
    parser.add_argument("--bs", "--batch_size", type=int, metavar="N", help="batch size, by default the config's")
    with json_flag(parser, alone=True) as show, clean_exit():
        refuse_several("test.py")
        built = {name: part for name, part in PARTS.items() if name != "trackers"}  # their packages may be missing
        config = ConfigParser.from_args(parser, parts=built, also_logged=None)
        arguments = parser.parse_args()
        if config.resume is None:
            raise UserError("nothing to test; give a checkpoint with -r")
        result = main(config, arguments.split, arguments.bs)
        if show:
            show(result)
