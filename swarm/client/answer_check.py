"""Checks of what a hop returned. Its sizes come from a stranger: nothing is trusted."""

from __future__ import annotations

from swarm.client.inbox import Answer
from swarm.core.errors import PeerIncompatible
from swarm.shards.step import StepTensors

_NAMES = frozenset({"hidden", "mask", "positions", "token_ids", "embeds", "per_layer"})


def check_answer(answer: Answer, sent: StepTensors, tokens: int, peer_id: str) -> StepTensors:
    """The answer's tensors: `tokens` positions of every row that was sent, in the same dtype.

    Raises:
        PeerIncompatible: naming what is wrong, and the peer.
    """
    hidden = answer.tensors.get("hidden")
    wanted = (sent.rows, tokens, *sent.hidden.shape[2:])
    if hidden is None or tuple(hidden.shape) != wanted or hidden.dtype != sent.hidden.dtype:
        found = "nothing" if hidden is None else f"{hidden.dtype} {list(hidden.shape)}"
        raise PeerIncompatible(
            f"peer {peer_id} returned {found} for a hidden state {sent.hidden.dtype} {list(wanted)}", peer_id
        )
    for name, tensor in answer.tensors.items():
        if not (name in _NAMES or name.startswith("carry.")) or tuple(tensor.shape[:2]) != wanted[:2]:
            raise PeerIncompatible(
                f"peer {peer_id} returned a tensor {name!r} of {list(tensor.shape)}", peer_id
            )
    return StepTensors.from_named(answer.tensors)
