"""Where a request comes from: the peer's address, or, behind proxies that we trust, what they say. And what a host is.

It refuses to know what the address is used for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_network
from typing import Final

_HOST: Final = re.compile(
    r"(?P<name>[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]{2,45}\])?(:[0-9]{0,5})?", re.ASCII
)
HOST_CHARACTERS_MAX: Final = 253
_IPV6_BITS: Final = 64
"""A household or a server has so many bits of an IPv6 address to choose from."""


def is_host(text: str) -> bool:
    """Whether a ``Host`` header names a host: a name or an address, with a port or without. None at all is allowed."""
    match = _HOST.fullmatch(text)
    return match is not None and len(match["name"] or "") <= HOST_CHARACTERS_MAX


def client_address(peer: str, forwarded_for: str, trusted_proxies: Collection[str]) -> str:
    """Name the client.

    peer: who connected. forwarded_for: the ``X-Forwarded-For`` header: each proxy appends whom it saw. Read from its
    end, as long as the speaker is trusted: the first address that is not a trusted proxy's is the client's, and what
    stands before it was written by the client itself.
    """
    address = peer
    for hop in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
        if address not in trusted_proxies:
            break
        address = hop
    return address


def network_of(address: str) -> str:
    """Name whom an address belongs to: itself, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        known = IPv6Address(address)
    except ValueError:
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ip_network((int(known), _IPV6_BITS), strict=False))
