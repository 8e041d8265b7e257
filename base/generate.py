"""What generating models make: text that continues a prompt, and samples."""

import codecs
from collections.abc import Iterator
from typing import Any

import torch

from base.trained_model import TrainedModel
from utils.errors import UserError

MAX_BYTES = 100_000


def continued(
    trained: TrainedModel, prompt: str, length: int = 200, temperature: float = 0.8, seed: int = 0
) -> Iterator[str]:
    """Return an iterator over the text that follows the prompt, as it is drawn byte by byte.

    trained: of a model of next bytes: input (1, T) int64, output (1, 256, T), logits.
    length: bytes to draw.
    temperature: what the logits are divided by; 0 takes the most probable byte each time.

    Raises UserError for another kind of model.
    """
    block_size = trained.input.arguments.get("block_size") if trained.has_input else None
    if block_size is None:
        raise UserError("--prompt: continues a text, and this model was not trained on a TextDataLoader")
    if not prompt:
        raise UserError("--prompt: give at least one letter to begin with")
    return _continued(trained, prompt, block_size, length, temperature, torch.Generator().manual_seed(seed))


def _continued(trained, prompt, block_size, length, temperature, generator):
    """The text that follows the prompt, byte by byte."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens = list(prompt.encode())
    for _ in range(length):
        logits = trained(torch.tensor([tokens[-block_size:]]))[0, :, -1].float().cpu()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
        tokens.append(token)
        yield decoder.decode(bytes([token]))
    yield decoder.decode(b"", final=True)


def samples_of(trained: TrainedModel, number: int, seed: int = 0) -> torch.Tensor:
    """Return samples (number, ...) of a model with a method generate(latent (N, latent_size)) and that attribute.

    Raises UserError for a model without it.
    """
    model: Any = trained.model
    size, generate = getattr(model, "latent_size", None), getattr(model, "generate", None)
    if not isinstance(size, int) or not callable(generate):
        raise UserError(
            "--samples: the model generates nothing: it needs a method generate and an attribute latent_size"
        )
    latent = torch.randn(number, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.generate(latent.to(trained.device)).cpu()
