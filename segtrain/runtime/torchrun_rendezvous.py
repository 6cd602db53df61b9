"""A rendezvous for torchrun: of a fixed number of nodes, with a store that listens at one address.

torchrun's own listen at all addresses of the machine, also with --standalone, where the state of the rendezvous is a
pickle besides: whoever reaches the port runs code as the user. Here nothing in the store is unpickled.
"""

import datetime
from typing import Self

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from segtrain.runtime.store import connect, serve

BACKEND = "segtrain"  # torchrun's name of this rendezvous


class Rendezvous(RendezvousHandler):
    """The launchers of a job, one a node, as torchrun's static rendezvous has them; the first serves the store."""

    def __init__(self, host: str, port: int, params: RendezvousParameters) -> None:
        self.host = host
        self.port = port
        self.node = int(params.config["rank"])
        self.nodes = params.max_nodes
        self.run_id = params.run_id
        self.timeout = datetime.timedelta(seconds=int(params.config.get("timeout", 600)))
        self._store: TCPStore | None = None

    @classmethod
    def of(cls, params: RendezvousParameters) -> Self:
        host, port = parse_rendezvous_endpoint(params.endpoint, -1)
        return cls(host, port, params)

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        if self._store is None or self.nodes == 1:  # ranks that are started again find no keys of those before
            self._store = None
            self._store = self._open()
        store = PrefixStore(self.run_id, self._store)
        return RendezvousInfo(store, self.node, self.nodes, RendezvousStoreInfo(self.host, self._store.port))

    def _open(self) -> TCPStore:
        if self.node:
            return connect(self.host, self.port, self.nodes, self.timeout)
        return serve(self.host, self.port, self.nodes, self.timeout, other_nodes=self.nodes > 1)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self.run_id

    def shutdown(self) -> bool:
        return True


def register() -> None:
    """Let torchrun in this process know the rendezvous."""
    rendezvous_handler_registry.register(BACKEND, Rendezvous.of)
