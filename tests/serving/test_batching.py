"""Batcher computes what waits together, and each request gets its own result or exception."""

import asyncio
import threading

import pytest

from serving.batching import Batcher, Full


def doubled(batches, gate=None):
    """A compute function that remembers its batches, refuses negative numbers, and may wait for an event."""

    def compute(numbers):
        if gate is not None:
            gate.wait(5)
        batches.append(list(numbers))
        return [2 * number if number >= 0 else ValueError(f"negative: {number}") for number in numbers]

    return compute


def run(scenario, compute, **limits):
    async def within():
        batcher = Batcher(compute, **{"max_batch": 8, "max_waiting": 100, **limits})
        try:
            return await scenario(batcher)
        finally:
            batcher.close()

    return asyncio.run(within())


def test_requests_that_arrive_meanwhile_are_computed_together_in_their_order():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add(0))
        await asyncio.sleep(0.01)  # it is computed now
        others = [asyncio.create_task(batcher.add(i)) for i in range(1, 11)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *others)

    assert run(scenario, doubled(batches, gate)) == [2 * i for i in range(11)]
    assert batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10]]


def test_large_requests_fill_a_batch_and_one_that_is_too_large_is_computed_alone():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add(0))
        await asyncio.sleep(0.01)
        sizes = (4, 4, 1, 20, 8)
        others = [asyncio.create_task(batcher.add(i, size)) for i, size in enumerate(sizes, start=1)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *others)

    assert run(scenario, doubled(batches, gate)) == [0, 2, 4, 6, 8, 10]
    assert batches == [[0], [1, 2], [3], [4], [5]]


def test_a_request_that_fails_fails_alone():
    async def scenario(batcher):
        return await asyncio.gather(*(batcher.add(i) for i in (1, -2, 3)), return_exceptions=True)

    one, bad, three = run(scenario, doubled([]))
    assert (one, three) == (2, 6) and isinstance(bad, ValueError) and str(bad) == "negative: -2"


def test_an_error_of_the_whole_batch_reaches_each_request_and_the_next_batch_is_computed():
    def compute(numbers):
        if 1 in numbers:
            raise MemoryError
        return numbers

    async def scenario(batcher):
        failed = await asyncio.gather(*(batcher.add(i) for i in (1, 2)), return_exceptions=True)
        return failed, await batcher.add(3)

    failed, three = run(scenario, compute)
    assert [type(error) for error in failed] == [MemoryError] * 2 and three == 3


def test_more_than_may_wait_is_refused_and_the_others_computed():
    gate = threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add(0))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.add(1, 2))
        await asyncio.sleep(0.01)
        with pytest.raises(Full):
            await batcher.add(3, 2)
        gate.set()
        return await asyncio.gather(first, waiting)

    assert run(scenario, doubled([], gate), max_waiting=3) == [0, 2]


def test_a_request_that_is_given_up_is_not_computed_and_takes_no_place_in_the_queue():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add(0))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.add(1, 3)
        second = asyncio.create_task(batcher.add(4, 3))
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, second)

    assert run(scenario, doubled(batches, gate), max_waiting=3) == [0, 8]
    assert batches == [[0], [4]]
