"""The sizes that the pickle in a torch file claims, found by following its instructions without building anything.

torch.load(weights_only=True) runs no code of a file's choosing, but it calls the constructors of tensors, sets and
bytes with whatever arguments the file gives, and so can be made to use any amount of memory or time. Here the same
instructions are followed with stand-ins on the stack. Only the calls that honest checkpoints need are accepted, with
arguments of the right kind. The bytes of each storage are counted, and each tensor must lie inside its storage.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from utils.errors import Refused

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_NUMBER_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # others take all above a mark
_BYTES_OF_ELEMENT = {
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.storage.UntypedStorage": 1,
    "torch.BFloat16Storage": 2,
    "torch.HalfStorage": 2,
    "torch.ShortStorage": 2,
    "torch.FloatStorage": 4,
    "torch.IntStorage": 4,
    "torch.ComplexFloatStorage": 8,
    "torch.DoubleStorage": 8,
    "torch.LongStorage": 8,
    "torch.ComplexDoubleStorage": 16,
}
_COPIES = ("collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set")
_WITH_DTYPE = "torch._utils._rebuild_tensor_v3"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", _WITH_DTYPE)
_MOST_DIMENSIONS = 64
_PRICE_OF_ITEMS, _PRICE_OF_TUPLE = 20, 4  # in instructions: one byte in the file makes an object of dozens of bytes


class _Items:
    """Stands in for a list, dict or set."""

    __slots__ = ("number",)

    def __init__(self, number=0):
        self.number = number


@dataclass(frozen=True)
class _Global:
    """Stands in for a class or function."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    num_bytes: int


class _Built:
    """Stands in for a tensor, or for anything else that holds no further values."""


class _Record(_Built):
    """Stands in for an object whose reader keeps only the attributes."""


_BUILT, _RECORD = _Built(), _Record()
_CHEAP = {
    "torch._utils._rebuild_parameter": (_Built, bool, _Items),
    "torch._utils._rebuild_sparse_tensor": (_Built, tuple),
    "torch.serialization._get_layout": (str,),
    "torch.Size": (tuple,),
    "torch.device": (str, int),
    "_codecs.encode": (str, str),
}  # calls that use little memory, and the types of their arguments


class Claims:
    """The sizes that pickles claim.

    stand_in: returns what the reader puts in the place of the class of a name, or None for a name that is refused.
    most_instructions: in all pickles together.
    """

    def __init__(self, stand_in: Callable[[str], Any], most_instructions: int) -> None:
        self.storages: dict[str, _Storage] = {}
        self.expanded_bytes = 0
        """Of tensors with more elements than their storages have."""
        self.records: set[str] = set()
        """The names in the pickles that have a stand-in."""
        self._stand_in = stand_in
        self._left = most_instructions

    def read(self, file: BinaryIO) -> None:
        """Follow the pickle that begins at the file's position. Raises Refused, and errors of many kinds."""
        self._stack, self._marks, memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(file):
            self._pay(1)
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = self._stack[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                self._stack.append(memo[argument])
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name != "STOP":
                self._follow(opcode.name, argument)

    def _pay(self, number):
        self._left -= number
        if self._left < 0:
            raise Refused("it holds too many values")

    def _follow(self, opcode, argument):
        """Follow an instruction that combines values of the stack, or is rare."""
        stack = self._stack
        if opcode == "MARK":
            self._marks.append(len(stack))
        elif opcode in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._pay(_PRICE_OF_TUPLE)
            stack.append(tuple(self._take(opcode)))
        elif opcode in ("EMPTY_DICT", "EMPTY_LIST"):
            self._pay(_PRICE_OF_ITEMS)
            stack.append(_Items())
        elif opcode in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            taken = self._take(opcode)
            _require(isinstance(stack[-1], _Items))
            stack[-1].number += len(taken)
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            _require(isinstance(function, _Global) and isinstance(arguments, tuple))
            stack.append(self._call(function.name, arguments))
        elif opcode == "BINPERSID":
            stack.append(self._storage(*stack.pop()))
        elif opcode == "GLOBAL":
            stack.append(self._global(argument.replace(" ", ".", 1)))
        elif opcode == "BUILD":
            state = stack.pop()
            _require(isinstance(stack[-1], (_Items, _Record)) and isinstance(state, (_Items, tuple)))
            _require(isinstance(state, _Items) or not any(isinstance(value, _Items) for value in state))
        else:
            _require(opcode == "PROTO" and argument == 2)

    def _take(self, opcode):
        """Take from the stack what the instruction uses: a fixed number of values, or all above the last mark."""
        number = _NUMBER_TAKEN.get(opcode)
        start = self._marks.pop() if number is None else len(self._stack) - number
        _require(start >= (self._marks[-1] if self._marks else 0))
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _global(self, name):
        if self._stand_in(name) is not None:
            self.records.add(name)
        elif name not in (*_BYTES_OF_ELEMENT, *_COPIES, *_TENSORS, *_CHEAP) and _itemsize(name) is None:
            raise Refused(f"it refers to {name if name.isprintable() else repr(name)}"[:200])
        return _Global(name)

    def _storage(self, word, kind, key, location, number, view=None):
        _require(word == "storage" and isinstance(kind, _Global) and view is None)
        _require(isinstance(key, str) and isinstance(location, str) and _is_count(number))
        storage = _Storage(key, kind.name, number * _BYTES_OF_ELEMENT[kind.name])
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("two of its storages have one name")
        return storage

    def _call(self, name, arguments):
        """Return the stand-in for the call's result."""
        if name in _COPIES:
            return self._copy(*arguments)
        if name in _TENSORS:
            return self._tensor(name, *arguments)
        if name in _CHEAP:
            _require(all(isinstance(one, kind) for one, kind in zip(arguments, _CHEAP[name], strict=False)))
            _require(name != "_codecs.encode" or arguments[1] == "latin1")  # punycode takes quadratic time
            return _BUILT
        _require(name in self.records)
        _require(all(value is None or isinstance(value, (str, bool, _Built)) for value in arguments))
        return _RECORD

    def _copy(self, items=None):
        """A list or dict as an OrderedDict, Counter or set."""
        _require(items is None or isinstance(items, _Items))
        number = items.number if items else 0
        self._pay(_PRICE_OF_ITEMS + number)
        return _Items(number)

    def _tensor(self, name, storage, offset, size, stride, *more):
        itemsize: Any = _itemsize(more[2].name) if name == _WITH_DTYPE else _BYTES_OF_ELEMENT[storage.kind]
        _require(isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MOST_DIMENSIONS)
        _require(all(map(_is_count, (offset, *size, *stride))))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset - 1
        if (last + 1) * itemsize > storage.num_bytes:
            raise Refused("a tensor is larger than its storage")
        if (num_bytes := math.prod(size) * itemsize) > storage.num_bytes:
            self.expanded_bytes += num_bytes
        return _BUILT


def _itemsize(name):
    """Bytes of an element of the dtype of that name, such as "torch.float32"; None if it is not the name of a dtype."""
    import torch

    dtype = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
    return dtype.itemsize if isinstance(dtype, torch.dtype) else None


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


def _require(is_so):
    if not is_so:
        raise Refused("its content is not that of a checkpoint")
