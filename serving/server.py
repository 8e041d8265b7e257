"""Server: uvicorn that finishes what is in flight on SIGTERM or Ctrl-C, and then lets the process end with status 0."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

_GRACE_SECONDS = 8  # the process then ends within the 10 after which Docker and others kill it


class Server(uvicorn.Server):
    """Serves an application at an open socket. app: an ASGI application."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS, server_header=False
        )
        super().__init__(config)

    def serve_on(self, port: socket.socket) -> None:
        """Serve until a signal."""
        asyncio.run(self.serve(sockets=[port]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, or, after a second Ctrl-C, leave it; then let the application close."""
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would not let it
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; uvicorn's own method raises them again at the end, and the exit status would tell of it."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
