"""Who reaches the server: the address it listens on, and which hosts, origins and clients it answers.

This module imports no torch, so that the command can name a port that is taken before the slow imports.
"""

import ipaddress
import os
import re
import reprlib
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from ..common.errors import UserError

ANY = "*"  # allows every origin
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\]+")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::[0-9]{1,5})?", re.ASCII)
IPV6_PREFIX = 64  # bits that one customer of a provider shares; the others are theirs to choose


# the address


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port; port 0 is any free port. UserError if that is impossible."""
    if not 0 <= port < 2**16:
        raise UserError(f"port must be between 0 and {2**16 - 1}, not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long, or has an empty part
        raise UserError(
            f"cannot listen on host {host}, port {port} ({_reason(error)}); try another `host` or `port`"
        ) from None


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return "not a host name"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return _address(listener).is_loopback


def url(listener: socket.socket, host: str) -> str:
    """The address to open in a browser. host: what the user asked to listen on, perhaps a name

    A socket that listens everywhere is reached by the address of this machine in its network.
    """
    bound = _address(listener)
    if bound.is_unspecified:
        host = _own_address(listener.family) or ("::1" if bound.version == 6 else "127.0.0.1")
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _address(listener: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])


def _own_address(family: int) -> str | None:
    """This machine's address in the network through which it reaches others; None if there is none."""
    elsewhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"  # both reserved for documentation
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing: it only chooses a route
            return str(probe.getsockname()[0])
        except OSError:
            return None


# hosts and origins


def check_origins(origins: Collection[str]) -> None:
    """UserError for an origin that no browser sends."""
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise UserError(f"`allow_origin` must be like https://example.org, or *, not {reprlib.repr(origin)}")


def is_allowed_origin(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a page of this origin may connect. Browsers always send an origin; other clients need not.

    host: the Host header of the request; a page that this server sent has the same one in its origin
    """
    if origin is None or origin in allowed or ANY in allowed:
        return True
    return re.fullmatch("https?://" + re.escape(host), origin, re.IGNORECASE) is not None


def is_allowed_host(hosts: Collection[str], allowed: Collection[str]) -> bool:
    """Whether a server that only this machine can reach answers a request with these Host headers.

    A web page elsewhere can make its own name point to this machine (DNS rebinding). Its requests then come from the
    same origin, but name that host. Every browser sends one Host header; a client without any is none.

    allowed: origins; their hosts are allowed, too, which a proxy on this machine needs
    """
    if ANY in allowed:
        return True
    also = {urlsplit(origin).netloc.lower() for origin in allowed}
    return len(hosts) <= 1 and all(_is_loopback(host.lower()) or host.lower() in also for host in hosts)


def _is_loopback(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # the proxy in front sent something else
        return address
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_PREFIX), strict=False))
