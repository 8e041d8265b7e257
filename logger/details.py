"""test_details.json in a run's log folder: what test.py found beyond the averages, from which the report is drawn."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from utils.errors import UserError, shortened, shown
from utils.files import read_beside, write_whole

MOST_MISTAKES = 50
MOST_PAIRS = 2_000
MOST_LETTERS = 2_000
MOST_CLASSES = 1_000  # for which pairs of classes are counted
NUM_BINS = 15
_FILE = "test_details.json"

Text = Annotated[str, Field(max_length=MOST_LETTERS)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Picture(BaseModel):
    """A picture as a data URI, with its size in pixels."""

    uri: Annotated[str, Field(max_length=20_000, pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$")]
    width: Annotated[int, Field(ge=1, le=1_000)]
    height: Annotated[int, Field(ge=1, le=1_000)]


class Mistake(BaseModel):
    """An example whose prediction was wrong. source: its file, or the split and its index."""

    source: Text
    target: Text
    prediction: Text
    probability: Number
    picture: Picture | None = None


class Classes(BaseModel):
    """Predictions of classes."""

    names: Annotated[list[Text], Field(min_length=2, max_length=100_000)]
    per_class: list[tuple[Count, Count, Count]]
    """For each class: examples of it, predictions of it, and how many of both."""
    pairs: Annotated[list[tuple[Count, Count, Count]], Field(max_length=MOST_CLASSES**2)] | None
    """[(target, prediction, count), ...] of all pairs of classes that occur; None with too many classes."""
    bins: Annotated[list[tuple[Count, Number, Count]], Field(min_length=NUM_BINS, max_length=NUM_BINS)]
    """For each interval of the prediction's probability: examples, sum of the probabilities, right predictions."""
    num_mistakes: Count
    mistakes: Annotated[list[Mistake], Field(max_length=MOST_MISTAKES)]
    """The most confident ones."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size, pairs = len(self.names), self.pairs or ()
        if len(self.per_class) != size or any(max(pair[:2]) >= size for pair in pairs):
            raise ValueError("holds other classes than it names")
        return self


class Values(BaseModel):
    """Predictions of one number, in the unit of its target."""

    name: Text
    count: Count
    mean_error: Number
    mean_absolute_error: Number
    root_mean_squared_error: Number
    r_squared: Number | None
    pairs: Annotated[list[tuple[Number, Number]], Field(max_length=MOST_PAIRS)]
    """[(target, prediction), ...] of a random sample."""


class Continuation(BaseModel):
    """Text that a language model wrote after a prompt, and how the text of the data continues."""

    prompt: Text
    written: Text
    data: Text


class TestDetails(BaseModel):
    """What a model's predictions for a split of the data look like."""

    __test__ = False  # its name does not make it a test

    checkpoint: Text
    split: Text
    samples: Count
    classes: Classes | None = None
    values: Annotated[list[Values], Field(max_length=4)] = []
    texts: Annotated[list[Continuation], Field(max_length=10)] = []
    images: Annotated[list[tuple[Picture, Picture]], Field(max_length=16)] = []
    """[(input, output), ...] of a model whose outputs are images of the same shape."""
    drawn: Annotated[list[Picture], Field(max_length=64)] = []
    """Samples of a generator."""


def save_details(details: TestDetails, log_dir: Path) -> None:
    """Write the details into the run's log folder, in place of those of an earlier test."""
    write_whole(details.model_dump_json(), log_dir / _FILE, "the details of the test")


def load_details(log_dir: Path) -> TestDetails | None:
    """Return the details of the run's last test; None if there are none. Raises UserError for a damaged file."""
    path = log_dir / _FILE
    try:
        return TestDetails.model_validate_json(read_beside(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{shown(path)}: damaged: {shortened(place)}: {shortened(first['msg'])}; test again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)}: cannot be read: {shortened(error)}; test again") from None
