"""Batcher: requests that arrive while the model computes are computed together next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Full(Exception):
    """More waits than is allowed."""


class Batcher:
    """Computes examples of many requests in batches, aside from the event loop. Use it within a running one.

    compute: called with a list of examples, returns a list of as many results; it may raise.
    max_batch: examples computed at once.
    max_waiting: examples that may wait; more are refused.
    threads: in which batches are computed side by side.

    A batch that fails is computed again in halves, so that only the examples at fault fail.
    """

    def __init__(
        self, compute: Callable[[list[Any]], Sequence[Any]], max_batch: int, max_waiting: int, threads: int = 1
    ) -> None:
        self._compute, self._max_batch, self._max_waiting = compute, max_batch, max_waiting
        self._num_threads, self._threads = threads, ThreadPoolExecutor(threads)
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()
        self._running: set[asyncio.Task] = set()
        self.batch_sizes: list[int] = []
        """Sizes of the batches since they were last read; for metrics."""

    async def add(self, examples: Sequence[Any]) -> list[Any]:
        """Return the results of the examples. Raises Full, or the error of the first example that has one."""
        if len(self._waiting) + len(examples) > self._max_waiting:
            raise Full
        futures = [asyncio.get_running_loop().create_future() for _ in examples]
        self._waiting.extend(zip(examples, futures, strict=True))
        if len(self._running) < self._num_threads:
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            return await asyncio.gather(*futures)
        except BaseException:  # also when the request is cancelled, as after its time limit
            self._forget(futures)
            raise

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _forget(self, futures):
        """Give up what is left of a request, so that it takes no place from others."""
        for future in futures:
            future.cancel()
        self._waiting = deque(pair for pair in self._waiting if not pair[1].done())

    async def _run(self):
        while self._waiting:
            share = -(-len(self._waiting) // self._num_threads)
            batch = [self._waiting.popleft() for _ in range(min(share, self._max_batch))]
            self.batch_sizes.append(len(batch))
            await self._fulfil(batch)

    async def _fulfil(self, batch):
        batch = [(example, future) for example, future in batch if not future.done()]
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._threads, self._compute, [example for example, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error=error)
                return
            half = len(batch) // 2
            await self._fulfil(batch[:half])
            await self._fulfil(batch[half:])
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
