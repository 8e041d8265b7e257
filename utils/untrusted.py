"""What a checkpoint may hold: plain values in one that is saved, harmless values in one that a stranger wrote.

A checkpoint is checked as a whole after it has been read, by require_harmless. An object then reads each number and
list of its state through as_count, as_number and as_list.
"""

import struct
from collections import Counter, OrderedDict
from typing import Any

from utils.errors import CheckpointError, Refused, brief, shortened

_MOST_NESTED = 100
_LONGEST_NAME = 500
_MOST_BITS = 128  # NumPy's PCG64 has integers of that size in its state
_MOST_VALUES = 2_000_000
_LEAVES = (bool, float, str, type(None))
# entries of a checkpoint in which keys may be any text, such as "\n" in a vocabulary
_ANY_KEYS_IN = ("attributes", "config", "of_other_processes")
_GENERATOR_BYTES = (5048, 5056)  # sizes of a state of torch's generator: of old versions, and of newer ones
_GENERATOR = struct.Struct("<QiiQ")  # seed, numbers left in the table, whether it is seeded, position in the table
_TABLE = 624


def as_count(value: Any, least: int = 0) -> int:
    """Return the value if it is an int of 64 bits and at least the least one. Raises ValueError otherwise."""
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"got {_shown(value)}, where a number from {least} on was expected")
    return value


def as_number(value: Any) -> float:
    """Return the value as a float. Raises ValueError unless it is an int of 64 bits or a float."""
    if type(value) not in (int, float) or (type(value) is int and abs(value) >= 2**63):
        raise ValueError(f"got {_shown(value)}, where a number was expected")
    return float(value)


def as_weight(value: Any) -> float:
    """Return the value, an int if it is whole, if it is a finite number from 0 on. Raises ValueError otherwise."""
    number = as_number(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"got {_shown(value)}, where a number from 0 on was expected")
    return int(number) if number % 1 == 0 else number


def as_list(value: Any) -> list | tuple:
    """Return the value if it is a list or tuple. Raises ValueError otherwise, also for a tensor."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"got {_shown(value)}, where a list was expected")
    return value


def _shown(value):
    if isinstance(value, str):
        return repr(value[:50])
    if type(value) is int and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


# ---- saving


def plain(value: Any, where: str = "checkpoint", copy: bool = False, depth: int = 0, any_keys: bool = False) -> Any:
    """Return the value with NumPy scalars as Python numbers. Raises CheckpointError for what cannot be saved.

    where: place of the value, for errors. copy: copy tensors to host memory, where later training does not change
    them; a copy is complete once its device is synchronized. depth: of the value in the state. any_keys: keys may be
    any text; otherwise only in some entries of the state.
    """
    import numpy as np
    import torch

    if type(value) is int and value.bit_length() > _MOST_BITS:
        raise CheckpointError(f"{where}: an integer of {value.bit_length()} bits cannot be saved")
    if value is None or type(value) in (str, bool, int, float):
        return value
    if depth > _MOST_NESTED:
        raise CheckpointError(f"{shortened(where)}: a value nested more than {_MOST_NESTED} deep cannot be saved")
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value.detach(), where, copy)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict, Counter):
        return _plain_dict(value, where, copy, depth, any_keys)
    if type(value) in (list, tuple):
        kind: Any = type(value)
        items: Any = value
        return kind(plain(item, f"{where}.{i}", copy, depth + 1, any_keys) for i, item in enumerate(items))
    raise CheckpointError(
        f"{where}: a {type(value).__module__}.{type(value).__qualname__} cannot be saved; "
        "a checkpoint holds tensors, numbers, text, lists and dicts"
    )


def _plain_tensor(tensor, where, copy):
    """A tensor that can be read again: of torch's own class, and with memory for each of its elements."""
    import torch

    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        raise CheckpointError(f"{where}: a meta, quantized or nested tensor cannot be saved")
    tensor = (tensor if type(tensor) is torch.Tensor else tensor.as_subclass(torch.Tensor)).resolve_conj().resolve_neg()
    if copy:
        return tensor.to("cpu", copy=True, non_blocking=True)
    expanded = tensor.layout == torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes()
    return tensor.clone(memory_format=torch.contiguous_format) if expanded else tensor


def _plain_dict(value, where, copy, depth, any_keys):
    """A dict of the same type, since MultiStepLR needs its Counter, with the versions in a module's state_dict."""
    new = type(value)()
    for key, item in value.items():
        if type(key) not in (str, int):
            raise CheckpointError(f"{where}: the key {brief(key)} cannot be saved; keys are text or integers")
        if not any_keys and not str(key).isprintable():
            what = f"the name {brief(key)} cannot be saved; names are one line of printable text"
            raise CheckpointError(f"{where}: {what}")
        if len(str(key)) > _LONGEST_NAME:
            raise CheckpointError(f"{where}: a key of {len(str(key))} characters cannot be saved")
        new[key] = plain(item, f"{where}.{key}", copy, depth + 1, any_keys or (depth == 0 and key in _ANY_KEYS_IN))
    if isinstance(value, OrderedDict):
        vars(new).update(vars(value))
    return new


# ---- reading


def require_harmless(state: Any, num_bytes: int = 0, also: tuple[type, ...] = ()) -> None:
    """Raise Refused unless the state is a tree of plain values and tensors. Tensors no longer require a gradient.

    num_bytes: size of the file; a file holds more values than bytes only by naming one value often, as a tree that
    refers to itself does. also: further types of values that hold no other values.
    """
    import torch

    leaves = (*_LEAVES, torch.Size, torch.device, torch.dtype, bytes, *also)
    most_values, number = _MOST_VALUES + num_bytes, 0
    left = [(state, None, 0)]  # (value, (place of its container, key), depth)
    while left:
        value, place, depth = left.pop()
        number += 1
        kind = type(value)
        if depth > _MOST_NESTED:
            raise Refused(f"it is nested more than {_MOST_NESTED} deep")
        if number + len(left) > most_values:
            raise Refused(f"it holds more than {most_values:,} values")
        if kind in (dict, OrderedDict, Counter):
            _require_names(value, place)
            if kind is not dict and vars(value):
                _require_versions(value, place)
            left += [(item, (place, key), depth + 1) for key, item in value.items()]
        elif kind in (list, tuple, set):
            left += [(item, (place, i), depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, torch.Tensor):
            if what := _harm_of_tensor(value):
                raise Refused(f"{_named(place)} is a tensor {what}")
            value.requires_grad_(False)
        elif kind is int and value.bit_length() > _MOST_BITS:
            raise Refused(f"{_named(place)} is a number of {value.bit_length()} bits")
        elif kind is not int and kind not in leaves:
            raise Refused(f"{_named(place)} is of the type {kind.__name__}")


def _require_names(value, place):
    """Raise Refused unless the keys are numbers or text, which is printable outside of _ANY_KEYS_IN."""
    for key in value:
        if type(key) not in (int, *_LEAVES) or (type(key) is int and key.bit_length() > _MOST_BITS):
            raise Refused(f"a key in {_named(place)} is of the type {type(key).__name__}")
        if type(key) is str and len(key) > _LONGEST_NAME:
            raise Refused(f"a key in {_named(place)} has {len(key)} characters")
        if type(key) is str and not key.isprintable() and not _allows_any_keys(place):
            raise Refused(f"the name {key!r} in {_named(place)} holds control characters"[:_LONGEST_NAME])


def _allows_any_keys(place):
    return place is not None and _keys(place)[0] in _ANY_KEYS_IN


def _require_versions(value, place):
    """Raise Refused unless a state_dict's only attribute is _metadata: the versions of modules, which torch reads."""
    metadata = vars(value).get("_metadata")
    fits = len(vars(value)) == 1 and type(metadata) in (dict, OrderedDict)
    for of_module in metadata.values() if fits else ():
        fits &= type(of_module) is dict and all(type(entry) in (int, *_LEAVES) for entry in of_module.values())
        fits = fits and type(of_module.get("version")) in (int, type(None))
        fits = fits and "assign_to_params_buffers" not in of_module
    if not fits:
        raise Refused(f"{_named(place)} has other attributes than the versions of a module's parts")


def _harm_of_tensor(value):
    """What keeps a tensor from being plain numbers in host memory, dense or sparse; None if nothing does."""
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.is_nested or vars(value):
        return "of a type of its own"
    if value.device.type != "cpu":
        return f"on the device {value.device.type}"
    if value.is_quantized:
        return "quantized"
    if value._backward_hooks:  # torch has no public way to ask
        return "one with hooks"
    if value.layout != torch.strided:
        return None if _is_sound(value) else "sparse, with indices that are not in it"
    if value.dtype == torch.uint8 and value.numel() in _GENERATOR_BYTES and _leaves_table(value):
        return "the state of a random generator that stands outside its table"
    return None


def _is_sound(sparse):
    """Whether the indices of a sparse tensor lie within its shape."""
    import torch

    try:
        if sparse.layout == torch.sparse_coo:
            parts = sparse._indices(), sparse._values()  # the public methods refuse a tensor that is not coalesced
            torch.sparse_coo_tensor(*parts, sparse.shape, check_invariants=True)
        else:
            by_rows = sparse.layout in (torch.sparse_csr, torch.sparse_bsr)
            outer, inner = ("crow_indices", "col_indices") if by_rows else ("ccol_indices", "row_indices")
            parts = getattr(sparse, outer)(), getattr(sparse, inner)(), sparse.values()
            torch.sparse_compressed_tensor(*parts, sparse.shape, layout=sparse.layout, check_invariants=True)
    except RuntimeError:
        return False
    return True


def _leaves_table(state):
    """Whether torch would accept the state of a generator and then read past the end of its table.

    The numbers left and the position of the next one add up to a constant, except just after seeding.
    """
    _, left, seeded, position = _GENERATOR.unpack(bytes(state.flatten()[: _GENERATOR.size].tolist()))
    accepted = seeded == 1 and 0 < left <= _TABLE and position <= _TABLE
    return accepted and left != 1 and left + position != _TABLE + 1


def _keys(place):
    """The keys that lead to a place, from the outermost one."""
    keys = []
    while place is not None:
        place, key = place
        keys.append(key)
    return keys[::-1]


def _named(place):
    """Where a value stands, such as "optimizer.state.0"."""
    name = ".".join(map(str, _keys(place))) or "it"
    return (name if name.isprintable() else repr(name))[:_LONGEST_NAME]
