"""What is published about a simulated swarm: the board that every peer decides by, older than the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from swarm.routing.seats import Board, Seat
from swarm.sim.agenda import Agenda
from swarm.sim.world import SimPeer, World

PUBLISH_S = 5.0
_LEASE_LEFT_S = (20.0, 30.0)  # of a record at a random moment: it is renewed at a third of its lease


class Records:
    """Takes over the state of all peers every few seconds; who vanishes stays on the board until its lease ends."""

    def __init__(self, agenda: Agenda, world: World, rng: np.random.Generator) -> None:
        self._agenda, self._world, self._rng = agenda, world, rng
        self._ghosts: dict[str, Seat] = {}
        self._changed = False
        self.board = Board(world.n_layers, ())
        self.listeners: list[Callable[[], None]] = []
        agenda.every(PUBLISH_S, self.publish)

    def changed(self) -> None:
        """Some record is not as published any more."""
        self._changed = True

    def vanished(self, peer: SimPeer) -> None:
        """A peer is gone without a word."""
        self._ghosts[peer.peer_id] = peer.seat()
        self._agenda.after(float(self._rng.uniform(*_LEASE_LEFT_S)), lambda: self._forget(peer.peer_id))

    def publish(self) -> None:
        """Make the board anew, if anything changed."""
        for peer in self._world.peers.values():
            self._changed |= peer.measure()
        if self._changed:
            self._changed = False
            seats = self._ghosts | {peer.peer_id: peer.seat() for peer in self._world.peers.values()}
            self.board = Board(self._world.n_layers, tuple(seats[peer_id] for peer_id in sorted(seats)))
            for listener in self.listeners:
                listener()

    def _forget(self, peer_id: str) -> None:
        del self._ghosts[peer_id]
        self._changed = True
