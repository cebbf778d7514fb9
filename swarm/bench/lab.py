"""What all benchmarks stand on: one checkpoint, the local model as the yardstick, and swarms of local peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from swarm.bench.local_swarm import LocalPeer, LocalSwarm
from swarm.bench.plan import Tell
from swarm.bench.sizes import SIZES, save
from swarm.client.model import SwarmModel
from swarm.core.config import ClientConfig, ModelConfig, Wire
from swarm.core.errors import ConfigError
from swarm.core.span import Span
from swarm.shards.source import ModelSource

FIRST_TOKEN = 5  # lower ids are often special
SERVE_OPTIONS = ("--dtype", "float32", "--max-sessions", "256", "--max-sessions-per-client", "256")


def cut(layers: int, peers: int) -> list[Span]:
    """Spans as equal as possible.

    Raises:
        ConfigError: there are more peers than layers.
    """
    if peers > layers:
        raise ConfigError(f"--peers {peers}: the model has only {layers} layers to share")
    edges = [round(layers * i / peers) for i in range(peers + 1)]
    return [Span(a, b) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class Lab:
    """One model, everywhere in float32 with one torch thread a process. `tell` hears what is going on."""

    source: ModelSource
    tell: Tell

    @classmethod
    def open(cls, name: str, folder: Path, tell: Tell) -> Lab:
        """The lab of a size (written into `folder`), or of another model on this machine.

        Raises:
            ConfigError: there is no such model here; nothing is downloaded for a benchmark.
            ModelError: the model cannot be used.
        """
        if name not in (*SIZES, "demo") and not Path(name).is_dir():
            raise ConfigError(f"--model {name}: give demo or the folder of a model")
        torch.set_num_threads(1)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if name in SIZES:
            tell(f"writing a random model of size {name}")
            name = str(save(SIZES[name], folder / f"size-{name}"))
        return cls(ModelSource.open(ModelConfig(name)), tell)

    @property
    def layers(self) -> int:
        return self.source.n_layers

    @cached_property
    def local(self) -> Any:
        """The yardstick: the whole model in this process."""
        self.tell("loading the local model")
        auto: Any = AutoModelForCausalLM
        return auto.from_pretrained(self.source.folder, dtype=torch.float32, local_files_only=True)

    def prompt(self, length: int, seed: int) -> Tensor:
        """Random tokens `[1, length]`. A new seed every time, lest a cache of earlier prompts answer."""
        vocabulary = self.local.get_input_embeddings().num_embeddings
        dice = torch.Generator().manual_seed(seed)
        return torch.randint(FIRST_TOKEN, vocabulary, (1, length), generator=dice)

    def loop_prompt(self, length: int, seed: int) -> Tensor:
        """A prompt `[1, length]` that repeats eight random tokens: even a random model goes on in loops after it."""
        return self.prompt(8, seed).repeat(1, -(-length // 8))[:, :length]

    @contextmanager
    def chain(self, peers: int, *options: str) -> Iterator[SwarmModel]:
        """A swarm of so many peers, each with its own layers, and a client of it; `options` are for `serve`."""
        with LocalSwarm() as swarm:
            addresses = self.start_peers(swarm, cut(self.layers, peers), options=options)
            with self.client(addresses) as model:
                yield model

    def start_peers(
        self,
        swarm: LocalSwarm,
        spans: Sequence[Span],
        way_in: Sequence[str] = (),
        prefix: str = "peer",
        options: Sequence[str] = (),
    ) -> list[str]:
        """Start a peer for each span, wait until all serve, and return an address of each."""
        self.tell(f"starting {len(spans)} peers")
        started: list[LocalPeer] = []
        for i, span in enumerate(spans):
            name = f"{prefix}-{i}"
            all_options = (*SERVE_OPTIONS, *options)
            started.append(swarm.serve(name, str(self.source.folder), str(span), way_in, *all_options))
            if not way_in:
                way_in = swarm.wait_ready(started[0])[:1]
        return [swarm.wait_ready(peer)[0] for peer in started]

    def client(self, addresses: Sequence[str], wire: Wire = "model") -> SwarmModel:
        """A client of the swarm at these addresses."""
        return SwarmModel.from_pretrained(
            self.source.folder, peers=addresses, dtype="float32", config=ClientConfig(wire=wire)
        )
