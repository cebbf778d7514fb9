"""Whether recordings of layers are right here, and faster than what they stand for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from swarm.core.span import Span
from swarm.shards.ahead import Foreseen
from swarm.shards.flat_run import Item, run_flat
from swarm.shards.foreign_code import CANNOT_TRY, random_tensors
from swarm.shards.recording import TRIAL, Maker, compile_layers, record, session_with_past
from swarm.shards.rehearsal import Recording, rehearse
from swarm.shards.room import GrowingLayer
from swarm.shards.row_run import run_rows
from swarm.shards.self_check import deviation_of, tolerance_of
from swarm.shards.step import Step, StepTensors

if TYPE_CHECKING:
    from swarm.shards.session import ShardSession
    from swarm.shards.shard import Shard

logger = logging.getLogger(__name__)

_TIMED_STEPS = 16
_CLEAR_GAIN = 0.95
_ROWS = 4


def try_compiling(shard: Shard) -> Maker | None:
    """What makes compiled programs of layers, for one token of any number of sessions, if they are right."""
    if not _is_plain(shard):
        return None
    return _unless(shard, "compiled", lambda: _right(shard, compile_layers(shard)))


def try_recording(shard: Shard, compiled: Maker | None) -> Maker | None:
    """What makes recordings for one session, if they are faster than what they stand for: compiled ones, or torch's."""
    if compiled is not None and _unless(shard, "compiled for one session", lambda: _faster(shard, compiled)):
        return compiled
    if not _is_plain(shard):
        return None
    return _unless(
        shard, "recorded", lambda: _right(shard, _faster(shard, partial(record, shard)), sessions=1)
    )


def try_rows(shard: Shard, compiled: Maker | None) -> Maker | None:
    """The same for tokens of several sessions at once: only compiled programs take these."""
    if compiled is None:
        return None
    return _unless(shard, "compiled for several sessions", lambda: _faster_for_rows(shard, compiled))


def _is_plain(shard: Shard) -> bool:
    on_cpu = shard.device.type == "cpu" and not shard.quantized
    if not (on_cpu and shard.looks_ahead and shard.batching == "flat"):
        return False
    return all(type(layer) is GrowingLayer for layer in shard.new_cache(shard.span, rollback=True).owned)


class _Unfit(RuntimeError):
    """Why recordings are not used."""


def _unless(shard: Shard, what: str, trial: Callable[[], Maker]) -> Maker | None:
    try:
        return trial()
    except CANNOT_TRY as error:
        kind = "" if isinstance(error, _Unfit) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())[:200]
        logger.debug("layers %s are not %s: %s", shard.span, what, reason)
        return None


def _right(shard: Shard, maker: Maker, sessions: int = _ROWS) -> Maker:
    error = deviation(shard, maker(shard.span), sessions)
    if error > tolerance_of(shard):
        raise _Unfit(f"it deviates by {error:.1e}")
    return maker


def _faster(shard: Shard, maker: Maker) -> Maker:
    """Unless a recording of the first layer takes as long as the call in its place."""
    span = Span(shard.span.start, shard.span.start + 1)
    session = session_with_past(shard, span)
    hidden = random_tensors(shard, span, torch.Generator().manual_seed(2)).hidden
    return _if_faster(maker, span, lambda recording: _seconds(session, hidden, recording))


def _faster_for_rows(shard: Shard, maker: Maker) -> Maker:
    """The same for several sessions."""
    span = Span(shard.span.start, shard.span.start + 1)
    sessions = [session_with_past(shard, span) for _ in range(_ROWS)]
    dice = torch.Generator().manual_seed(2)
    items = [(session, Step(1, session.length, random_tensors(shard, span, dice))) for session in sessions]
    return _if_faster(maker, span, lambda recording: _seconds_of_rows(items, recording))


def _if_faster(maker: Maker, span: Span, seconds: Callable[[Recording | None], float]) -> Maker:
    recording, usual_s, recorded_s = maker(span), float("inf"), float("inf")
    with torch.inference_mode():
        for _ in range(_TIMED_STEPS):
            usual_s, recorded_s = min(usual_s, seconds(None)), min(recorded_s, seconds(recording))
    if recorded_s >= _CLEAR_GAIN * usual_s:
        raise _Unfit("it is no faster")
    return maker


def _seconds(session: ShardSession, hidden: Tensor, recording: Recording | None) -> float:
    """What one more token takes, which is forgotten again."""
    foreseen: Foreseen | None
    if recording is None:
        foreseen = session.run.note_next(session.length, session.cache)
    else:
        foreseen = rehearse(session, recording)
    if foreseen is None:
        raise _Unfit("it does not fit")
    started = time.perf_counter()
    foreseen.run(hidden)
    spent_s = time.perf_counter() - started
    _forget([session])
    return spent_s


def _seconds_of_rows(items: Sequence[Item], recording: Recording | None) -> float:
    started = time.perf_counter()
    found = run_flat(items, "flat") if recording is None else run_rows(items, recording)
    spent_s = time.perf_counter() - started
    if found is None:
        raise _Unfit("it does not take several sessions")
    _forget([session for session, _ in items])
    return spent_s


def _forget(sessions: Sequence[ShardSession]) -> None:
    for session in sessions:
        for layer in session.cache.owned:
            layer.crop(-1)


def deviation(shard: Shard, recording: Recording, sessions: int) -> float:
    """The largest deviation of recorded steps from usual ones, relative to what the layers add.

    Steps of one session first, then of several at once, whose pasts are of different lengths.
    """
    dice = torch.Generator().manual_seed(3)
    pairs = [_Pair(shard, recording, dice) for _ in range(sessions)]
    for tokens in TRIAL:
        pairs[0].step_alone(tokens)
    if sessions > 1:
        for number, pair in enumerate(pairs[1:]):
            pair.step_alone(number + 1)
        _step_together(pairs, recording)
    return max(pair.worst for pair in pairs)


class _Pair:
    """Two sessions that get the same steps, one of them by the recording."""

    def __init__(self, shard: Shard, recording: Recording, dice: torch.Generator) -> None:
        self._recording = recording
        self._dice = dice
        self.usual, self.recorded = (shard.open(shard.span, rollback=True) for _ in range(2))
        self.worst = 0.0

    def next_step(self, tokens: int) -> Step:
        session = self.usual
        tensors = random_tensors(session.shard, session.span, self._dice, tokens=tokens)
        return Step(session.last_step + 1, session.length, tensors)

    def step_alone(self, tokens: int) -> None:
        step = self.next_step(tokens)
        if step.start:
            self.recorded.next.prepare(self._recording)
        self.compare(step, self.recorded.apply(step))

    def compare(self, step: Step, found: StepTensors) -> None:
        self.worst = max(self.worst, deviation_of(found, self.usual.apply(step), step.tensors))


def _step_together(pairs: Sequence[_Pair], recording: Recording) -> None:
    items = [(pair.recorded, pair.next_step(1)) for pair in pairs]
    with torch.inference_mode():
        for session, step in items:
            session.prepare(step)
        outputs = run_rows(items, recording)
        if outputs is None:
            raise _Unfit("it does not take several sessions")
        for (session, step), output in zip(items, outputs, strict=True):
            session.commit(step, output)
    for pair, (_, step), output in zip(pairs, items, outputs, strict=True):
        pair.compare(step, output)
