"""Worlds of two processes that send something to the last, and end as a command does: python -m tests.leaving WORLDS.

They are forked from one that has imported torch, and all of Python's shutdown follows. Prints their exit statuses.
"""

import os
import socket
import sys

import torch
import torch.distributed as dist
import torch.distributed.fsdp

from utils.distributed import joined
from utils.parallel import fsdp


def train_and_leave(number):
    torch.set_num_threads(1)
    with joined({}):
        model = fsdp(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)), torch.device("cpu"))
        model(torch.ones(2, 8)).sum().backward()
        for i in range(8):
            tensor = torch.ones(2 ** (16 + (number + i) % 6))
            tensor.known_to_python = True
            dist.all_reduce(tensor, async_op=True)
        sys.exit(0)  # at once, without waiting for the other one


def started(number):
    """Ids of the two processes of a world."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, ids = probe.getsockname()[1], []
    for rank in range(2):
        process = os.fork()
        if process == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
            os.environ.update({"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in place.items()}})
            train_and_leave(number)
        ids.append(process)
    return ids


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        for process in started(number):
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
