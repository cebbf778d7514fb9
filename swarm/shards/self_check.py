"""Whether a shard may run several sessions in one forward, found out by trying.

The flat way is silently wrong wherever layers look at other tokens by means that `flat_attention` does not see. So
both ways get the same random input, and what the layers add to it has to be equal.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from swarm.core.span import Span
from swarm.shards.flat_attention import Way
from swarm.shards.flat_run import run_flat
from swarm.shards.foreign_code import CANNOT_TRY, random_tensors
from swarm.shards.session import ShardSession
from swarm.shards.step import Step, StepTensors

if TYPE_CHECKING:
    from swarm.shards.shard import Shard

logger = logging.getLogger(__name__)

Batching = Literal["flat", "joined", "one by one"]

# relative to what the layers add, in the L2 norm over a step
_FLOAT32_TOLERANCE = 1e-4
_HALF_TOLERANCE = 0.1
_ATTEMPTS = 3  # rounding may send a token to other experts; what is wrong is wrong for all random inputs
_LONGEST_WINDOW = 32768
_PIECE = 3


def choose_batching(shard: Shard) -> Batching:
    """The fastest way that is right for this shard."""
    reason = _obstacle(shard)
    if reason is None:
        ways: tuple[Way, ...] = ("flat", "joined")
        for way in ways:
            reason = _deviation(shard, way)
            if reason is None:
                return way
    logger.info("layers %s run their sessions one by one: %s", shard.span, reason)
    return "one by one"


def _obstacle(shard: Shard) -> str | None:
    """What is known to go wrong, perhaps only with inputs that are too long to try."""
    if shard.call.carries:
        return "layers hand further values to each other"
    cache = shard.new_cache(shard.span, rollback=False)
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.owned):
        return "they keep a recurrent state"
    for module in shard.stack.modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
                return f"rotary positions of kind {kind!r} depend on the longest session"
    longest = max((window for window in _windows(shard) if window is not None), default=0)
    if longest > _LONGEST_WINDOW:
        return f"a window of {longest} tokens is too long to try"
    return None


def _deviation(shard: Shard, way: Way) -> str | None:
    tolerance = tolerance_of(shard)
    error = math.inf
    try:
        for seed in range(_ATTEMPTS):
            with torch.inference_mode():
                error = min(error, _try(shard, way, seed))
            if error <= tolerance:
                break
    except CANNOT_TRY as exc:
        return " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
    logger.debug("layers %s: %s deviates by %.1e, allowed is %.1e", shard.span, way, error, tolerance)
    return None if error <= tolerance else f"a batch deviates by {error:.1e} (allowed is {tolerance:.1e})"


def tolerance_of(shard: Shard) -> float:
    """What may lie between two ways of computing the same, see `deviation_of`."""
    exact = shard.dtype in (torch.float32, torch.float64) and not shard.quantized
    return _FLOAT32_TOLERANCE if exact else _HALF_TOLERANCE


# trying ---------------------------------------------------------------------------------------------------------------


def _try(shard: Shard, way: Way, seed: int) -> float:
    short = _Trial(shard, shard.span, way, seed)
    _try_short_sessions(short)
    layers = _layers_with_windows(shard)
    if layers is None:
        return short.worst
    full = _Trial(shard, layers, way, seed)
    _try_full_windows(full, max(filter(None, _windows(shard))))
    return max(short.worst, full.worst)


def _try_short_sessions(trial: _Trial) -> None:
    """Prompts, pieces of prompts and single tokens together; two rows of which one is padded.

    Some of more than eight tokens, some of less: attention has a way of its own for few.
    """
    first, second, third = trial.open(), trial.open(rollback=False), trial.open()
    padded = trial.open(padding=(0, 3))
    trial.compare((first, 5), (second, 9), (padded, 10))
    trial.compare((first, 1), (second, 4), (padded, 1), (third, 2))
    trial.compare((third, 1), (padded, 2), (first, 1), (second, 1))


def _layers_with_windows(shard: Shard) -> Span | None:
    """The first layers that have every kind of window; None if no session can be longer than a window."""
    windows = _windows(shard)
    longest = max((window for window in windows if window is not None), default=0)
    limit = shard.traits.max_positions
    if not longest or (limit is not None and longest + 16 > limit):
        return None
    return Span(shard.span.start, shard.span.start + 1 + max(map(windows.index, windows)))


def _try_full_windows(trial: _Trial, longest: int) -> None:
    """Sessions that are longer than what sliding layers look at."""
    recording, sliding, fresh = trial.open(), trial.open(rollback=False), trial.open()
    trial.compare((recording, 1), (sliding, 1))
    trial.fill(recording, longest + 4)
    trial.fill(sliding, longest + 4)
    trial.compare((recording, _PIECE), (fresh, 2), (sliding, 1))
    trial.compare((recording, 1), (fresh, 1), (sliding, _PIECE))


def _windows(shard: Shard) -> list[int | None]:
    """For each layer of the shard, how far it looks back; None without limit."""
    found = []
    for index in range(shard.span.start, shard.span.end):
        cache = shard.new_cache(Span(index, index + 1), rollback=False)
        sizes = [getattr(layer, "sliding_window", None) for layer in cache.owned]
        found.append(next((size for size in sizes if size is not None), None))
    return found


@dataclass(frozen=True, slots=True)
class _Twins:
    """Two sessions that get the same steps, one of them in batches; `padding` counts padding tokens of each row."""

    flat: ShardSession
    alone: ShardSession
    padding: tuple[int, ...]


class _Trial:
    """Gives random steps to twins; `worst` is the largest deviation so far, relative to what the layers add."""

    def __init__(self, shard: Shard, span: Span, way: Way, seed: int) -> None:
        self._shard = shard
        self._span = span
        self._way = way
        self._dice = torch.Generator().manual_seed(seed)
        self.worst = 0.0

    def open(self, *, rollback: bool = True, padding: tuple[int, ...] = (0,)) -> _Twins:
        first, second = (self._shard.open(self._span, rollback=rollback) for _ in range(2))
        return _Twins(first, second, padding)

    def compare(self, *parts: tuple[_Twins, int]) -> None:
        """Give each of the twins so many new tokens."""
        steps = [self._step(twins, tokens) for twins, tokens in parts]
        items = [(twins.flat, step) for (twins, _), step in zip(parts, steps, strict=True)]
        with torch.inference_mode():
            for session, step in items:
                session.prepare(step)
            outputs = run_flat(items, self._way)
            for (session, step), output in zip(items, outputs, strict=True):
                session.commit(step, output)
        for (twins, _), step, output in zip(parts, steps, outputs, strict=True):
            expected = twins.alone.apply(step)
            self.worst = max(self.worst, deviation_of(output, expected, step.tensors))

    def fill(self, twins: _Twins, tokens: int) -> None:
        """Put random keys and values into the cache, loud ones where no layer may look at them any more."""
        length = twins.flat.length + tokens
        for first, second in zip(twins.flat.cache.owned, twins.alone.cache.owned, strict=True):
            keys, values = (self._past(states, tokens) for states in (first.keys, first.values))
            if first.is_sliding:
                values[:, :, : length + _PIECE - 1 - first.sliding_window] *= first.sliding_window
            for layer in (first, second):
                layer.update(keys, values)
        for session in (twins.flat, twins.alone):
            session.length = session.cache.seen = length

    def _past(self, like: Tensor, tokens: int) -> Tensor:
        past = torch.randn(*like.shape[:2], tokens, like.shape[-1], generator=self._dice)
        return past.to(device=like.device, dtype=like.dtype)

    def _step(self, twins: _Twins, tokens: int) -> Step:
        start = twins.flat.length
        rows = len(twins.padding)
        named = random_tensors(self._shard, self._span, self._dice, rows=rows, tokens=tokens).named()
        if any(twins.padding):
            padding = torch.tensor(twins.padding)[:, None]
            positions = torch.arange(start, start + tokens) - padding
            named |= {"mask": positions >= 0, "positions": positions.clamp(min=0)}
        return Step(twins.flat.last_step + 1, start, StepTensors.from_named(named))


def deviation_of(found: StepTensors, expected: StepTensors, given: StepTensors) -> float:
    """Of the tokens that are not padding, relative to what the layers have added to them."""
    states = [tensors.hidden.float() for tensors in (found, expected, given)]
    if given.mask is not None:
        states = [hidden[given.mask] for hidden in states]
    deviation = float((states[0] - states[1]).norm() / (states[1] - states[2]).norm())
    return deviation if math.isfinite(deviation) else math.inf
