"""The web application of serve.py: /predict, /health, /ready, /metrics, /model, and a page to try the model."""

import asyncio
import contextlib
import functools
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from base.trained_model import TrainedModel
from serving.batching import Batcher, Full
from utils.errors import UserError

PAGE = Path(__file__).with_name("page.html")
MAX_BATCH = 64
MAX_WAITING = 1024  # examples
MAX_EXAMPLES = 256  # in a request


def create_app(model: TrainedModel, max_bytes: int = 16_000_000, timeout_seconds: float = 30.0) -> FastAPI:
    """Return the application that serves a model.

    max_bytes: of a request's body; larger ones get status 413.
    timeout_seconds: after which a request gets status 503.
    """
    batcher = Batcher(lambda raw: _predict(model, raw), MAX_BATCH, MAX_WAITING)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = FastAPI(title=str(model.config.get("name") or "model"), lifespan=lifespan)
    metrics = _Metrics()

    @app.post("/predict", openapi_extra=_REQUEST_BODY)
    async def predict(request: Request, top: int = Query(1, ge=1, le=1000)) -> JSONResponse:
        """Predictions for files (multipart), or for a JSON object {"examples": [...]} of arrays, rows or texts."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_seconds):
                raw = await _examples(request, await _limited_body(request, max_bytes), model)
                outputs = await batcher.add(raw)
            response = JSONResponse({"predictions": [row(top) for row in outputs]})
        except (UserError, ValueError, TypeError) as error:
            response = _error(422, str(error))
        except HTTPException as error:
            response = _error(error.status_code, error.detail)
        except Full:
            response = _error(503, "too many examples wait; try again", {"Retry-After": "1"})
        except TimeoutError:
            response = _error(503, f"not computed within {timeout_seconds:g} s; try again", {"Retry-After": "5"})
        metrics.count(response.status_code, time.perf_counter() - started, batcher)
        return response

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether requests can be computed; the model is loaded and warm before the port opens."""
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Counts and times of requests in the format of Prometheus."""
        return PlainTextResponse(generate_latest(metrics.registry).decode())

    @app.get("/model")
    async def describe() -> dict[str, Any]:
        """What the model takes and gives."""
        spec = model.input.spec() if model.has_input else None
        example = getattr(model.input, "example", None) if model.has_input else None
        return {"name": model.config.get("name"), "classes": model.output.classes, "input": spec, "example": example}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app


def warm_up(model: TrainedModel) -> None:
    """Compute one example, since the first one takes longer."""
    shape = getattr(model.input, "raw_shape", None)
    if shape is not None:
        model.outputs(np.zeros((1, *shape), np.uint8))


_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["examples"],
                    "properties": {"examples": {"type": "array", "minItems": 1, "maxItems": MAX_EXAMPLES}},
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    },
    "responses": {str(code): {"description": text} for code, text in ((413, "too large"), (503, "try again"))},
}


async def _limited_body(request, max_bytes):
    """The body. Raises HTTPException 413 for a larger one, before all of it is read."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise HTTPException(413, f"the body has {length} bytes; {max_bytes:,} are allowed")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise HTTPException(413, f"the body has more than {max_bytes:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _examples(request, body, model):
    """The raw examples of a request. Raises UserError for what cannot be read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        sources = await _files(request, body)
        read = [functools.partial(model.input.read, file) for file in sources]
    elif kind == "application/json":
        try:
            content = json.loads(body, parse_constant=_refuse_constant)
        except RecursionError:
            raise UserError("the body is nested too deeply") from None
        if not isinstance(content, dict) or not isinstance(content.get("examples"), list):
            raise UserError('the body should be {"examples": [...]}, with a list of arrays, rows or texts')
        read = [functools.partial(model.input.parse, one) for one in content["examples"]]
    else:
        raise UserError(f"content-type {kind or 'missing'}: send multipart/form-data or application/json")
    if not 1 <= len(read) <= MAX_EXAMPLES:
        raise UserError(f"the request has {len(read)} examples; 1 to {MAX_EXAMPLES} are allowed")
    return await asyncio.gather(*(asyncio.to_thread(one) for one in read))


async def _files(request, body):
    """The uploaded files, named as the client named them."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    files = []
    async with Request(request.scope, receive).form(max_files=MAX_EXAMPLES, max_fields=MAX_EXAMPLES) as form:
        for value in form.getlist("files"):
            if not isinstance(value, UploadFile):
                raise UserError("files: should be files")
            content = io.BytesIO(await value.read())
            content.name = Path(value.filename or "file").name
            files.append(content)
    return files


def _refuse_constant(name):
    raise UserError(f"{name} is no number that JSON allows")


def _predict(model, raw):
    """For each raw example a function of the number of classes to list, which returns its prediction."""
    shapes = {np.shape(one) for one in raw}
    if len(shapes) > 1:
        raise UserError("examples of unequal shapes")
    outputs = model.outputs(np.stack(raw))
    if not bool(outputs.isfinite().all()):
        raise UserError("the model's output is not finite for this example")
    return [lambda top, one=one: model.output.describe(one, top)[0] for one in outputs.split(1)]


def _error(status, text, headers=None):
    return JSONResponse({"detail": text}, status, headers)


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("predict_requests", "Requests", ["status"], registry=self.registry)
        self._seconds = Histogram("predict_seconds", "Seconds of a request", registry=self.registry)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        self._batches = Histogram("batch_size", "Examples computed at once", registry=self.registry, buckets=sizes)

    def count(self, status, seconds, batcher):
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)
        while batcher.batch_sizes:
            self._batches.observe(batcher.batch_sizes.pop())
