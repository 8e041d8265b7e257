"""What generating models make: texts that continue prompts, and samples."""

import codecs
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from base.data.inputs import Input
from base.data.local_files import local_file
from base.data.outputs import Output, require_one_output, target_rows
from base.data.sources import Sources
from base.data.texts import TextInput
from base.trained_model import Predictions, TrainedModel
from logger.pictures import draw_batches
from utils.errors import UserError, shown

MOST_SAMPLES = 1000  # which a picture has room for


@dataclasses.dataclass
class Prompt:
    """A text to continue, and how.

    text: its bytes, at least one.
    length: bytes to draw.
    temperature: what the logits are divided by; 0 takes the most probable byte each time.
    seed: of what is drawn, from 0 to 2^64 - 1.
    is_wanted: False ends it early; another thread may set it.
    """

    text: bytes
    length: int = 200
    temperature: float = 0.8
    seed: int = 0
    is_wanted: bool = True


def continues_texts(trained: TrainedModel) -> bool:
    """Whether the model is one of next bytes. Raises UserError for a model without an input."""
    return isinstance(trained.input, TextInput)


def continued(
    trained: TrainedModel, prompt: str, length: int = 200, temperature: float = 0.8, seed: int = 0
) -> Iterator[str]:
    """Return an iterator over the text that follows the prompt, as it is drawn byte by byte; see Prompt.

    Raises UserError for an empty prompt, and for a model that does not continue texts.
    """
    if not continues_texts(trained):
        raise UserError("--prompt: continues a text, and this model was not trained on a TextDataLoader")
    if not prompt:
        raise UserError("--prompt: give at least one letter to begin with")
    try:
        start = Prompt(prompt.encode(), length, temperature, seed)
    except UnicodeEncodeError:
        raise UserError("--prompt: is not text in UTF-8") from None
    decoder, drawn = codecs.getincrementaldecoder("utf-8")("replace"), _drawn(trained, [start])
    return (decoder.decode(byte, final=not byte) for _, byte in itertools.chain(drawn, [(0, b"")]))


class _Prompts(Input):
    """Text files as prompts: raw (T,) bytes."""

    suffixes = (".txt",)

    def read(self, file: str | BinaryIO) -> np.ndarray:
        """Return the bytes (T,) of a file. Raises UserError if it cannot be read, or is empty."""
        path = Path(local_file(str(file), "", "the text"))
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from None
        if not text:
            raise UserError(f"{shown(path)}: is empty; a text is continued from its last letters")
        return np.frombuffer(text, np.uint8)

    def require(self, raw: torch.Tensor) -> None:
        """Raise UserError unless these are bytes (B, T) of texts."""
        if raw.dtype != torch.uint8 or raw.ndim != 2 or not raw.shape[1]:
            got = f"{str(raw.dtype).removeprefix('torch.')} of shape {tuple(raw.shape)}"
            raise UserError(f"got {got}; a text to continue is an array (B, T) of bytes, uint8")


class _Texts(Output):
    """Outputs that are texts: their bytes (B, T) uint8, or logits (B, 256, T) of the byte after each place."""

    def columns(
        self, outputs: torch.Tensor, top: int = 1, target: Any = None, masks: torch.Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the texts as predictions, of logits those of the most probable bytes; and those of targets (B, T)."""
        columns = {"prediction": _decoded(outputs.argmax(dim=1) if outputs.ndim == 3 else outputs)}
        target = target_rows(target, len(outputs))
        return columns if target is None else {**columns, "target": _decoded(target)}


def _decoded(texts):
    """The texts (B, T) of bytes, without what is none, such as the -100 of a target that does not count."""
    return [bytes(one for one in text if 0 <= one < 256).decode("utf-8", "replace") for text in texts.tolist()]


def as_texts(parts: Iterable[Predictions]) -> Iterator[Predictions]:
    """Yield Predictions of a model of next bytes, whose rows then hold texts, byte by byte after the given ones."""
    texts = _Texts()
    return (dataclasses.replace(part, output=texts) for part in parts)


def continued_files(
    trained: TrainedModel, sources: Iterable[str], length: int = 200, temperature: float = 0.8, seed: int = 0
) -> Iterator[Predictions]:
    """Yield Predictions for text files: the text that follows each. sources: as for Sources. Others: see Prompt."""
    for part in Sources(sources, _Prompts(), Output()):
        for place in range(len(part)):
            one = part.part(place, place + 1)
            outputs = torch.empty(0)
            for raw in one.raw:
                prompt = Prompt(raw.tobytes(), length, temperature, seed)
                outputs = torch.tensor([[byte[0] for _, byte in _drawn(trained, [prompt])]], dtype=torch.uint8)
            yield Predictions(one, outputs, torch.as_tensor(one.raw.copy()), None, _Texts())


def continuations(trained: TrainedModel, prompts: Sequence[Prompt]) -> list[str]:
    """Return the text that follows each prompt; they are computed together.

    trained: of a model of next bytes: input (N, T) int64, output (N, 256, T), logits of the byte after each position,
        which depend on no later one.
    """
    texts = [bytearray() for _ in prompts]
    for place, byte in _drawn(trained, prompts):
        texts[place] += byte
    return [text.decode("utf-8", "replace") for text in texts]


def _drawn(trained, prompts):
    """Yield (place among the prompts, its next byte) until all have their length."""
    block_size = trained.input.arguments["block_size"]
    windows = [list(prompt.text[-block_size:]) for prompt in prompts]
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    for step in range(max(prompt.length for prompt in prompts)):
        places = [i for i, prompt in enumerate(prompts) if step < prompt.length and prompt.is_wanted]
        if not places:
            return
        for place, logits in zip(places, _next_logits(trained, [windows[i] for i in places]), strict=True):
            token = _choice(logits, prompts[place].temperature, generators[place])
            windows[place] = [*windows[place], token][-block_size:]
            yield place, bytes([token])


def _next_logits(trained, windows):
    """The logits (N, 256) of the byte after each window; what fills the shorter ones comes after their last byte."""
    width = max(map(len, windows))
    tokens = torch.tensor([window + [0] * (width - len(window)) for window in windows])
    output = trained(tokens)
    require_one_output(trained.model, tokens, output)
    last = torch.tensor([len(window) - 1 for window in windows], device=output.device)
    return output[torch.arange(len(windows), device=output.device), :, last].float().cpu()


def _choice(logits, temperature, generator):
    if logits.isnan().any():
        raise UserError("the model's output is not a number for this text")
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / max(temperature, 1e-30)  # which float32 can hold
    return int(torch.multinomial(scaled.softmax(0), 1, generator=generator))


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


def draw_samples(trained: TrainedModel, number: int, path: Path, seed: int = 0) -> None:
    """Draw samples into a PNG. Raises UserError for more than MOST_SAMPLES, and if it cannot be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--grid: {shown(path)}: should end in .png")
    if number > MOST_SAMPLES:
        raise UserError(f"--samples: got {number}; it should be at most {MOST_SAMPLES}")
    draw_batches(path, {"samples": (samples_of(trained, number, seed), [""] * number)}, number)
