"""Values of a stranger's file, checked before anything uses them.

A checkpoint is checked as a whole when it has been read: require_harmless. What an object takes from its state it takes
through as_count, as_number and as_list.
"""

import struct
from collections import Counter, OrderedDict

from utils.errors import Refused

MOST_NESTED = 100
LONGEST_NAME = 500
MOST_BITS = 128  # as NumPy's PCG64 has in its state
_MOST_VALUES = 2_000_000
_LEAVES = (bool, float, str, type(None))
_STATES_OF_THEIR_OWN = ("attributes", "config")  # in which a key may be any text, as "\n" in a vocabulary
_METADATA = {"_metadata"}  # the only attribute of a module's state: the versions of its parts
_GENERATOR_BYTES = (5048, 5056)  # before and since the last number of a pair of normal ones was kept as a float too
_GENERATOR = struct.Struct("<QiiQ")  # seed, numbers left in the table, whether it is seeded, place in the table
_TABLE = 624


def as_count(value, least=0):
    """The value, if it is an int of 64 bits and not below the least one. Raises ValueError for anything else."""
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"got {_shown(value)}, where a number from {least} on was expected")
    return value


def as_number(value):
    """The value as a float. Raises ValueError unless it is a number."""
    if type(value) not in (int, float) or (type(value) is int and abs(value) >= 2**63):
        raise ValueError(f"got {_shown(value)}, where a number was expected")
    return float(value)


def as_list(value):
    """The value, if it is a list or tuple; a tensor would be one too, of many tensors. Raises ValueError."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"got {_shown(value)}, where a list was expected")
    return value


def require_harmless(state, num_bytes=0, also=()):
    """Raise Refused unless the state is a tree of plain values and tensors; tensors no longer require a gradient.

    num_bytes: of the file, which hold more values than its bytes only if it names one value often. also: further types
    of values that hold nothing more. Nothing is followed that refers to itself, or is a large tree in little memory.
    """
    import torch

    leaves = (*_LEAVES, torch.Size, torch.device, torch.dtype, bytes, *also)
    left, number = [(state, None, 0)], 0  # (value, (place of what holds it, key), depth)
    while left:
        value, place, depth = left.pop()
        number += 1
        if depth > MOST_NESTED:
            raise Refused(f"it is nested more than {MOST_NESTED} deep")
        if number + len(left) > _MOST_VALUES + num_bytes:
            raise Refused(f"it holds more than {_MOST_VALUES + num_bytes:,} values")
        kind = type(value)
        if kind in (dict, OrderedDict, Counter):
            _require_names(value, place)
            if kind is not dict and vars(value):
                _require_metadata(value, place)
            left += [(item, (place, key), depth + 1) for key, item in value.items()]
        elif kind in (list, tuple, set):
            left += [(item, (place, i), depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, torch.Tensor):
            _require_plain_tensor(value, place)
        elif kind is int:
            if value.bit_length() > MOST_BITS:
                raise Refused(f"{_named(place)} is a number of {value.bit_length()} bits")
        elif kind not in leaves:
            raise Refused(f"{_named(place)} is of the type {kind.__name__}")


def _require_names(value, place):
    """Raise Refused unless the keys are numbers, or text that can be shown in a line."""
    for key in value:
        if type(key) not in (str, int, bool, float, type(None)) or (type(key) is int and key.bit_length() > MOST_BITS):
            raise Refused(f"a key in {_named(place)} is of the type {type(key).__name__}")
        if type(key) is str and len(key) > LONGEST_NAME:
            raise Refused(f"a key in {_named(place)} has {len(key)} characters")
        if (
            type(key) is str
            and not key.isprintable()
            and _keys_of(place)[:1] not in ([n] for n in _STATES_OF_THEIR_OWN)
        ):
            raise Refused(f"the name {key!r} in {_named(place)} holds control characters"[:LONGEST_NAME])


def _require_metadata(value, place):
    """Raise Refused unless the attributes of a module's state are the versions of its parts, which torch looks at."""
    metadata = vars(value).get("_metadata")
    versions = (
        metadata.values() if type(metadata) in (dict, OrderedDict) and vars(value).keys() == _METADATA else [None]
    )
    for of_part in versions:
        plain = type(of_part) is dict and all(type(value) in (int, *_LEAVES) for value in of_part.values())
        if not plain or type(of_part.get("version")) not in (int, type(None)) or "assign_to_params_buffers" in of_part:
            raise Refused(f"{_named(place)} has other attributes than the versions of a module's parts")


def _require_plain_tensor(value, place):
    """Raise Refused unless it is a tensor of numbers in host memory, dense or sparse, and nothing more."""
    import torch

    what = None
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.is_nested or vars(value):
        what = "of a type of its own"
    elif value.device.type != "cpu":
        what = f"on the device {value.device.type}"
    elif value.is_quantized:
        what = "quantized"
    elif value._backward_hooks:
        what = "one with hooks"
    elif value.layout != torch.strided:
        what = None if _is_sound(value) else "sparse, with indices that are not in it"
    elif value.dtype == torch.uint8 and value.numel() in _GENERATOR_BYTES and _leads_out_of_table(value):
        what = "the state of a random generator that stands outside its table"
    if what:
        raise Refused(f"{_named(place)} is a tensor {what}")
    value.requires_grad_(False)


def _is_sound(sparse):
    """Whether a sparse tensor's indices are where its shape says."""
    import torch

    if any(part.device.type != "cpu" for part in _parts_of(sparse)):
        return False
    try:
        if sparse.layout == torch.sparse_coo:
            indices, values = _parts_of(sparse)
            torch.sparse_coo_tensor(indices, values, sparse.shape, check_invariants=True)
        else:
            layout = sparse.layout
            torch.sparse_compressed_tensor(*_parts_of(sparse), sparse.shape, layout=layout, check_invariants=True)
    except RuntimeError:
        return False
    return True


def _parts_of(sparse):
    import torch

    if sparse.layout == torch.sparse_coo:
        return sparse._indices(), sparse._values()
    by_rows = sparse.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = (sparse.crow_indices, sparse.col_indices) if by_rows else (sparse.ccol_indices, sparse.row_indices)
    return indices[0](), indices[1](), sparse.values()


def _leads_out_of_table(state):
    """Whether torch would take it for a generator's state, and then read behind the generator's table.

    Numbers that are left and the place of the next one add up; just after seeding, the table is to be filled first.
    """
    _, left, seeded, place = _GENERATOR.unpack(bytes(state.flatten()[: _GENERATOR.size].tolist()))
    taken = seeded == 1 and 0 < left <= _TABLE and place <= _TABLE
    return taken and left != 1 and left + place != _TABLE + 1


def _keys_of(place):
    keys = []
    while place is not None:
        place, key = place
        keys.append(key)
    return keys[::-1]


def _named(place):
    """Where a value stands, as 'optimizer.state.0'."""
    name = ".".join(map(str, _keys_of(place))) or "it"
    return (name if name.isprintable() else repr(name))[:LONGEST_NAME]


def _shown(value):
    if isinstance(value, str):
        return repr(value[:50])
    if type(value) is int and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
