"""The store by which the ranks of a job find each other: its server listens at one address.

torch's own listens at all addresses of the machine.
"""

import datetime
import os

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from segtrain.runtime.addresses import listen, warn_of_all_interfaces


def has_agents_store() -> bool:
    """Whether the launcher serves the store for this rank."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def serve(host: str, port: int, members: int, timeout: datetime.timedelta, other_nodes: bool) -> TCPStore:
    """The store's server, at the address of `host` alone, once all members are there. Raises OSError, DistError."""
    listener = listen(host, port, other_nodes)
    if listener is None:
        warn_of_all_interfaces(host, port)
        return TCPStore(host, port, members, is_master=True, timeout=timeout)
    port = listener.getsockname()[1]
    return TCPStore(host, port, members, is_master=True, timeout=timeout, master_listen_fd=listener.detach())


def connect(host: str, port: int, members: int, timeout: datetime.timedelta) -> TCPStore:
    """The store that another process serves. Raises DistError."""
    return TCPStore(host, port, members, is_master=False, timeout=timeout)
