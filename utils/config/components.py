"""Find the objects that a config describes, as {"type": ..., "args": {...}}, wherever they stand in it.

What is not of the right form is left out here; the schema's forms tell of it.
"""

from utils.config.files import names_several
from utils.errors import UserError, brief

MAX_ENTRIES = 100  # of a list whose entries are looked up by name


def dict_at(section, key):
    """The dict that stands at the key; an empty one if something else does, as the form of values tells."""
    return section[key] if isinstance(section.get(key), dict) else {}


def args_of(config, name):
    """The args of a section."""
    return dict_at(dict_at(config, name), "args")


def entries(value):
    """The entries of a list, as many as it may have; none of anything else."""
    return value[:MAX_ENTRIES] if isinstance(value, list) else []


def objects_in(config, name):
    """{path: what stands there} of a section: the entries of a list, several objects under names, or itself."""
    section = config.get(name)
    if isinstance(section, list):
        return {f"{name}.{i}": entry for i, entry in enumerate(entries(section))}
    if names_several(section):
        return {f"{name}.{key}": entry for key, entry in section.items()}
    return {name: section}


def is_spec(value):
    """Whether it is {"type": ..., "args": ...} in the right form."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("args", {}), dict)


def specs_in(config, name, default=None):
    """The same of those that have the form of {"type": ..., "args": ...}; a bare name is one without args.

    default: the type of an object that names none.
    """
    named = {
        path: {"type": value} if isinstance(value, str) else value for path, value in objects_in(config, name).items()
    }
    if default:
        named = {path: {"type": default, **value} for path, value in named.items() if isinstance(value, dict)}
    return {path: value for path, value in named.items() if is_spec(value)}


def nested_specs(args):
    """(keys that lead there, spec) of each object {"type": ..., "args": ...} among arguments."""
    for key, value in args.items():
        places = {(key, i): item for i, item in enumerate(value)} if isinstance(value, list) else {(key,): value}
        yield from ((place, item) for place, item in places.items() if is_spec(item))


def metric_name(spec):
    """What a metric is called in logs."""
    return spec.get("name") or last_word(spec["type"])


def metric_names(config):
    """{path: what it is called in logs} of the metrics that have the right form."""
    names = {path: metric_name(spec) for path, spec in specs_in(config, "metrics").items()}
    return {path: name for path, name in names.items() if isinstance(name, str)}


def last_word(name):
    """The name of a class without its module; "" for what is no name."""
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def as_spec(path, section):
    """A section as {"type": ..., "args": ...}; a bare name is short for one without args. Raises UserError."""
    spec = {"type": section} if isinstance(section, str) else section
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        example = '{"type": ..., "args": {...}}'
        raise UserError(f"{path}: got {brief(section)}; it should be an object such as {example}")
    return spec
