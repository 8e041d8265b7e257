"""Requests for a model of texts: prompts, and what a request may ask of their continuations."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from base.data.inputs import Input
from base.generate import Prompt
from utils.errors import UserError, shortened

MAX_PROMPTS = 16  # in a request, of as many bytes as Options allows: they take a step of the model for each byte


def _whole(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 2.0 is an integer in JSON


_WHOLE = BeforeValidator(_whole)


class Options(BaseModel):
    """What a request may have beside its examples, as arguments of Prompt."""

    model_config = ConfigDict(extra="forbid", strict=True)
    length: Annotated[int, Field(ge=1, le=1000, description="bytes to write"), _WHOLE] = 200
    temperature: Annotated[float, Field(ge=0, le=10, description="0 takes the most probable byte each time")] = 0.8
    seed: Annotated[int, Field(ge=0, le=2**53, description="of what is drawn, for each example"), _WHOLE] = 0


def prompts_of(content: dict[str, Any], input: Input) -> list[Prompt]:
    """Return the prompts of a JSON body. Raises UserError for what cannot be continued so."""
    try:
        options = Options.model_validate({name: value for name, value in content.items() if name != "examples"})
    except ValidationError as error:
        first = error.errors()[0]
        no_such = f"no such field; there are examples, {', '.join(Options.model_fields)}"
        what = no_such if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"{shortened(first['loc'][0])}: {shortened(what)}") from None
    return [Prompt(input.parse(one).tobytes(), **options.model_dump()) for one in content["examples"]]
