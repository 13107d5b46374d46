"""Under which names a server is called, which pages may call it, and which proxies may speak for others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from rallytrace.errors import InputError

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Proxies:
    """Addresses and networks, such as 10.0.0.0/8, whose X-Forwarded-For and -Proto are believed. Raises InputError."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._networks = [_network(text) for text in self.texts]

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __contains__(self, host: object) -> bool:
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(str(host).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise InputError(f"--proxy {text!r}: expected an address or network, such as 10.0.0.7 or 10.0.0.0/8") from None


class Names:
    """The hosts and origins that a server answers to.

    public_url: https://name[:port] under which a proxy, or the network, shows the server. local_only: it is called by
    local names alone besides; else by any. Local names keep a web page from reaching a server of this machine under a
    name of the page's own (DNS rebinding). more: further hosts that are as good as local names. Raises InputError.
    """

    def __init__(self, public_url: str | None = None, *, local_only: bool, more: Iterable[str] = ()) -> None:
        self.public_url = _origin(public_url) if public_url else None
        self._local_only = local_only
        self._known = {name.strip("[]").lower() for name in (*LOCAL_NAMES, *more)}
        if self.public_url:
            self._known.add((urlsplit(self.public_url).hostname or "").lower())

    @property
    def is_secure(self) -> bool:
        """Whether the public URL is one of https."""
        return (self.public_url or "").startswith("https:")

    def wrong_host(self, headers: Mapping[str, str]) -> str | None:
        """The name by which the request calls the server, where it has no such name."""
        name = _name(headers.get("host", ""))
        return name[:80] if self._local_only and name not in self._known else None

    def wrong_origin(self, headers: Mapping[str, str]) -> str | None:
        """The page that a browser says the request comes from, where it is none of the server's own."""
        origin = headers.get("origin")
        if origin is None:
            return None
        host = origin.partition("://")[2].lower()
        if host == headers.get("host", "").lower() or origin.lower() == self.public_url:
            return None
        return origin[:80]


def _name(host: str) -> str:
    """Of a Host header: without the port, in small letters."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name.strip("[]").lower()


def _origin(url: str) -> str:
    """As a browser writes it: scheme and host, with a port that is not the scheme's own."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in PORTS or not parts.hostname or rest:
        raise InputError(f"--public-url {url!r}: expected https://name or https://name:port, without a path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, PORTS[parts.scheme]) else "")
