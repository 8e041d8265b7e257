"""The forms of requests and answers, for /openapi.json and /docs."""

import mimetypes
from typing import Any

from pydantic import BaseModel

from base.data.inputs import Input
from base.data.texts import TextInput
from serving.reading import MAX_EXAMPLES
from serving.texts import MAX_PROMPTS, Options


class Prediction(BaseModel):
    """The prediction for an example; of a class with its probability, and the most probable ones if asked for.

    Of a model of labels, the prediction is a list of those with a probability above 0.5; probabilities holds all.
    """

    prediction: Any
    probability: float | None = None
    top: list[tuple[str, float]] | None = None
    probabilities: dict[str, float] | None = None


class Answer(BaseModel):
    """Predictions in the order of the examples."""

    predictions: list[Prediction]


class Error(BaseModel):
    """Why a request has no predictions."""

    detail: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Answer, "description": "predictions"},
    413: {"model": Error, "description": "the body is too large"},
    422: {"model": Error, "description": "an example cannot be read, or is not what the model takes"},
    503: {"model": Error, "description": "too much waits, or it took too long; see Retry-After"},
}


def request_body(input: Input) -> dict[str, Any]:
    """Return OpenAPI's description of the body of /predict."""
    options, most = options_of(input), MAX_PROMPTS if isinstance(input, TextInput) else MAX_EXAMPLES
    examples = {"type": "array", "minItems": 1, "maxItems": most, "items": input.schema()}
    files = {"type": "array", "minItems": 1, "maxItems": MAX_EXAMPLES, "items": {"type": "string", "format": "binary"}}
    content = {"application/json": _object(others=not options, optional=options, examples=examples)}
    if input.reads_files:
        kinds = ", ".join(
            sorted({kind for ending in input.suffixes if (kind := mimetypes.guess_type(f"x{ending}")[0])})
        )
        form = _object(others=False, files=files)
        content["multipart/form-data"] = form | {"encoding": {"files": {"contentType": kinds}}}
    return {"requestBody": {"required": True, "content": content}}


def options_of(input: Input) -> dict[str, Any]:
    """Return the JSON schemas of what a request may have beside its examples."""
    return Options.model_json_schema()["properties"] if isinstance(input, TextInput) else {}


def _object(others=True, optional=None, **properties):
    return {
        "schema": {
            "type": "object",
            "required": list(properties),
            "properties": properties | (optional or {}),
            "additionalProperties": others,
        }
    }
