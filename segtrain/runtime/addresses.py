"""Addresses that processes of this machine listen at. Imports no torch."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil

from segtrain.runtime.terminal import show

LOOPBACK = "127.0.0.1"
# Variables that name the interface at which gloo and NCCL listen.
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True, order=True)
class Listener:
    """A socket that listens. `pid`: of the process."""

    address: str
    port: int
    pid: int

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine reach it."""
        return _is_loopback(self.address)


def listen(host: str, port: int, other_nodes: bool = False) -> socket.socket | None:
    """A socket that listens at the address of `host` alone. Port 0: any that is free.

    None where the ranks reach this node by another address: behind a translation of addresses, or, with `other_nodes`,
    where the node's own name is one of loopback in its /etc/hosts. Of several addresses of this node the one on
    the interface of gloo or NCCL is taken, and a line says so. Raises OSError: port taken, name unknown.
    """
    for address in _addresses_of(host):
        if other_nodes and host not in (address, "localhost") and _is_loopback(address):
            return None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            server = socket.create_server((address, port), family=family, backlog=socket.SOMAXCONN)
            if other_nodes:
                _name_other_addresses(host, address)
            return server
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    return None


def _addresses_of(host: str) -> list[str]:
    """Those between nodes first, then those of IPv4: torch's clients try one after another."""
    resolved = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    preferred = _of_interfaces(tuple(filter(None, map(os.environ.get, INTERFACES))))
    return sorted(resolved, key=lambda address: (address not in preferred, ":" in address, address))


def _of_interfaces(names: tuple[str, ...]) -> set[str]:
    """The addresses of this node on the interfaces of these names, or that begin so, as NCCL reads them."""
    return {
        address.address.partition("%")[0]
        for name, addresses in psutil.net_if_addrs().items()
        if name.startswith(names)
        for address in addresses
    }


def _name_other_addresses(host: str, served: str) -> None:
    """Tell on standard error where a node whose name has several addresses of it is reached."""
    own = [address for address in _addresses_of(host) if address in _of_interfaces(("",)) and address != served]
    if own:
        show(
            f"segtrain: {host} is {' and '.join([served, *own])}: the ranks meet at {served}; for another set "
            "GLOO_SOCKET_IFNAME to its interface, or the master address to an IP address",
            errors=True,
        )


def _is_loopback(address: str) -> bool:
    plain = ipaddress.ip_address(address.partition("%")[0])
    mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
    return (mapped or plain).is_loopback


def keep_to_loopback() -> None:
    """Have gloo and NCCL in this process, and in those that it starts, listen at loopback, whatever was set.

    What is set is for jobs of several nodes. The host name may not resolve; the loopback interface always works.
    """
    names = {name for _, name in socket.if_nameindex()}
    os.environ.update(dict.fromkeys(INTERFACES, "lo" if "lo" in names else "lo0"))


def listeners(processes: Iterable[psutil.Process]) -> Iterator[Listener]:
    """The sockets at which these processes listen, as far as this user may know."""
    for process in processes:
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        for one in sockets:
            if one.status == psutil.CONN_LISTEN:
                yield Listener(one.laddr.ip, one.laddr.port, process.pid)


def warn_of_all_interfaces(host: str, port: int) -> None:
    """Tell on standard error that the store of a job cannot be kept to one address."""
    show(
        f"segtrain: warning: {host} is no address of this node for others to reach, so port {port} is open on all its "
        "interfaces; set interface=... in the cluster's preset, or the master address to an IP address",
        errors=True,
    )
