"""What a config has changed since the checkpoint that a run resumes from."""

from typing import Any

from utils.config.components import args_of, dict_at, metric_names
from utils.config.files import names_several

_HOW_DATA_ARE_READ = {
    "device_resident",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
}


def optimizer_types(config: dict[str, Any]) -> Any:
    """Return the optimizer's type; {name: type} of several optimizers."""
    section = dict_at(config, "optimizer")
    if names_several(section):
        return {name: dict_at(section, name).get("type") for name in section}
    return section.get("type")


def monitored(config: dict[str, Any]) -> tuple[str, Any]:
    """Return (trainer.monitor, how its value is measured); equal for two configs whose best values compare."""
    monitor = str(dict_at(config, "trainer").get("monitor", "off"))
    name = monitor.partition(" ")[2].removeprefix("val_")
    metrics = [config["metrics"][int(path.split(".")[1])] for path, of in metric_names(config).items() if of == name]
    return monitor, config.get("loss") if name == "loss" else metrics


def order_of_data(config: dict[str, Any]) -> tuple[Any, ...]:
    """Return all values that decide which samples a batch holds; equal for two configs with the same batches."""
    args, trainer = args_of(config, "data_loader"), dict_at(config, "trainer")
    which = {key: value for key, value in args.items() if key not in _HOW_DATA_ARE_READ}
    lengths = [trainer.get(key) for key in ("len_epoch", "limit_train_batches", "overfit_batches")]
    return config.get("seed"), lengths, dict_at(config, "data_loader").get("type"), which
