"""The web application of serve.py: /predict, /health, /ready, /metrics, /model, and a page to try the model."""

import asyncio
import contextlib
import logging
import os
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from base.trained_model import TrainedModel
from serving.batching import Batcher, Full
from serving.reading import Reader, TooLarge
from serving.schema import RESPONSES, request_body
from utils.errors import UserError

PAGE = Path(__file__).with_name("page.html")
MAX_BATCH = 64
MAX_WAITING = 1024  # examples
MAX_PIXELS = 50_000_000  # of an image file
MAX_HELD_BYTES = 256_000_000  # of the bodies of all requests


def create_app(model: TrainedModel, max_bytes: int = 16_000_000, timeout_seconds: float = 30.0) -> FastAPI:
    """Return the application that serves a model. Raises UserError for a model that has no input, or continues texts.

    max_bytes: of a request's body; larger ones get status 413.
    timeout_seconds: after which a request gets status 503.
    """
    if "block_size" in model.input.arguments:
        raise UserError("serve.py: this model continues texts; use python predict.py --prompt")
    batcher = Batcher(lambda waiting: _predict(model, waiting), MAX_BATCH, MAX_WAITING)
    reader = Reader(model.input, max_bytes, MAX_HELD_BYTES)
    metrics = _Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        reader.close()
        batcher.close()

    app = FastAPI(title=str(model.config.get("name") or "model"), lifespan=lifespan)

    @app.post("/predict", openapi_extra=request_body(model.input), responses=RESPONSES)
    async def predict(request: Request, top: int = Query(1, ge=1, le=1000)) -> JSONResponse:
        """Predictions for files (multipart), or for a JSON object {"examples": [...]} of arrays or rows."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_seconds):
                raw = await reader.examples(request)
                response = JSONResponse({"predictions": await batcher.add([(one, top) for one in raw])})
        except UserError as error:
            response = _error(422, str(error))
        except TooLarge as error:
            response = _error(413, str(error))
        except Full:
            response = _error(503, "too many requests wait; try again", {"Retry-After": "1"})
        except TimeoutError:
            response = _error(503, f"not computed within {timeout_seconds:g} s; try again", {"Retry-After": "5"})
        except asyncio.CancelledError:  # by the server, when its time to finish is over
            response = _error(503, "the service ends; try again", {"Retry-After": "5"})
        except ClientDisconnect:
            response = _error(422, "the body ends early")  # for /metrics: the client is gone
        except Exception:
            logging.getLogger("serving").exception("a request failed")
            response = _error(500, "an error of the service; its log says more")
        metrics.count(response.status_code, time.perf_counter() - started, batcher)
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return _error(422, "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()))

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
        return {
            "name": model.config.get("name"),
            "classes": model.output.classes,
            "files": list(model.input.suffixes) if model.input.reads_files else [],
            "drawing": getattr(model.input, "background", None),
            "schema": model.input.schema(),
            "example": getattr(model.input, "example", None),
        }

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app


def prepare(model: TrainedModel) -> None:
    """Limit what this process computes and reads, and compute one example, since the first one takes longer."""
    if model.device.type == "cpu":  # the others read requests; threads that share a core wait for each other
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here on, and refuses twice as many
    warnings.filterwarnings("ignore", module="PIL")  # clients would fill the log, and memory with what has been said
    for name in ("PIL", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    example = getattr(model.input, "example", None)
    shape = getattr(model.input, "raw_shape", None)
    if example is not None:
        model.outputs(model.input.parse(example)[None])
    elif shape is not None:
        model.outputs(np.zeros((1, *shape), np.uint8))


def _predict(model, waiting):
    """The prediction for each pair (raw example, number of classes to list)."""
    raw, tops = zip(*waiting, strict=True)
    if len({np.shape(one) for one in raw}) > 1:
        raise UserError("examples of unequal shapes")
    outputs = model.outputs(np.stack(raw))
    if not bool(outputs.isfinite().all()):
        raise UserError("the model's output is not finite for this example")
    rows = model.output.describe(outputs, max(tops))
    for row, top in zip(rows, tops, strict=True):
        if top == 1:
            row.pop("top", None)
        elif "top" in row:
            row["top"] = row["top"][:top]
    return rows


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
