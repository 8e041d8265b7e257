"""What the pickle in a torch file claims, found by following its instructions without building anything.

torch.load(weights_only=True) runs no code of a file's choosing, but it calls what makes tensors, sets or bytes with
whatever arguments the file names, and so can be made to take any amount of memory or time. Here the same instructions
are followed with stand-ins on the stack. Only those calls are let through that honest checkpoints need, with arguments
of the right kind; the bytes of each storage are counted, and each tensor must lie inside its storage.
"""

import math
import pickle
import struct
from dataclasses import dataclass

from utils.errors import Refused

_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_PLACES = {b"h": "<B", b"j": "<I", b"q": "<B", b"r": "<I"}
_ARGUMENTS = {code: struct.Struct(format) for code, format in (_NUMBERS | _PLACES).items()}
_NUMBER_TAKEN = {b"\x85": 1, b"\x86": 2, b"\x87": 3, b"a": 1, b"s": 2, b"t": None, b"e": None, b"u": None}
_STORAGES = {
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
}  # bytes of an element
_MOST_DIMENSIONS = 64
_PRICE_OF_ITEMS, _PRICE_OF_TUPLE = 20, 4  # in instructions, since a byte in the file makes an object of dozens


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
    """Stands in for an object of which the reader only keeps the attributes."""


_BUILT, _RECORD = _Built(), _Record()


class Claims:
    """What the pickles that were read claim.

    records: names of classes of which the reader keeps inert records. most_instructions: in all pickles together.
    """

    def __init__(self, records, most_instructions):
        self.storages = {}
        """{key: bytes}"""
        self.stretched_bytes = 0
        """Of tensors that have more elements than their storages, as expanded ones do."""
        self._records = records
        self._left = most_instructions

    def read(self, file):
        """Follow the pickle that begins where the file is. Raises Refused, and errors of many kinds for nonsense."""
        self._stack, self._marks, memo = [], [], {}
        read = file.read
        while (code := read(1)) != pickle.STOP:
            self._pay(1)
            stack = self._stack
            if code in _ARGUMENTS:
                (argument,) = _ARGUMENTS[code].unpack(read(_ARGUMENTS[code].size))
                if code in (pickle.BINPUT, pickle.LONG_BINPUT):
                    memo[argument] = stack[-1]
                else:
                    stack.append(memo[argument] if code in _PLACES else argument)
            elif code == pickle.BINUNICODE:
                stack.append(read(int.from_bytes(read(4), "little")).decode("utf-8", "surrogatepass"))
            elif code in _CONSTANTS:
                stack.append(_CONSTANTS[code])
            else:
                self._follow(code, file)

    def _pay(self, number):
        self._left -= number
        if self._left < 0:
            raise Refused("it holds too many values")

    def _follow(self, code, file):
        """Follow an instruction that makes something of what is on the stack, or is rare."""
        stack = self._stack
        if code == pickle.MARK:
            self._marks.append(len(stack))
        elif code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
            self._pay(_PRICE_OF_TUPLE)
            stack.append(tuple(self._take(code)))
        elif code in (pickle.EMPTY_DICT, pickle.EMPTY_LIST):
            self._pay(_PRICE_OF_ITEMS)
            stack.append(_Items())
        elif code in (pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS):
            taken = self._take(code)
            _require(isinstance(stack[-1], _Items))
            stack[-1].number += len(taken)
        elif code in (pickle.REDUCE, pickle.NEWOBJ):
            arguments, function = stack.pop(), stack.pop()
            _require(isinstance(function, _Global) and isinstance(arguments, tuple))
            stack.append(self._call(function.name, arguments))
        elif code == pickle.BINPERSID:
            stack.append(self._storage(*stack.pop()))
        elif code == pickle.GLOBAL:
            module, name = (file.readline()[:-1].decode() for _ in range(2))
            stack.append(self._global(f"{module}.{name}"))
        elif code == pickle.BUILD:
            state = stack.pop()
            _require(isinstance(stack[-1], (_Items, _Record)) and isinstance(state, (_Items, tuple)))
            _require(isinstance(state, _Items) or not any(isinstance(value, _Items) for value in state))
        elif code == pickle.SHORT_BINSTRING:
            stack.append(file.read(file.read(1)[0]).decode())
        elif code == pickle.LONG1:
            stack.append(int.from_bytes(file.read(file.read(1)[0]), "little", signed=True))
        elif code == pickle.PROTO:
            _require(file.read(1) == b"\2")
        else:
            raise Refused("its content is not that of a checkpoint")

    def _take(self, code):
        """Take from the stack what the instruction uses up: as many as it says, or all above the last mark."""
        number = _NUMBER_TAKEN[code]
        start = self._marks.pop() if number is None else len(self._stack) - number
        _require(start >= (self._marks[-1] if self._marks else 0))
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _global(self, name):
        if name not in _STORAGES and name not in _CALLS and name not in self._records and _itemsize(name) is None:
            raise Refused(f"it refers to {name if name.isprintable() else repr(name)}"[:200])
        return _Global(name)

    def _storage(self, word, kind, key, location, number, view=None):
        _require(word == "storage" and isinstance(kind, _Global) and kind.name in _STORAGES and view is None)
        _require(isinstance(key, str) and isinstance(location, str) and _is_count(number))
        storage = _Storage(key, kind.name, number * _STORAGES[kind.name])
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("two of its storages have one name")
        return storage

    def _call(self, name, arguments):
        """What stands in for the value of a call."""
        if name in self._records and name not in _CALLS:
            _require(all(value is None or isinstance(value, (str, bool, _Built)) for value in arguments))
            return _RECORD
        return _CALLS[name](self, *arguments)

    def _copy(self, items=None):
        """Of a list or dict, as an OrderedDict, Counter or set."""
        _require(items is None or isinstance(items, _Items))
        number = items.number if items else 0
        self._pay(_PRICE_OF_ITEMS + number)
        return _Items(number)

    def _tensor(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        return self._tensor_of(storage, _STORAGES[storage.kind], offset, size, stride)

    def _tensor_of_dtype(self, storage, offset, size, stride, requires_grad, hooks, dtype):
        return self._tensor_of(storage, _itemsize(dtype.name), offset, size, stride)

    def _tensor_of(self, storage, itemsize, offset, size, stride):
        _require(isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MOST_DIMENSIONS)
        _require(_is_count(offset) and all(map(_is_count, (*size, *stride))))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset - 1
        if (last + 1) * itemsize > storage.num_bytes:
            raise Refused("a tensor is larger than its storage")
        if (num_bytes := math.prod(size) * itemsize) > storage.num_bytes:
            self.stretched_bytes += num_bytes
        return _BUILT

    def _parameter(self, tensor, requires_grad, hooks):
        _require(tensor is _BUILT)
        return _BUILT

    def _sparse(self, layout, parts):
        _require(layout is _BUILT and isinstance(parts, tuple))
        return _BUILT

    def _layout(self, name):
        _require(isinstance(name, str))
        return _BUILT

    def _size(self, size):
        _require(isinstance(size, tuple) and all(map(_is_count, size)))
        return size

    def _device(self, name, index=0):
        _require(isinstance(name, str) and _is_count(index))
        return _BUILT

    def _bytes(self, text, encoding):
        _require(isinstance(text, str) and encoding == "latin1")  # others, as punycode, take time by the square
        return _BUILT


_CALLS = {
    "collections.OrderedDict": Claims._copy,
    "collections.Counter": Claims._copy,
    "builtins.set": Claims._copy,
    "__builtin__.set": Claims._copy,
    "torch._utils._rebuild_tensor": Claims._tensor,
    "torch._utils._rebuild_tensor_v2": Claims._tensor,
    "torch._utils._rebuild_tensor_v3": Claims._tensor_of_dtype,
    "torch._utils._rebuild_parameter": Claims._parameter,
    "torch._utils._rebuild_sparse_tensor": Claims._sparse,
    "torch.serialization._get_layout": Claims._layout,
    "torch.Size": Claims._size,
    "torch.device": Claims._device,
    "_codecs.encode": Claims._bytes,
}


def _itemsize(name):
    """Bytes of an element of the dtype of that name, as "torch.float32"; None for what is none."""
    import torch

    dtype = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
    return dtype.itemsize if isinstance(dtype, torch.dtype) else None


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


def _require(is_so):
    if not is_so:
        raise Refused("its content is not that of a checkpoint")
