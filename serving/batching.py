"""Batcher: requests that arrive while the model computes are computed together next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Full(Exception):
    """More examples wait than are allowed."""


class Batcher:
    """Computes examples of many requests in batches, in one thread. Use it within a running event loop.

    compute: called with a list of examples, returns a list of as many results; it may raise.
    max_batch: examples computed at once.
    max_waiting: examples that may wait; more are refused.

    If a batch fails, each of its examples is computed by itself, so that only those at fault fail.
    """

    def __init__(self, compute: Callable[[list[Any]], Sequence[Any]], max_batch: int, max_waiting: int) -> None:
        self._compute, self._max_batch, self._max_waiting = compute, max_batch, max_waiting
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._running: asyncio.Task | None = None
        self.batch_sizes: list[int] = []
        """Sizes of the batches since they were last read; for metrics."""

    async def add(self, examples: Sequence[Any]) -> list[Any]:
        """Return the results of the examples. Raises Full, or the error of the first example that has one."""
        if len(self._waiting) + len(examples) > self._max_waiting:
            raise Full
        futures = [asyncio.get_running_loop().create_future() for _ in examples]
        self._waiting.extend(zip(examples, futures, strict=True))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asyncio.gather(*futures)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def _run(self):
        try:
            while self._waiting:
                number = min(len(self._waiting), self._max_batch)
                batch = [self._waiting.popleft() for _ in range(number)]
                batch = [(example, future) for example, future in batch if not future.cancelled()]
                if batch:
                    self.batch_sizes.append(len(batch))
                    await self._fulfil(batch)
        finally:
            self._running = None

    async def _fulfil(self, batch):
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._compute, [example for example, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error=error)
                return
            for one in batch:
                await self._fulfil([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result)


def _settle(future, result=None, error=None):
    if future.done():  # its request is gone
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
