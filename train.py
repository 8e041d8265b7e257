"""Train a model: python train.py -c config.json, or resume: python train.py -r <checkpoint>."""

import argparse
from typing import TYPE_CHECKING

from logger.console import result_shown
from parse_config import PARTS, ConfigParser, CustomArgs
from series import train_series
from utils.config.json_flag import Show, json_flag
from utils.config.train_flags import NONE_GIVEN, add_train_flags, debugging, flag_of_one_process
from utils.distributed.launch import refuse_several
from utils.distributed.start import processes_to_start, start_processes
from utils.distributed.world import joined, parallelize, process_device
from utils.errors import clean_exit
from utils.runs.checkpoint import checksum_of

if TYPE_CHECKING:
    from trainer.trainer import Trainer

# Flags for values that are changed often. A config adds others under "cli", and --set changes any value.
OPTIONS = [
    CustomArgs(["--lr", "--learning_rate"], type=float, target="optimizer;args;lr"),
    CustomArgs(["--bs", "--batch_size"], type=int, target="data_loader;args;batch_size"),
    CustomArgs(["--overfit-batches"], type=int, target="trainer;overfit_batches"),
]


def build(config: ConfigParser) -> "Trainer":
    """Build the Trainer and its parts from the config, the cheap ones first. Writes nothing; train() does."""
    # Imported here, so that --help and errors in the config need not wait for torch.
    from base.training.optimizers import build_optimizer
    from base.training.schedules import build_schedule
    from utils.runs.initial_weights import initialize
    from utils.runs.weights import on_device, unwrapped
    from utils.seed import seed_run

    seed_run(config.settings)
    device = process_device(config.settings.n_gpu, config.settings.device)

    model = parallelize(initialize(config.init_obj("arch"), config), config, device)
    criterion = on_device(config.init_loss(), device)
    metrics = [on_device(metric, device) for metric in config.init_metrics()]
    optimizer = build_optimizer(config, unwrapped(model), criterion=criterion)

    data_loader = config.init_obj("data_loader").to(device)
    valid_data_loader = data_loader.split_validation()
    if config.get("valid_data_loader"):
        valid_data_loader = config.init_obj("valid_data_loader").to(device).as_validation(beside=data_loader)
    lr_scheduler = build_schedule(config, optimizer, data_loader)

    trainer_class = config.find_type("trainer", default="Trainer")
    parts = model, criterion, metrics, optimizer, config, device, data_loader
    return trainer_class(*parts, valid_data_loader=valid_data_loader, lr_scheduler=lr_scheduler)


def main(config: ConfigParser, flags: argparse.Namespace = NONE_GIVEN, show: Show | None = None) -> None:
    """Train, or do what --check --data, --show-batch, --find-lr or --find-batch-size asks for instead."""
    trainer = build(config)
    if flags.data:
        from base.training.first_batch import look_at_data

        return look_at_data(trainer)
    if flags.show_batch:
        from base.training.debugging import show_batches

        return show_batches(trainer, flags.show_batch)
    if flags.find_lr or flags.find_batch_size:
        from base.training.tune import tune

        return tune(trainer, flags.find_lr, flags.find_batch_size)
    if flags.profile:
        from base.training.profile import Profile

        trainer.add_callback(Profile())
    with result_shown(trainer, show):
        trainer.train()


if __name__ == "__main__":
    # --folds and --seeds cannot be abbreviated, since series.py has to recognise them
    parser = argparse.ArgumentParser(description="Train the model that a config describes.", allow_abbrev=False)
    add_train_flags(parser)
    with json_flag(parser) as show, clean_exit():
        config = ConfigParser.from_args(parser, OPTIONS, parts=PARTS)
        flags = parser.parse_args()
        is_series = len(config.variants) > 1
        one_process_flag = "--folds, --seeds" if is_series else flag_of_one_process(flags)
        if one_process_flag:
            refuse_several(one_process_flag)
        processes = 1 if one_process_flag else processes_to_start(config.settings, config.get("parallel"))
        if is_series:
            with debugging(config, flags):
                train_series(config, show)
        elif processes > 1:
            start_processes(processes)
        else:
            # joined() requires the same file in all processes
            checkpoint = f"{config.resume} {checksum_of(config.resume)}" if config.resume else None
            with joined(config.config, checkpoint, config.settings.device), debugging(config, flags):
                main(config, flags, show)
