"""A swarm whose peers move on command, one after the other, and sessions that run meanwhile.

Three peers serve two halves of a model: one half is served twice. Whoever of these two has been there longer holds the
sessions; it is sent to the other half, and then that one is served twice. So every move hands all sessions over.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm.bench.timed import Timed, timed
from swarm.client.model import SwarmModel
from swarm.core.span import Span
from tests.peers import LocalSwarm, PeerProcess
from tests.slow_swarm import write_whole
from tests.waiting import wait_for

OPTIONS = ("--threads", "1", "--cache-tokens", "16384", "--kept-prefixes", "0", "--metrics-port", "0")
MOVE_DEADLINE_S = 90.0


@dataclass
class _Mover:
    peer: PeerProcess
    orders: Path
    half: int


@dataclass(frozen=True, slots=True)
class Move:
    """When a peer was told to move, and when it served again, by `time.perf_counter`."""

    told_s: float
    done_s: float


class MovingSwarm:
    """`halves` are the two spans, of as many layers each."""

    def __init__(
        self, swarm: LocalSwarm, model: str | Path, halves: tuple[Span, Span], *options: str
    ) -> None:
        assert len(halves[0]) == len(halves[1])
        self.addresses = swarm.bootstrap().addresses
        self._halves = halves
        self._movers: list[_Mover] = []
        for number, half in enumerate((0, 1, 0)):
            orders = swarm.folder / f"orders-{number}"
            argv = (*OPTIONS, *options, "--layers-file", str(orders))
            peer = swarm.serve(model, str(halves[half]), *argv, peers=self.addresses)
            self._movers.append(_Mover(peer, orders, half))
        self.moves: list[Move] = []

    def move(self) -> None:
        """The next peer goes to the other half; returns when it serves there."""
        mover = self._movers[len(self.moves) % len(self._movers)]
        mover.half = 1 - mover.half
        before, told_s = mover.peer.log.count("info: moved "), time.perf_counter()
        write_whole(mover.orders, str(self._halves[mover.half]))
        wait_for(lambda: mover.peer.log.count("info: moved ") > before, MOVE_DEADLINE_S, "the peer has moved")
        self.moves.append(Move(told_s, time.perf_counter()))

    def computed_tokens(self) -> int:
        """Token rows that went through the layers of all peers, without those of their probes."""
        return sum(
            int(_sample(mover.peer, "swarm_peer_tokens_total"))
            - int(_sample(mover.peer, "swarm_peer_probe_tokens_total"))
            for mover in self._movers
        )

    def handed_over(self) -> int:
        """Sessions whose state went from a peer to another one."""
        return sum(
            int(_sample(mover.peer, 'swarm_peer_handovers_total{direction="out"}')) for mover in self._movers
        )


def _sample(peer: PeerProcess, name: str) -> float:
    with urllib.request.urlopen(peer.metrics) as answer:
        page = answer.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found is not None, page
    return float(found[1])


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt `[1, S]`, and the new tokens that the local model gives."""

    ids: Tensor
    expected: tuple[int, ...]

    @classmethod
    def of(cls, local: Any, seed: int, tokens: int) -> Question:
        """Ask the local model."""
        ids = torch.randint(5, 150, (1, 12), generator=torch.Generator().manual_seed(seed))
        return cls(ids, timed(local, ids, tokens).tokens)

    @property
    def forwarded(self) -> int:
        """Tokens that go through the layers for it: the last one does not."""
        return self.ids.shape[1] + len(self.expected) - 1


class Sessions:
    """As many sessions at once as there are questions, each of which is asked again and again."""

    def __init__(self, model: SwarmModel, questions: Sequence[Question]) -> None:
        self._model = model
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.answers: list[tuple[Question, Timed]] = []
        self._errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(question,)) for question in questions]
        for thread in self._threads:
            thread.start()

    def _run(self, question: Question) -> None:
        try:
            while not self._ending.is_set():
                answer = timed(self._model, question.ids, len(question.expected))
                with self._lock:
                    self.answers.append((question, answer))
        except Exception as error:
            self._errors.append(error)

    def end(self) -> None:
        """Let every session come to its end; raises what one of them raised."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error

    @property
    def wrong(self) -> int:
        """Answers that are not the local model's."""
        return sum(answer.tokens != question.expected for question, answer in self.answers)

    @property
    def forwarded(self) -> int:
        """Tokens that had to go through each layer once."""
        return sum(question.forwarded for question, _ in self.answers)


@contextmanager
def running(model: SwarmModel, questions: Sequence[Question]) -> Iterator[Sessions]:
    """Sessions that run from the beginning to the end of the block."""
    sessions = Sessions(model, questions)
    try:
        yield sessions
    finally:
        sessions.end()
