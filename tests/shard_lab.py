"""Sharded and local twins of the zoo's models, made once per test run."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from swarm.core.config import ModelConfig
from swarm.core.span import Span
from swarm.shards.causal import load_client_model
from swarm.shards.local import LocalRunner
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.step import Step, StepTensors
from tests.zoo import LAYERS, VOCABULARY, save_tiny

CPU = torch.device("cpu")
SPANS = (Span(0, 1), Span(1, 4), Span(4, LAYERS))
_FOLDER = tempfile.TemporaryDirectory(prefix="zoo-")


@dataclass(frozen=True)
class Twins:
    """The same checkpoint, as a local model and as three shards behind a client model."""

    source: ModelSource
    local: Any
    runner: LocalRunner
    model: Any


@functools.cache
def folder_of(model_type: str, seed: int = 0) -> Path:
    """The tiny checkpoint of an architecture."""
    torch.set_num_threads(1)
    return save_tiny(model_type, Path(_FOLDER.name) / f"{model_type}-{seed}", seed=seed)


@functools.cache
def source_of(model_type: str, seed: int = 0) -> ModelSource:
    """The checkpoint as a source."""
    return ModelSource.open(ModelConfig(str(folder_of(model_type, seed))))


def spans_of(source: ModelSource) -> list[Span]:
    """Three unequal spans; layers that must stay together are the last one."""
    last = source.inseparable.start if source.inseparable else SPANS[2].start
    return [SPANS[0], Span(1, last), Span(last, source.n_layers)]


def load_shards(model_type: str, spans: Sequence[Span] = SPANS) -> list[Shard]:
    """Fresh shards in float32 on the CPU."""
    source = source_of(model_type)
    return [Shard.load(source, span, dtype=torch.float32, device=CPU) for span in spans]


@functools.cache
def twins_of(model_type: str) -> Twins:
    """Local model and sharded model of an architecture."""
    source = source_of(model_type)
    with contextlib.redirect_stderr(io.StringIO()):
        auto: Any = AutoModelForCausalLM
        local = auto.from_pretrained(source.folder, dtype=torch.float32).eval()
    runner = LocalRunner(load_shards(model_type, spans_of(source)))
    return Twins(source, local, runner, load_client_model(source, runner, dtype=torch.float32))


def prompt(length: int = 11, rows: int = 1, seed: int = 1) -> Tensor:
    """Random token ids `[rows, length]` without special tokens."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def left_padded(lengths: Sequence[int] = (9, 5), seed: int = 2) -> dict[str, Tensor]:
    """A batch of prompts of different lengths, padded on the left, with its attention mask."""
    ids = prompt(max(lengths), len(lengths), seed)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : ids.shape[1] - length] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def generate(model: Any, *, seed: int | None = None, **arguments: Any) -> Any:
    """`model.generate`, with torch's global generator seeded when `seed` is given."""
    arguments.setdefault("max_new_tokens", 12)
    if seed is not None:
        torch.manual_seed(seed)
    return model.generate(**arguments)


def hidden(tokens: int, *, rows: int = 1, seed: int = 3, width: int = 32) -> Tensor:
    """A random hidden state `[rows, tokens, width]`."""
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(seed))


def feed(session: ShardSession, number: int, start: int, states: Tensor, **more: Any) -> StepTensors:
    """Apply one step that brings `states`."""
    select = more.pop("select_rows", None)
    return session.apply(Step(number, start, StepTensors(states, **more), select))
