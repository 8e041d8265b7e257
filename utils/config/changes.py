"""What a config has changed since the checkpoint that a run resumes from."""

import json

from utils.config.components import metric_names
from utils.config.files import names_several

_ABSENT = object()


def differences(before, after, where=""):
    """Lines 'path: old -> new' for every value that differs between two configs."""
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        path = f"{where}.{key}" if where else str(key)
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, path)
        elif old != new:
            lines.append(f"{path}: {_as_json(old)} -> {_as_json(new)}")
    return lines


def _as_json(value):
    return "(absent)" if value is _ABSENT else json.dumps(value)


def optimizer_types(config):
    """The optimizer's type; {name: type} of several."""
    section = _section(config, "optimizer")
    if names_several(section):
        return {name: _section(section, name).get("type") for name in section}
    return section.get("type")


def monitored(config):
    """(trainer.monitor, how its value is measured); equal for two configs whose best values compare."""
    monitor = str(_section(config, "trainer").get("monitor", "off"))
    name = monitor.partition(" ")[2].removeprefix("val_")
    metrics = [config["metrics"][int(path.split(".")[1])] for path, of in metric_names(config).items() if of == name]
    return monitor, config.get("loss") if name == "loss" else metrics


def order_of_data(config):
    """All that decides which samples a batch holds; equal for two configs whose batches are the same."""
    loader, trainer = _section(config, "data_loader"), _section(config, "trainer")
    which = {key: value for key, value in _section(loader, "args").items() if key not in _HOW_DATA_ARE_READ}
    lengths = [trainer.get(key) for key in ("len_epoch", "limit_train_batches", "overfit_batches")]
    return config.get("seed"), lengths, loader.get("type"), which


_HOW_DATA_ARE_READ = {
    "device_resident",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
}


def _section(config, name):
    section = config.get(name)
    return section if isinstance(section, dict) else {}
