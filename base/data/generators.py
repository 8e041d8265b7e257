"""The random generators that a dataset and its transforms keep: where they are found, and how one is seeded."""

import contextlib
import functools
import random
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_MAX_DEPTH = 6  # attributes, lists and dicts from the dataset to a generator
_MAX_OBJECTS = 500  # looked at
_MAX_ENTRIES = 64  # of a list or dict; a longer one holds samples, not transforms


@dataclass(frozen=True)
class Generator:
    """A generator as its functions. state returns what restore takes; seed takes an integer of 63 bits.

    owned: the generator itself; None if it is a library's own.
    """

    state: Callable[[], Any]
    restore: Callable[[Any], object]
    seed: Callable[[int], object]
    owned: Any = None

    def changed(self, before: Any) -> bool:
        """Return whether the generator was drawn from since state returned before."""
        return not _equal(self.state(), before)

    def is_that(self, other: "Generator | None") -> bool:
        """Return whether the other is of the same object."""
        return other is not None and self.owned is other.owned


def _numpy_seed(seed):
    return np.random.seed(seed & 0xFFFFFFFF)


# The generators that functions of torch (on the CPU), NumPy and Python draw from.
GLOBAL = {
    "torch": Generator(torch.get_rng_state, torch.set_rng_state, torch.default_generator.manual_seed),
    "numpy": Generator(functools.partial(np.random.get_state, legacy=False), np.random.set_state, _numpy_seed),
    "python": Generator(random.getstate, random.setstate, random.seed),
}


def kept_generators(owner: Any) -> dict[str, Generator]:
    """Return {where: generator} of those that an object keeps: as an attribute, or in what its attributes hold.

    Attributes, short lists and dicts are followed, and the generators that methods and functions use from their module
    or from the function around them. One on a GPU is not among them, and none of another library.
    """
    found, seen = {}, {id(owner)}
    queue = deque([("", owner, 0)])
    while queue and len(seen) < _MAX_OBJECTS:
        path, value, depth = queue.popleft()
        with contextlib.suppress(Exception):  # of an object that does not let itself be looked at, as some proxies
            generator = _as_generator(value)
            if generator is not None:
                found[path] = _with_seeds_of_its_own(generator, path, value)
            elif depth < _MAX_DEPTH:
                for name, part in _parts(value):
                    if id(part) not in seen and not isinstance(part, _PLAIN):
                        seen.add(id(part))
                        queue.append((f"{path}.{name}", part, depth + 1))
    return found


_PLAIN = (str, bytes, int, float, complex, type(None), torch.Tensor, np.ndarray, np.generic, type, types.ModuleType)
_KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_LIBRARIES = {"builtins", "numpy", "torch", "torchvision", "typing", "abc", "collections"}


def _as_generator(value):
    """The Generator of one of the libraries' objects; None for anything else, and for one that cannot be seeded."""
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return Generator(value.getstate, value.setstate, value.seed)
    if isinstance(value, torch.Generator) and value.device.type == "cpu":
        return Generator(value.get_state, value.set_state, value.manual_seed)
    if isinstance(value, np.random.RandomState) and value.get_state(legacy=False)["bit_generator"] == "MT19937":
        state = functools.partial(value.get_state, legacy=False)
        return Generator(state, value.set_state, lambda seed: value.seed(seed & 0xFFFFFFFF))
    if isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        kind = type(bits)
        restore = functools.partial(setattr, bits, "state")
        return Generator(lambda: bits.state, restore, lambda seed: restore(kind(seed).state))
    return None


def _with_seeds_of_its_own(generator, path, owned):
    """The generator with other numbers than one that is kept elsewhere and seeded with the same seed."""
    number = zlib.crc32(path.encode())
    return Generator(generator.state, generator.restore, lambda seed: generator.seed(seed ^ number), owned)


def _parts(value) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what an object holds."""
    if isinstance(value, (list, tuple, dict)):
        if len(value) <= _MAX_ENTRIES:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((str(name), part) for name, part in entries)
        return
    if isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.FunctionType):
        yield from _used_by(value)
    elif isinstance(value, types.MethodType):
        yield from (("func", value.__func__), ("self", value.__self__))
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()
        for owner in type(value).__mro__:
            if owner.__module__.partition(".")[0] not in _LIBRARIES:
                yield from _of_class(owner)


def _of_class(owner):
    """(name, value) of a class's generators, and of what its methods use."""
    for name, value in vars(owner).items():
        if isinstance(value, types.FunctionType):
            yield from _used_by(value)
        elif isinstance(value, _KINDS):
            yield name, value


def _used_by(function):
    """(name, value) of a function's defaults, of what it uses from the function around it, and of its module's.

    Of its module's names, these are generators and functions of the same module.
    """
    yield from enumerate(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # of a variable that has no value yet
            yield name, cell.cell_contents
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        is_beside = isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__
        if is_beside or isinstance(value, _KINDS):
            yield name, value


def _equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return all(_equal(value, other[key]) for key, value in one.items())
    return one == other
