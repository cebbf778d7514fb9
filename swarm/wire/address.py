"""Addresses: what users and records give, checked before p2pd sees it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from swarm.core.errors import ConfigError
from swarm.security.peer_id import public_key_of
from swarm.wire.hivemind_parts import Multiaddr

_EXAMPLE = "/ip4/192.0.2.7/tcp/31330/p2p/12D3Koo..."


def listen_address(host: str, port: int) -> str:
    """The multiaddr on which p2pd listens.

    Raises:
        ConfigError: if `host` is no IP address, or `port` no port.
    """
    ip = parse_host(host)
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port needs a number from 0 to 65535, got {port}")
    return f"/ip{ip.version}/{ip}/tcp/{port}"


def parse_host(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; `localhost` is one.

    Raises:
        ConfigError: if it is neither.
    """
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as exc:
        raise ConfigError(f"--host needs an IP address such as 0.0.0.0 or 127.0.0.1, got {host!r}") from exc


def announced_addresses(host: str, port: int, public: Sequence[str]) -> tuple[str, ...]:
    """What p2pd tells others instead of the addresses it finds; empty: let it find them.

    Given public addresses replace what p2pd would tell, so those of this machine itself are added: peers beside it in
    the same network may not reach the public one.
    """
    if not public or port == 0:
        return tuple(map(without_peer_id, public))
    ip = parse_host(host)
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    own = [str(ip)]
    if ip.is_unspecified:
        cards = psutil.net_if_addrs().values()
        own = [entry.address for card in cards for entry in card if entry.family == family]
    local = (f"/ip{ip.version}/{address}/tcp/{port}" for address in own if "%" not in address)
    return tuple(dict.fromkeys((*map(without_peer_id, public), *local)))


def loopback_last(address: str) -> bool:
    """A sorting key: addresses that only this machine can use come last."""
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def check_peer_addresses(addresses: Sequence[str]) -> None:
    """Make sure that each one is a multiaddr with a peer id.

    Raises:
        ConfigError: naming the first that is not.
    """
    for address in addresses:
        if not is_multiaddr(address) or peer_id_in(address) is None:
            raise ConfigError(f"--peers needs addresses such as {_EXAMPLE}, got {address!r}")


def check_public_addresses(addresses: Sequence[str]) -> None:
    """Make sure that each one is a multiaddr with a port.

    Raises:
        ConfigError: naming the first that is not.
    """
    for address in addresses:
        if not is_multiaddr(address) or "/tcp/0" in address:
            raise ConfigError(
                f"--public-address needs an address such as /ip4/203.0.113.5/tcp/31330, got {address!r}"
            )


def peer_id_in(address: str) -> str | None:
    """The peer id at the end of a multiaddr; None if there is none."""
    head, separator, peer_id = address.rpartition("/p2p/")
    return peer_id if separator and head and peer_id else None


def host_in(address: str) -> str | None:
    """The IP address of a multiaddr that is reached without a relay; None if there is none."""
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6") or "p2p-circuit" in parts:
        return None
    return parts[2]


def without_peer_id(address: str) -> str:
    """The multiaddr up to its peer id."""
    return address.rpartition("/p2p/")[0] if "/p2p/" in address else address


def is_multiaddr(address: str) -> bool:
    """Whether hivemind's parser takes it, and it names a transport."""
    if not address.startswith(("/ip4/", "/ip6/", "/dns", "/p2p/")):
        return False
    try:
        Multiaddr(address)
    except Exception:  # the parser raises whatever its codecs raise
        return False
    return True


def is_ed25519_peer_id(peer_id: str) -> bool:
    """Whether the peer id is of the kind that every node of ours has."""
    return public_key_of(peer_id) is not None
