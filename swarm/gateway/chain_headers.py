"""What a client is told of the peers that answer it: which they are, and how long each takes for a token."""

from __future__ import annotations

from swarm.gateway.answer import Answer
from swarm.routing.chain import Chain


def chain_headers(answer: Answer) -> dict[str, str]:
    """`x-swarm-chain`: `PEER=A:B, ...`; `server-timing`: milliseconds on each hop, and on the links if known.

    The times are means of the tokens so far; with the first token of a stream, those of the prompt.
    """
    if answer.chain is None:
        return {}
    return {"x-swarm-chain": chain_text(answer.chain), "server-timing": ", ".join(_timings(answer))}


def chain_text(chain: Chain) -> str:
    """`PEER=A:B, ...`, in the order of the layers."""
    return ", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops)


def _timings(answer: Answer) -> list[str]:
    profile = answer.profile
    if not profile.steps:
        return [
            _entry(i, timing.peer, timing.queue_s + timing.compute_s + timing.serialise_s)
            for i, timing in enumerate(profile.latest)
        ]
    hops = [
        _entry(i, peer, times.total_s / profile.steps) for i, (peer, times) in enumerate(profile.hops.items())
    ]
    return [*hops, f"links;dur={1000 * max(profile.network_s, 0.0) / profile.steps:.2f}"]


def _entry(index: int, peer: str, seconds: float) -> str:
    return f'hop{index};desc="{peer}";dur={1000 * seconds:.2f}'
