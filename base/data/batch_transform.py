"""BatchTransform: transforms applied to whole batches where that is the same, and to single samples where it is not."""

import torch

from base.data.sample_seeder import try_out
from utils.errors import UserError


class BatchTransform:
    """Applies the functions of a transform to batches (B, ...).

    transform: a function of a batch, a list of functions, or a Compose of torchvision. One that draws random numbers,
    or does not take a batch, is called with one sample (...) at a time, so that each has its own draw; so are those
    between two such. A function that draws for each sample of a batch itself has the attribute draws_per_sample = True.
    Then the attribute draws_for_batches is True, and of several processes each has to give it the whole batch.
    examples: batches of one sample each, on which the functions are tried twice: one that draws nothing from torch's,
    NumPy's or python's generator and gives the same both times is believed not to be random.

    Raises UserError for a transform that does not give a tensor of as many samples.
    """

    def __init__(self, transform, examples):
        functions = _functions(transform)
        self.draws_for_batches = any(getattr(function, "draws_per_sample", False) for function in functions)
        self._before, self._per_sample, self._after = _split(functions, examples)
        if functions and examples:
            try_out(self, torch.cat(examples[:2]), [0, 1][: len(examples)])  # what does not fit fails here

    def __call__(self, batch, indices, seeder=None):
        """The batch transformed. indices: of its samples. seeder: the SampleSeeder for random functions."""
        num_samples = len(batch)
        for i, function in enumerate(self._before):
            batch = _apply_to_batch(function, batch, indices, seeder, place=i)
        if self._per_sample:
            batch = self._one_by_one(batch, indices, seeder)
        for i, function in enumerate(self._after):
            batch = _apply_to_batch(function, batch, indices, seeder, place=len(self._before) + i)
        if len(batch) != num_samples:
            raise UserError(f"transform: it makes {len(batch)} samples of {num_samples}; labels would no longer fit")
        return batch

    def _one_by_one(self, batch, indices, seeder):
        if seeder is None:
            samples = [self._apply_to_sample(sample) for sample in batch]
        else:
            samples = seeder.map(self._apply_to_sample, indices, batch)
        if not all(isinstance(sample, torch.Tensor) for sample in samples):
            raise UserError(f"transform: it makes a {type(samples[0]).__name__} of a sample; it should make a tensor")
        shapes = {tuple(sample.shape) for sample in samples}
        if len(shapes) > 1:
            raise UserError(f"transform: samples come out in different shapes, {sorted(shapes)}; a batch needs one")
        return torch.stack(samples)

    def _apply_to_sample(self, sample):
        sample = sample.clone()  # it may be changed in place, and made anew
        for function in self._per_sample:
            sample = function(sample)
        return sample


def _functions(transform):
    """The functions that a transform consists of. A Compose of torchvision, of either generation, is taken apart."""
    if transform is None:
        return []
    if type(transform).__name__ == "Compose" and isinstance(getattr(transform, "transforms", None), (list, tuple)):
        transform = transform.transforms
    functions = list(transform) if isinstance(transform, (list, tuple)) else [transform]
    wrong = [function for function in functions if not callable(function)]
    if wrong:
        raise UserError(f"transform: {wrong[0]!r} cannot be called")
    return functions


def _split(functions, examples):
    """(functions of batches, from the first to the last that takes single samples, the rest), found by trying."""
    if not examples:
        return functions, [], []
    values, single = examples, []
    for i, function in enumerate(functions):
        values, takes_single = _tried(function, values)
        single += [i] if takes_single else []
    if not single:
        return functions, [], []
    first, end = single[0], single[-1] + 1
    per_sample = functions[first:end]
    if any(getattr(function, "draws_per_sample", False) for function in per_sample):
        raise UserError("transform: one with draws_per_sample stands between two that want one sample at a time")
    return functions[:first], per_sample, functions[end:]


def _tried(function, values):
    """(the function's results for the values, whether it is to be called with single samples).

    values: batches of one sample each, or, after a function that makes images of PIL's of them, the samples.
    """
    refusal = None
    if isinstance(values[0], torch.Tensor):
        try:
            results, drew = try_out(_results, function, values)
            again, _ = try_out(_results, function, values)
        except Exception as error:  # perhaps it takes single samples only
            refusal = error
        else:
            known = getattr(function, "draws_per_sample", False)
            if known or (not drew and all(map(_equal, results, again))):
                _require_batches_of_one(function, results)
                return results, False
        values = [value[0] for value in values]
    try:
        results, _ = try_out(_results, function, values)
    except Exception as error:
        raise refusal or error from None
    return [result.unsqueeze(0) if isinstance(result, torch.Tensor) else result for result in results], True


def _results(function, values):
    return [function(value.clone() if isinstance(value, torch.Tensor) else value) for value in values]


def _equal(left, right):
    """Whether two results are equal; nan equals nan."""
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return type(left) is type(right)
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def _require_batches_of_one(function, results):
    name = getattr(function, "__name__", type(function).__name__)
    for result in results:
        if not isinstance(result, torch.Tensor):
            raise UserError(f"transform: {name} makes a {type(result).__name__} of a batch; it should make a tensor")
        if result.dim() == 0 or len(result) != 1:
            made = len(result) if result.dim() else "no"
            raise UserError(f"transform: {name} makes {made} samples of 1; labels would no longer fit")


def _apply_to_batch(function, batch, indices, seeder, place):
    if seeder is None or not getattr(function, "draws_per_sample", False):
        return function(batch)
    stream = hash((place, *indices))  # of integers alone, so the same in every process
    return seeder.map(lambda samples: function(samples.clone()), [stream], [batch])[0]
