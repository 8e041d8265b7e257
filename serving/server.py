"""Server: uvicorn that finishes what is in flight on SIGTERM or Ctrl-C, and then lets the process end with status 0."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from serving.app import Application

_GRACE_SECONDS = 7  # with the next, the process ends within the 10 after which Docker and others kill it
_LAST_ANSWER_SECONDS = 1  # in which a client that is connected may still send a request


class Server(uvicorn.Server):
    """Serves an application at a socket."""

    def __init__(self, app: Application) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS, server_header=False
        )
        super().__init__(config)
        self._app = app

    def serve_on(self, port: socket.socket) -> None:
        """Serve until a signal."""
        self.run(sockets=[port])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, or, after a second Ctrl-C, leave it; then let the application close.

        A client that is connected may be about to send: it is told with its next answer that the connection ends, and
        cut off only if it has sent nothing for a while.
        """
        self._app.ends = True
        await self._close(sockets or [])
        end = asyncio.get_running_loop().time() + _LAST_ANSWER_SECONDS
        while self.server_state.connections and not self.force_exit and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would not let it
            await self.lifespan.shutdown()

    async def _close(self, sockets):
        """Stop listening; clients that the system has connected already, and uvicorn has not seen, are answered."""
        copies = [port.dup() for port in sockets]  # the sockets themselves are closed with the servers
        for server in self.servers:
            server.close()
        for port in copies:
            port.setblocking(False)
            with port, contextlib.suppress(BlockingIOError):
                while True:
                    connection, _ = port.accept()
                    await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self):
        state = self.lifespan.state
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state=state)  # pyright: ignore[reportCallIssue]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; uvicorn's own method raises them again at the end, and the exit status would tell of it."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
