"""Batcher: requests that arrive while the model computes are computed together next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Full(Exception):
    """More waits than is allowed."""


class Batcher:
    """Computes requests together, in a thread beside the event loop. Use it within a running loop.

    compute: called with a list of requests, returns for each its result, or the exception that it fails with.
    max_batch: size of the requests that are computed at once; a larger one is computed alone.
    max_waiting: size of those that may wait; more are refused.
    """

    def __init__(self, compute: Callable[[list[Any]], Sequence[Any]], max_batch: int, max_waiting: int) -> None:
        self._compute, self._max_batch, self._max_waiting = compute, max_batch, max_waiting
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Any, int, asyncio.Future]] = deque()
        self._size = 0
        self._running: asyncio.Task | None = None

    async def add(self, request: Any, size: int = 1) -> Any:
        """Return the result of a request. Raises Full, or the exception that it fails with.

        size: number of its examples, as far as they are in memory.
        """
        if self._waiting and self._size + size > self._max_waiting:
            raise Full
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, size, future))
        self._size += size
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await future
        except asyncio.CancelledError:  # as after its time limit: it takes no place from others
            self._waiting = deque(entry for entry in self._waiting if entry[2] is not future)
            self._size = sum(size for _, size, _ in self._waiting)
            raise

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _run(self):
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next()
            try:
                results = await loop.run_in_executor(self._thread, self._compute, [request for request, _, _ in batch])
            except Exception as error:  # of compute itself, not of a request
                results = [error] * len(batch)
            for (_, _, future), result in zip(batch, results, strict=True):
                if future.done():  # its request is gone
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next(self):
        batch, room = [], self._max_batch
        while self._waiting and (not batch or self._waiting[0][1] <= room):
            batch.append(self._waiting.popleft())
            room -= batch[-1][1]
            self._size -= batch[-1][1]
        return batch
