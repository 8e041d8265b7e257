"""Read the raw examples of a request, within limits of memory."""

import contextlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

from starlette.requests import Request

from base.data.inputs import Input
from base.data.reading import read_example
from base.data.texts import TextInput
from serving.batching import Full
from serving.texts import MAX_PROMPTS, prompts_of
from utils.errors import UserError, shortened

MAX_EXAMPLES = 256  # in a request
_MAX_HEADERS = 8192  # bytes, of one file
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]+)"|([^;\s"]+))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition:[ \t]*form-data(;.*)$", re.IGNORECASE | re.MULTILINE)
_ENCODED = re.compile(rb"^content-transfer-encoding:[ \t]*(?!binary|8bit|7bit)", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(rb';[ \t]*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))', re.IGNORECASE)


class TooLarge(Exception):
    """A body that has more bytes than are allowed; the text says so."""


class Bodies:
    """Reads the bodies of requests.

    max_bytes: of a body.
    max_held_bytes: of all bodies that are in memory at once.
    """

    def __init__(self, max_bytes: int, max_held_bytes: int) -> None:
        self._max_bytes, self._max_held_bytes = max_bytes, max(max_bytes, max_held_bytes)
        self._held_bytes = 0

    @contextlib.asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body; it counts as held within. Raises TooLarge, or Full if too many others are held."""
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


def examples_of(body: bytes, content_type: str, input: Input) -> list[Any]:
    """Return the raw examples of a request, Prompts for a model of texts. Raises UserError for what cannot be read."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return _parse(body, input)
    if kind == "multipart/form-data" and input.reads_files:
        return [read_example(input, file) for file in _files(body, content_type)]
    wanted = "multipart/form-data or application/json" if input.reads_files else "application/json"
    raise UserError(f"content-type: send {wanted}")


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
    if isinstance(input, TextInput):
        _require_number(content["examples"], MAX_PROMPTS)
        return prompts_of(content, input)
    _require_number(content["examples"])
    return [input.parse(one) for one in content["examples"]]


def _refuse_constant(name):
    raise UserError(f"{name} is no number that JSON allows")


def _files(body, content_type):
    """The uploaded files (RFC 7578), which stay in memory, named as the client named them."""
    found = _BOUNDARY.search(content_type)
    if not found:
        raise UserError("content-type: multipart/form-data needs a boundary")
    boundary = (found[1] or found[2]).encode("latin-1", "replace")
    # what comes before the first boundary is no part; one more than is allowed is enough to refuse the request
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_EXAMPLES + 1)[1:]
    ends = [number for number, part in enumerate(parts) if part.startswith(b"--")]
    if not ends and len(parts) <= MAX_EXAMPLES:
        raise UserError("the body is not multipart/form-data: it ends early")
    files = [_file(part) for part in parts[: ends[0] if ends else None]]
    _require_number(files)
    return files


def _file(part):
    headers, found, content = part.partition(b"\r\n\r\n")
    disposition = _DISPOSITION.search(headers.replace(b"\r\n", b"\n")) if len(headers) <= _MAX_HEADERS else None
    if not found or not disposition:
        raise UserError("the body is not multipart/form-data: a part has no Content-Disposition")
    if _ENCODED.search(headers):
        raise UserError("a part has a Content-Transfer-Encoding; send its bytes as they are")
    given = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(disposition[1])}
    if given.get(b"name") != b"files":
        raise UserError("a field is not called files")
    file = io.BytesIO(content)
    file.name = PurePosixPath(given.get(b"filename", b"").decode(errors="replace")).name[-100:] or "file"
    return file


def _require_number(examples, most=MAX_EXAMPLES):
    if not 1 <= len(examples) <= most:
        more = " or more" if len(examples) > most else ""
        raise UserError(f"the request has {len(examples)}{more} examples; 1 to {most} are allowed")
