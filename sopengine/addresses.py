"""Where the name of another system leads, and whether an address that staff typed may be called.

A guarded call goes only where anybody on the internet could go. Every address that the name has must
be a public one, else none of them is called; and the connection is made to one of the very addresses
that were looked at, so a name that changes its mind in between changes nothing.
"""

import socket
import threading
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from queue import Empty, SimpleQueue

from django.conf import settings

from sopengine.errors import Permanent

# The registries of special addresses (IANA), and the one public address that a cloud (Azure) gives
# its own machines to be asked for secrets at.
_CLOSED_4 = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_OPEN_6 = ip_network("2000::/3")
_CLOSED_6 = [
    ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
]
_NAT64 = ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ip_network("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)  # the third quarter of an address that leads to an IPv4 address


class Network:
    """The network as it is. A test hands in another one, whose names lead elsewhere."""

    def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a name, the preferred one first; OSError when it has none."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError("this is no name of a host") from None
        return list(dict.fromkeys(str(place[4][0]) for place in found))

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        """Return a socket connected to this IP address, or raise TimeoutError or another OSError."""
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.settimeout(seconds)
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock


INTERNET = Network()


def connected(
    service: str, host: str, port: int, *, network: Network, guarded: bool, until: float
) -> socket.socket:
    """Return a socket to the first address of the host that takes it, before the moment `until`.

    Raises Permanent when the call is guarded and any address is not public, TimeoutError or another
    OSError when nobody answers. Each address gets its share of the time that is left.
    """
    addresses = _addresses(network, host, until)
    if guarded and not all(is_public(address) for address in addresses):
        raise Permanent(
            f"{service}: this address leads into a private network, where nothing is called",
            code="address_refused",
        )
    error: OSError = OSError("the host has no address")
    for place, address in enumerate(addresses):
        share = (until - time.monotonic()) / (len(addresses) - place)
        if share <= 0:
            raise TimeoutError("the time for connecting is over")
        try:
            sock = network.connect(address, port, share)
        except OSError as failed:
            error = failed
        else:
            sock.settimeout(max(until - time.monotonic(), 0.001))  # for the handshake
            return sock
    raise error


def _addresses(network: Network, host: str, until: float) -> list[str]:
    """Return the addresses of a host; the resolver knows no time limit, so it runs beside us."""
    if _literal(host) is not None:
        return [host]
    found: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def look_up() -> None:
        try:
            found.put(network.resolve(host))
        except OSError as error:
            found.put(error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        outcome = found.get(timeout=max(0.0, until - time.monotonic()))
    except Empty:
        raise TimeoutError("nobody said in time where this name leads") from None
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_public(address: str) -> bool:
    """Say whether anybody on the internet could reach this IP address; a text that is none is not."""
    found = _literal(address)
    if isinstance(found, IPv6Address):
        inner = _inner(found)
        if inner is None:
            return _is_public_6(found)
        found = inner
    return found is not None and not any(found in network for network in _CLOSED_4)


def _is_public_6(address: IPv6Address) -> bool:
    if address.scope_id or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return address in _OPEN_6 and not any(address in network for network in _CLOSED_6)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a mapped, NAT64 or 6to4 address leads to."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def is_allowed(host: str, port: int) -> bool:
    """Say whether settings.HTTP_ALLOWED_HOSTS names this host, alone or with this port."""
    name = host.lower().rstrip(".")
    shown = f"[{name}]" if ":" in name else name
    return not {name, shown, f"{shown}:{port}"}.isdisjoint(settings.HTTP_ALLOWED_HOSTS)
