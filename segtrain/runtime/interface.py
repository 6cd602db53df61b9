"""The network interface through which this node reaches the others. Imports no torch."""

import ipaddress
import socket
from contextlib import suppress

import psutil

ELSEWHERE = "192.0.2.1"  # RFC 5737: nobody's. The way there is the default route


def interface_to(host: str, port: int) -> str | None:
    """The interface whose address this node has towards a host; None where that is the loopback, or not to be found.

    gloo would take the one to which this node's own name resolves, which on Debian and Ubuntu is often 127.0.1.1:
    other nodes cannot reach that.
    """
    if host == "localhost" or _is_loopback(host):
        return None
    own = _own_address(host, port)
    if own and _is_loopback(own):  # the host is this node, by its name
        own = _own_address(ELSEWHERE, port)
    for name, addresses in psutil.net_if_addrs().items():
        if own in {address.address.partition("%")[0] for address in addresses}:
            return str(name)
    return None


def _own_address(host: str, port: int) -> str | None:
    """The address of this node on packets to a host; a datagram socket sends none to find out."""
    with suppress(OSError):
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0]).partition("%")[0]
    return None


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):  # a name
        return ipaddress.ip_address(host).is_loopback
    return False
