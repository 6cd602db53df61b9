"""The address at which the first node of a job can be reached by the others."""

import fcntl
import socket
import struct

from jobs.resources import Resources
from segtrain.errors import LaunchError

SIOCGIFADDR = 0x8915  # netdevice(7): the address of an interface


def address(host: str, resources: Resources) -> str:
    """That of the preset's interface on this node, else the host's name with its suffix. Raises LaunchError."""
    return _address_of(resources.interface, host) if resources.interface else host + (resources.host_suffix or "")


def _address_of(interface: str, host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError as error:
            names = ", ".join(name for _, name in socket.if_nameindex())
            raise LaunchError(
                f"interface={interface}: {host} has no such network interface with an address; it has {names}"
            ) from error
    return socket.inet_ntoa(answer[20:24])
