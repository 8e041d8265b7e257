"""The web application of serve.py: /predict, /health, /ready, /metrics, /model, and a page to try the model."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from base.generate import continues_texts
from base.trained_model import TrainedModel
from serving.batching import Batcher, Full
from serving.predictor import MAX_BATCH, Predictor
from serving.reading import Bodies, TooLarge, examples_of
from serving.schema import RESPONSES, Error, options_of, request_body
from utils.errors import UserError, shown

PAGE = Path(__file__).with_name("page.html")
MAX_WAITING = 1024  # examples
MAX_PIXELS = 50_000_000  # of an image file
MAX_HELD_BYTES = 256_000_000  # of the bodies of all requests
MAX_SHOWN_LETTERS = 10_000  # of an example, on the page
_SMALL_BODY = 16_384  # bytes; the examples of larger ones are read side by side before they join a batch


class Application(FastAPI):
    """FastAPI that answers a plain POST /predict itself, since its own way to a route costs more than a small model.

    ends: whether the server ends: each answer is then the last one of its connection.
    """

    ends = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as the server asks for it."""
        is_http = scope["type"] == "http"
        if is_http and self.ends:
            send = _last_of_connection(send)
        if is_http and scope["path"] == "/predict" and scope["method"] == "POST" and not scope["query_string"]:
            response = await self.state.predict(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(model: TrainedModel, max_bytes: int = 16_000_000, timeout_seconds: float = 30.0) -> Application:
    """Return the application that serves a model. Raises UserError for a model that has no input.

    max_bytes: of a request's body; larger ones get status 413.
    timeout_seconds: after which a request gets status 503.
    """
    if not model.has_input:
        remedy = "train one whose data loader has the attribute input, as docs/predict.md shows"
        where = "the model" if model.path is None else shown(model.path)
        raise UserError(f"{where}: holds no input, so that it cannot be served; {remedy}")
    continues = continues_texts(model)
    metrics = _Metrics()
    batcher = Batcher(Predictor(model, metrics.batches.observe).answers, MAX_BATCH, MAX_WAITING)
    bodies = Bodies(max_bytes, MAX_HELD_BYTES)
    example = getattr(model.input, "example", None)
    shown_example = example if len(json.dumps(example)) <= MAX_SHOWN_LETTERS else None
    readers = ThreadPoolExecutor(min(4, os.cpu_count() or 1))  # an image may take much memory while it is decoded

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        readers.shutdown(cancel_futures=True)
        batcher.close()

    app = Application(title=str(model.config.get("name") or "model"), lifespan=lifespan)

    @app.post("/predict", openapi_extra=request_body(model.input), responses=RESPONSES)
    async def predict(request: Request, top: Annotated[int, Query(ge=1, le=1000)] = 1) -> Response:
        """Predictions for files (multipart), or for a JSON object {"examples": [...]} of arrays, rows or texts."""
        started, prompts = time.perf_counter(), []
        try:
            async with asyncio.timeout(timeout_seconds), bodies.hold(request) as body:
                read = functools.partial(examples_of, body, request.headers.get("content-type", ""), model.input)
                size = 1
                if continues or len(body) > _SMALL_BODY:
                    raw = await asyncio.get_running_loop().run_in_executor(readers, read)
                    read, size = lambda: raw, len(raw)
                    prompts = raw if continues else prompts
                response = Response(await batcher.add((read, top), size), media_type="application/json")
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
        for prompt in prompts:
            prompt.is_wanted = False  # by anyone: after a time limit, it would be computed to its end
        metrics.count(response.status_code, time.perf_counter() - started)
        return response

    app.state.predict = predict

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return _error(422, "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Error, "description": "the service ends"}})
    async def ready() -> Response:
        """Whether requests can be computed; the model is loaded and warm before the port opens."""
        return _error(503, "the service ends") if app.ends else JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Counts and times of requests in the format of Prometheus."""
        return PlainTextResponse(generate_latest(metrics.all_processes()).decode())

    @app.get("/model")
    async def describe() -> dict[str, Any]:
        """What the model takes and gives."""
        return {
            "name": model.config.get("name"),
            "classes": model.output.classes,
            "files": list(model.input.suffixes) if model.input.reads_files else [],
            "drawing": getattr(model.input, "background", None),
            "schema": model.input.schema(),
            "options": options_of(model.input),
            "example": shown_example,
        }

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app


def prepare(model: TrainedModel, processes: int = 1) -> None:
    """Limit what this process computes and reads, and compute one example, since the first one takes longer.

    processes: that serve on this machine, and share its cores.
    """
    if model.device.type == "cpu":  # the others read requests; threads that share a core wait for each other
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // (2 * processes)))
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here on, and refuses twice as many
    warnings.filterwarnings("ignore", module="PIL")  # clients would fill the log, and memory with what has been said
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    example, shape = getattr(model.input, "example", None), getattr(model.input, "raw_shape", None)
    if example is not None:
        model.outputs(model.input.parse(example)[None])
    elif shape is not None:
        with contextlib.suppress(UserError):  # an input of the project's own may take others than pixels
            model.outputs(np.zeros((1, *shape), np.uint8))


def _error(status, text, headers=None):
    return JSONResponse({"detail": text}, status, headers)


def _last_of_connection(send):
    """A send function whose answers tell the client, and uvicorn, that the connection ends after them."""

    async def send_last(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_last


class _Metrics:
    """Of this process, or, if the parent of several has named a folder for them, of all (see serving/workers.py)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("predict_requests", "Requests", ["status"], registry=self._registry)
        self._seconds = Histogram("predict_seconds", "Seconds of a request", registry=self._registry)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        self.batches = Histogram("batch_size", "Examples computed at once", registry=self._registry, buckets=sizes)

    def count(self, status, seconds):
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def all_processes(self):
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return registry
