"""Batcher computes what waits together, and lets one bad example fail alone."""

import asyncio
import threading

import pytest

from serving.batching import Batcher, Full


def doubled(batches, gate=None):
    """A compute function that remembers its batches, fails for negative numbers, and may wait for an event."""

    def compute(numbers):
        if gate is not None:
            gate.wait(5)
        batches.append(list(numbers))
        if min(numbers) < 0:
            raise ValueError(f"negative: {min(numbers)}")
        return [2 * number for number in numbers]

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
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)  # the model computes it now
        others = [asyncio.create_task(batcher.add([i, i + 100])) for i in (1, 2, 3, 4, 5)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *others)

    results = run(scenario, doubled(batches, gate))
    assert results == [[0], [2, 202], [4, 204], [6, 206], [8, 208], [10, 210]]
    assert batches == [[0], [1, 101, 2, 102, 3, 103, 4, 104], [5, 105]]


def test_one_bad_example_fails_alone():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.add([number])) for number in (1, -2, 3)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, one, bad, three = run(scenario, doubled(batches, gate))
    assert (first, one, three) == ([0], [2], [6])
    assert isinstance(bad, ValueError) and str(bad) == "negative: -2"


def test_more_examples_than_may_wait_are_refused_and_the_others_computed():
    gate = threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.add([1, 2]))
        await asyncio.sleep(0.01)
        with pytest.raises(Full):
            await batcher.add([3, 4])
        gate.set()
        return await asyncio.gather(first, waiting)

    assert run(scenario, doubled([], gate), max_waiting=3) == [[0], [2, 4]]


def test_a_request_that_is_gone_is_not_computed():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(batcher.add([1])), asyncio.create_task(batcher.add([2]))
        await asyncio.sleep(0.01)
        gone.cancel()
        gate.set()
        return await asyncio.gather(first, stays)

    assert run(scenario, doubled(batches, gate)) == [[0], [4]]
    assert batches == [[0], [2]]


def test_a_request_that_is_given_up_takes_no_place_in_the_queue():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.add([1, 2, 3])
        second = asyncio.create_task(batcher.add([4, 5, 6]))
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, second)

    assert run(scenario, doubled(batches, gate), max_waiting=3) == [[0], [8, 10, 12]]
    assert batches == [[0], [4, 5, 6]]


def test_what_is_left_of_a_bad_request_is_not_computed():
    batches = []

    async def scenario(batcher):
        with pytest.raises(ValueError, match="-1"):
            await batcher.add([-1, 2, 3, 4])
        return await batcher.add([5])

    assert run(scenario, doubled(batches), max_batch=1) == [10]
    assert batches[0] == [-1] and [4] not in batches


def test_a_batch_with_a_bad_example_is_computed_again_in_halves():
    batches, gate = [], threading.Event()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.add([0]))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.add([number])) for number in (1, 2, 3, -4)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    run(scenario, doubled(batches, gate))
    assert batches == [[0], [1, 2, 3, -4], [1, 2], [3, -4], [3], [-4]]


def test_several_threads_compute_side_by_side():
    together = threading.Barrier(2, timeout=5)

    async def scenario(batcher):
        return await asyncio.gather(batcher.add([1]), batcher.add([2]))

    def compute(numbers):
        together.wait()
        return numbers

    assert run(scenario, compute, threads=2) == [[1], [2]]
