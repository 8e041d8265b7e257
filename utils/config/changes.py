"""What a config has changed since the checkpoint that a run resumes from."""

from utils.config.files import names_several


def optimizer_types(config):
    """The optimizer's type; {name: type} of several."""
    section = _section(config, "optimizer")
    if names_several(section):
        return {name: _section(section, name).get("type") for name in section}
    return section.get("type")


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
