"""Kills a peer of the running chain in the middle of a sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from swarm.bench.local_swarm import LocalPeer, LocalSwarm


class Accident:
    """Prints a text as it comes, and once kills the chain's peer out of `candidates`.

    Attributes:
        victim: name of the killed peer; empty while none is.
        token_index: index of the last token that came before the kill.
    """

    def __init__(self, swarm: LocalSwarm, model: Any, candidates: Sequence[str], after_tokens: int) -> None:
        self._swarm = swarm
        self._model = model
        self._candidates = candidates
        self._after_tokens = after_tokens
        self._tokens = 0
        self.victim = ""
        self.token_index = 0

    @property
    def happened(self) -> bool:
        return bool(self.victim)

    def show(self, text: str, tokens: int) -> None:
        """Called once with every token, with the text that it completes."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self._tokens += 1
        in_sentence = not text.rstrip().endswith((".", "!", "?", '"'))
        if not self.happened and self._tokens > self._after_tokens and in_sentence:
            self._kill(self._chosen())

    def _chosen(self) -> LocalPeer:
        """The candidate that the chain uses now."""
        names = {self._model.swarm.peer_name(hop.peer_id) for hop in self._model.chain.hops}
        return next(
            peer for peer in self._swarm.peers if peer.name in names and peer.name in self._candidates
        )

    def _kill(self, peer: LocalPeer) -> None:
        self.victim, self.token_index = peer.name, self._tokens - 1
        self._swarm.kill(peer)
        typer.secho(f" [{peer.name} killed] ", fg="red", bold=True, nl=False)
