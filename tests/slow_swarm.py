"""A swarm of the demo model in which one peer can be made slow while it runs, and generations that note their way."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from tests.peers import LocalSwarm, PeerProcess

OPTIONS = ("--threads", "1", "--cache-tokens", "8192", "--lease-s", "9", "--no-reuse-speed")
TWIN_FACTOR, SLOW_FACTOR = 8.0, 400.0  # compiled layers of the demo model may take as little as 20 us


class SlowSwarm:
    """One peer for layers 0:4, two for 4:8: `victim`, and a twin that is slower than it is when left alone."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self._factor, twin_factor = swarm.folder / "factor", swarm.folder / "twin-factor"
        write_whole(twin_factor, f"{TWIN_FACTOR}")
        self.addresses = swarm.bootstrap().addresses
        swarm.serve("demo", "0:4", *OPTIONS, peers=self.addresses)
        more = ("--slowdown-file", str(self._factor), "--metrics-port", "0")
        self.victim: PeerProcess = swarm.serve("demo", "4:8", *OPTIONS, *more, peers=self.addresses)
        swarm.serve("demo", "4:8", *OPTIONS, "--slowdown-file", str(twin_factor), peers=self.addresses)

    def slow_down(self, factor: float = SLOW_FACTOR) -> None:
        write_whole(self._factor, f"{factor}")

    def speed_up(self) -> None:
        self._factor.unlink()

    def computed_tokens(self) -> int:
        """Token rows that went through the layers of the victim."""
        with urllib.request.urlopen(self.victim.metrics) as answer:
            page = answer.read().decode()
        found = re.search(r"^swarm_peer_tokens_total\S* (\S+)$", page, re.MULTILINE)
        assert found is not None, page
        return int(float(found[1]))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


@dataclass
class Way:
    """A generation: its sequence, and for each new token the moment (`time.perf_counter`) and the peers."""

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    times: list[float] = field(default_factory=list)
    peers: list[tuple[str, ...]] = field(default_factory=list)


class _Note(StoppingCriteria):
    """Notes each token; `at[1]` is called when there are `at[0]` of them. Stops once the way `is_enough`."""

    def __init__(
        self,
        model: Any,
        way: Way,
        at: tuple[int, Callable[[], None]] | None,
        is_enough: Callable[[Way], bool],
    ) -> None:
        self._model, self._way, self._at, self._is_enough = model, way, at, is_enough

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Any:
        chain = getattr(self._model, "chain", None)
        self._way.times.append(time.perf_counter())
        self._way.peers.append(tuple(hop.peer_id for hop in chain.hops) if chain is not None else ())
        if self._at is not None and len(self._way.times) == self._at[0]:
            self._at[1]()
        return torch.full((input_ids.shape[0],), self._is_enough(self._way))


def generate_on(
    model: Any,
    new_tokens: int,
    at: tuple[int, Callable[[], None]] | None = None,
    prompt_tokens: int = 12,
    is_enough: Callable[[Way], bool] = lambda way: False,
) -> Way:
    """Greedy tokens of a fixed prompt, by a `SwarmModel` or a local one; no other session of it may run meanwhile.

    At most `new_tokens`: it ends as soon as the way `is_enough`.
    """
    ids = torch.randint(5, 150, (1, prompt_tokens), generator=torch.Generator().manual_seed(7))
    way = Way()
    way.tokens = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([_Note(model, way, at, is_enough)]),
    )
    return way
