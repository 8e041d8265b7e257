"""Where torch's launcher has the processes of one host meet: nowhere, since there is nobody else to wait for.

The rendezvous of torchrun is a server that listens on all interfaces, and unpickles what it is sent; this one opens
no port.
"""

from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "one-host"


def register():
    """Let torch's launcher know this rendezvous; returns its name, for --rdzv-backend."""
    rendezvous_handler_registry.register(BACKEND, OneHost)
    return BACKEND


class OneHost(RendezvousHandler):
    """The rendezvous of a launcher that is alone."""

    def __init__(self, parameters):
        self._run_id = parameters.run_id

    def get_backend(self):
        return BACKEND

    def get_run_id(self):
        return self._run_id

    def next_rendezvous(self):
        nowhere = RendezvousStoreInfo("localhost", 0)  # the processes meet in files instead
        return RendezvousInfo(HashStore(), 0, 1, nowhere)

    def num_nodes_waiting(self):
        return 0

    def is_closed(self):
        return False

    def set_closed(self):
        pass

    def shutdown(self):
        return True
