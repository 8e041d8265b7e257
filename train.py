"""Train a model: python train.py -c config.json, or go on: python train.py -r <checkpoint>."""

import argparse

from parse_config import PARTS, ConfigParser, CustomArgs
from series import train_series
from utils.config.debug_flags import NONE_GIVEN, add_debug_flags, debugging, flag_of_one_process
from utils.distributed.launch import processes_to_start, refuse_several, start_processes
from utils.distributed.process_group import joined
from utils.errors import clean_exit
from utils.runs.checkpoint import checksum_of

RESUME_HELP = "checkpoint or run folder to go on from; 'latest'; or 'auto': the newest run of the config's name, if any"


def main(config, flags=NONE_GIVEN):
    """Build what the config names, cheap parts first, and train, or do what one of the flags asks for instead."""
    # Imported here, so that --help and a mistake in the config are answered without waiting for torch.
    import torch

    import data_loader.data_loaders as module_data
    import model.loss as module_loss
    import model.metric as module_metric
    import model.model as module_arch
    import trainer.trainer as module_trainer
    from base.training.debugging import show_batches
    from base.training.model_summary import example_input, model_summary
    from base.training.optimizers import build_optimizer
    from base.training.profile import add_profile
    from base.training.schedules import build_schedule
    from base.training.sharing import describe_batches
    from base.training.tune import search
    from utils.distributed.parallel import parallelize
    from utils.distributed.process_group import process_device
    from utils.distributed.shards import is_sharded
    from utils.distributed.world import is_main
    from utils.runs.initial_weights import load_initial_weights
    from utils.runs.weights import unwrapped
    from utils.seed import make_deterministic, seed_everything

    settings = config.settings
    seed_everything(settings.seed)
    if settings.deterministic:
        make_deterministic()
    device = process_device(settings)

    # the model, and what trains and measures it
    model = config.init_obj("arch", module_arch)
    if config.resume is None and config.get("init_weights"):
        config.get_logger("weights").info(load_initial_weights(model, **config["init_weights"]))
    model = parallelize(model, config, device)
    criterion = config.init_loss(module_loss)
    if isinstance(criterion, torch.nn.Module):
        criterion = criterion.to(device)
    metrics = config.init_metrics(module_metric)
    optimizer = build_optimizer(config, unwrapped(model))

    # the data
    data_loader = config.init_obj("data_loader", module_data).to(device)
    valid_data_loader = data_loader.split_validation()
    if config.get("valid_data_loader"):
        valid_data_loader = (
            config.init_obj("valid_data_loader", module_data).to(device).as_validation(beside=data_loader)
        )
    if flags.show_batch:
        return show_batches(flags.show_batch, config, data_loader, valid_data_loader)
    if flags.find_lr or flags.find_batch_size:
        return search(
            config,
            module_trainer,
            model,
            criterion,
            optimizer,
            data_loader,
            device,
            flags.find_lr,
            flags.find_batch_size,
        )
    lr_scheduler = build_schedule(config, optimizer, data_loader)
    example = example_input(data_loader, device)
    summary = model_summary(unwrapped(model), example)

    # the run
    trainer = config.find_type("trainer", module_trainer, "Trainer")(
        model,
        criterion,
        metrics,
        optimizer,
        config,
        device,
        data_loader,
        valid_data_loader=valid_data_loader,
        lr_scheduler=lr_scheduler,
    )
    trainer.logger.info("%s\n", summary)
    trainer.logger.info("run %s on %s, seed %d", config.save_dir, device, settings.seed)
    for line in describe_batches(data_loader, config["trainer"].get("accumulate", 1)):
        trainer.logger.info("%s", line)
    if config.resume is None and example is not None and not is_sharded(model):
        trainer.writer.add_graph(unwrapped(model), example)
    if flags.profile and is_main():
        add_profile(trainer)
    trainer.train()


if __name__ == "__main__":
    # without abbreviations, since the runs of a series get the flags that it was given
    parser = argparse.ArgumentParser(description="Train a model as a config says.", allow_abbrev=False)
    parser.add_argument("-c", "--config", metavar="FILE", help="config file: .json, .yaml or .toml")
    parser.add_argument("-r", "--resume", metavar="CHECKPOINT", help=RESUME_HELP)
    parser.add_argument("--weights-only", action="store_true", help="take only the weights of -r, into a new run")
    parser.add_argument("-d", "--device", metavar="DEVICE", help="GPUs to use, as in 2,3; or auto, cpu, cuda, mps")
    parser.add_argument("--fold", dest="_fold", metavar="K/N", help="validate on the Kth of N parts of the data")
    parser.add_argument(
        "--folds", dest="_folds", type=int, metavar="N", help="a run for each of N folds, and their mean"
    )
    parser.add_argument(
        "--seeds", dest="_seeds", type=int, metavar="N", help="a run for each of N seeds, and their mean"
    )
    options = [
        CustomArgs(["--lr", "--learning_rate"], type=float, target="optimizer;args;lr"),
        CustomArgs(["--bs", "--batch_size"], type=int, target="data_loader;args;batch_size"),
        CustomArgs(["--overfit-batches"], type=int, target="trainer;overfit_batches"),
    ]
    add_debug_flags(parser)
    with clean_exit():
        config = ConfigParser.from_args(parser, options, parts=PARTS)
        flags = parser.parse_args()
        alone = "--folds, --seeds" if len(config.variants) > 1 else flag_of_one_process(flags)
        if alone:
            refuse_several(alone)
        processes = 1 if alone else processes_to_start(config.settings, config.get("parallel"))
        if len(config.variants) > 1:
            with debugging(config, flags):
                train_series(config)
        elif processes > 1:
            start_processes(processes)
        else:
            checkpoint = config.resume and f"{config.resume} {checksum_of(config.resume)}"
            with joined(config.config, checkpoint, config.settings.device), debugging(config, flags):
                main(config, flags)
