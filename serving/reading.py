"""Read the raw examples of a request, within limits of memory and of time."""

import contextlib
import functools
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, parse_options_header
from starlette.requests import Request

from base.data.inputs import Input
from serving.batching import Batcher, Full
from utils.errors import UserError, shortened

MAX_EXAMPLES = 256  # in a request
MAX_BATCH = 16  # files to read for one switch of threads
MAX_WAITING = 1024  # files


class TooLarge(Exception):
    """A body that has more bytes than are allowed; the text says so."""


class Reader:
    """Reads requests. A few threads decode images, each of which may take much memory for a while.

    max_bytes: of a body.
    max_held_bytes: of all bodies that are held at once.
    """

    def __init__(self, input: Input, max_bytes: int, max_held_bytes: int) -> None:
        self._input, self._max_bytes, self._max_held_bytes = input, max_bytes, max(max_bytes, max_held_bytes)
        self._held_bytes = 0
        self._batcher = Batcher(_results_of, MAX_BATCH, MAX_WAITING, threads=min(4, os.cpu_count() or 1))

    def close(self) -> None:
        """End the threads."""
        self._batcher.close()

    async def examples(self, request: Request) -> list[Any]:
        """Return the raw examples of a request.

        Raises UserError for what cannot be read, TooLarge, or Full if too many other bodies are held.
        """
        async with self._body(request) as body:
            header = request.headers.get("content-type", "")
            kind = header.partition(";")[0].strip().lower()
            if kind == "application/json":
                (raw,) = await self._read([functools.partial(_parse, body, self._input)])
                return raw
            if kind == "multipart/form-data" and self._input.reads_files:
                files = _files(body, header)
                return await self._read([functools.partial(self._input.read, file) for file in files])
            wanted = "multipart/form-data or application/json" if self._input.reads_files else "application/json"
            raise UserError(f"content-type: send {wanted}")

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body; its bytes are counted as long as it is in use."""
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._max_bytes:
            raise TooLarge(f"the body has {int(length):,} bytes; {self._max_bytes:,} are allowed")
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                self._held_bytes += len(part)
                if size > self._max_bytes:
                    raise TooLarge(f"the body has more than {self._max_bytes:,} bytes")
                if self._held_bytes > self._max_held_bytes:
                    raise Full
                parts.append(part)
            yield b"".join(parts)
        finally:
            self._held_bytes -= size

    async def _read(self, functions):
        results = await self._batcher.add(functions)
        self._batcher.batch_sizes.clear()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results


def _results_of(functions):
    """What each function returns, or the exception that it raises."""
    results = []
    for function in functions:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)
    return results


def _parse(body, input):
    """The raw examples of a JSON body."""
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError("the body is nested too deeply") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the body is not JSON: {shortened(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("examples"), list):
        raise UserError('the body should be {"examples": [...]}, with a list of arrays or rows')
    _require_number(content["examples"])
    return [input.parse(one) for one in content["examples"]]


def _refuse_constant(name):
    raise UserError(f"{name} is no number that JSON allows")


def _files(body, content_type):
    """The uploaded files, which stay in memory, named as the client named them."""
    files = []

    def add(part):
        if part.field_name != b"files":
            raise UserError("a field is not called files")
        if isinstance(part, Field):  # sent without a file name
            content, name = io.BytesIO(part.value or b""), b"file"
        else:
            content, name = part.file_object, part.file_name or b"file"
            content.seek(0)
        content.name = PurePosixPath(name.decode(errors="replace")).name[-100:] or "file"
        files.append(content)
        if len(files) > MAX_EXAMPLES:
            _require_number(files)

    def end():
        nonlocal complete
        complete = True

    complete = False
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise UserError("content-type: multipart/form-data needs a boundary")
    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
    try:
        FormParser("multipart/form-data", add, add, end, boundary=boundary, config=config).write(body)
    except FormParserError as error:
        raise UserError(f"the body is not multipart/form-data: {shortened(error)}") from None
    if not complete:
        raise UserError("the body is not multipart/form-data: it ends early")
    _require_number(files)
    return files


def _require_number(examples):
    if not 1 <= len(examples) <= MAX_EXAMPLES:
        more = " or more" if len(examples) > MAX_EXAMPLES else ""
        raise UserError(f"the request has {len(examples)}{more} examples; 1 to {MAX_EXAMPLES} are allowed")
