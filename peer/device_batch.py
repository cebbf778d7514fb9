"""What one turn on the device consists of: steps of several sessions, and questions about what sessions hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.shards.batch import Outcome, apply_batch
from swarm.shards.session import ShardSession
from swarm.shards.step import Step, StepTensors


@dataclass(frozen=True, slots=True)
class Question:
    """Something to find out in the device's thread, where sessions do not change meanwhile."""

    ask: Callable[[], object]


Work = Step | Question


class Applied(NamedTuple):
    """An output, and the token rows that were computed for it (none if it had been kept)."""

    output: StepTensors
    computed_tokens: int


def run_batch(batch: Sequence[tuple[ShardSession, Work]]) -> list[object]:
    """For each work, of different sessions: `Applied`, or the answer to a question, or the error that it raised."""
    steps = [(session, work) for session, work in batch if isinstance(work, Step)]
    before = [session.counters.tokens for session, _ in steps]
    found = [
        _applied(session, step, outcome, tokens)
        for (session, step), outcome, tokens in zip(steps, apply_batch(steps), before, strict=True)
    ]
    if len(found) == len(batch):
        return found
    outcomes = iter(found)
    return [next(outcomes) if isinstance(work, Step) else _answer(work) for _, work in batch]


def _applied(session: ShardSession, step: Step, outcome: Outcome, tokens_before: int) -> object:
    if isinstance(outcome, Exception):
        return outcome
    return Applied(outcome, step.tensors.rows * (session.counters.tokens - tokens_before))


def _answer(question: Question) -> object:
    try:
        return question.ask()
    except Exception as error:
        return error
