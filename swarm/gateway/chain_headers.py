"""Response headers that tell which peers answered, and how long each took for a token."""

from __future__ import annotations

from swarm.gateway.desk import Answer


def chain_headers(answer: Answer) -> dict[str, str]:
    """`x-swarm-chain`: `PEER=A:B, ...`; `server-timing`: milliseconds a token on each hop and in between."""
    chain, profile = answer.chain, answer.profile
    if chain is None:
        return {}
    headers = {"x-swarm-chain": ", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops)}
    if profile.steps:
        hops = [
            f'hop{i};desc="{peer}";dur={1000 * times.total_s / profile.steps:.2f}'
            for i, (peer, times) in enumerate(profile.hops.items())
        ]
        links = f"links;dur={1000 * max(profile.network_s, 0.0) / profile.steps:.2f}"
        headers["server-timing"] = ", ".join([*hops, links])
    return headers
