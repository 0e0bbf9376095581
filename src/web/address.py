"""Where a request comes from: the peer's address, or, behind proxies that we trust, what they say.

It refuses to know what the address is used for.
"""

from __future__ import annotations

from collections.abc import Collection


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
