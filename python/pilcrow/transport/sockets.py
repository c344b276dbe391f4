"""Addresses and options of sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from ..errors import StartError
from ..wire import shown

_METADATA = ipaddress.ip_network("fd00:ec2::/32")
"""Where a cloud serves metadata over IPv6."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses within IPv6."""


def tune(sock: socket.socket | None) -> None:
    """Packets are sent at once, and a machine that is gone is noticed after some 15 s."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 9), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def peer_name(address: Any) -> str:
    """The address of a peer as text, IPv4 as such."""
    if not isinstance(address, tuple):
        return shown(address or "?")
    host = str(address[0])
    host = host[7:] if host.startswith("::ffff:") and "." in host else host
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def ip_of(host: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a host as it is listed; IPv4 as such, even if it is mapped to IPv6. None if it
    is not an address."""
    try:
        address = ipaddress.ip_address(str(host).strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def is_own_host(host: Any) -> bool:
    """Whether a connection to this host ends at the machine that makes it."""
    address = ip_of(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def blocked_because(host: Any) -> str | None:
    """Why a host is never called, even if a node registers it; none if it may be."""
    address = ip_of(host)
    if address is None:
        return "its host is not an address"
    if address.version == 6 and address in _NAT64:
        address = ipaddress.ip_address(int(address) & 0xFFFF_FFFF)
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return "its address is not that of one host"
    if address.version == 4 and int(address) >> 24 == 0:
        return "its address is not that of one host"
    if address.is_link_local or (address.version == 6 and address in _METADATA):
        return "its address is link-local, where cloud metadata is served"
    return None


def parse_address(text: str) -> tuple[str, int]:
    """``host:port``, ``[::1]:port``. Raises :class:`StartError`."""
    if not isinstance(text, str):
        raise StartError(f"{shown(text)} is not an address: write a text host:port, for example '127.0.0.1:9000'")
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise StartError(f"'{shown(text)}' is not an address: write host:port, for example 127.0.0.1:9000")
    return host, int(port)


def explain(error: BaseException) -> str:
    """Why there is no connection, in words."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "the host does not answer"
    if isinstance(error, ConnectionRefusedError):
        return "nothing is listening there"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "the connection was cut by the other side"
    if isinstance(error, OSError) and error.errno is not None and error.errno < 0:
        return "there is no host of that name"
    return shown(getattr(error, "strerror", None) or error or type(error).__name__)


def parse_host_port(text: str) -> tuple[str, int] | None:
    """As :func:`parse_address`, for what another node says; none if it is not an address."""
    try:
        return parse_address(text)
    except StartError:
        return None
