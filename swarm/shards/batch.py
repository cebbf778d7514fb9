"""One round of steps of several sessions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.shards.flat_attention import Way
from swarm.shards.flat_run import Item, can_join, run_flat
from swarm.shards.row_run import run_rows
from swarm.shards.step import StepTensors

Outcome = StepTensors | Exception
_JOINED_TOKENS = 16384


def apply_batch(items: Sequence[Item]) -> list[Outcome]:
    """What `ShardSession.apply` would return or raise for each of `items`, which are of different sessions.

    Steps through the same layers run in one forward where the shard's `batching` allows it. A step that is refused
    drops out alone; a forward that fails is the failure of every session that was in it, and of no other.
    """
    if len(items) == 1 and not _gains_flat(items[0]):
        return [_apply(items[0])]
    assert len({id(session) for session, _ in items}) == len(items), "one step per session"
    outcomes: list[Outcome | None] = [None] * len(items)
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, (session, _) in enumerate(items):
        key = (id(session.shard), session.span.start, session.span.end)
        groups.setdefault(key, []).append(index)
    for indices in groups.values():
        chosen = [items[index] for index in indices]
        for index, outcome in zip(indices, _apply_group(chosen), strict=True):
            outcomes[index] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _apply_group(items: Sequence[Item]) -> list[Outcome]:
    way = items[0][0].shard.batching
    if way == "one by one" or (len(items) == 1 and not _gains_flat(items[0])):
        return [_apply(item) for item in items]
    with torch.inference_mode():
        return _apply_together(items, way)


def _apply_together(items: Sequence[Item], way: Way) -> list[Outcome]:
    outcomes: list[Outcome | None] = [_prepare(item) for item in items]
    waiting = [index for index, outcome in enumerate(outcomes) if outcome is None]
    together = [index for index in waiting if can_join(items[index])]
    alone = [index for index in waiting if index not in together]
    joint = [together] if way == "flat" else portions(items, together)
    for group in filter(None, [*joint, *([index] for index in alone)]):
        for index, outcome in zip(group, _run([items[index] for index in group], way), strict=True):
            outcomes[index] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _gains_flat(item: Item) -> bool:
    """Whether one step alone runs faster as a batch, and nothing was prepared for it."""
    session, step = item
    gains = step.tensors.rows == 1 and session.gains_flat(step.tensors.tokens)
    return gains and can_join(item) and not session.next.is_step(step)


def _apply(item: Item) -> Outcome:
    session, step = item
    try:
        return session.apply(step)
    except Exception as error:
        return error


def _prepare(item: Item) -> Outcome | None:
    session, step = item
    try:
        return session.prepare(step)
    except Exception as error:
        return error


def portions(items: Sequence[Item], indices: Sequence[int]) -> list[list[int]]:
    """Which of the items at `indices` run together where pasts are joined.

    Every layer expands all pasts of a portion at once: their tokens are bounded.
    """
    found: list[list[int]] = []
    held = 0
    for index in indices:
        session, step = items[index]
        size = step.tensors.rows * (session.length + step.tensors.tokens)
        if not found or held + size > _JOINED_TOKENS:
            found.append([])
            held = 0
        found[-1].append(index)
        held += size
    return found


def _run(items: Sequence[Item], way: Way) -> list[Outcome]:
    """Run prepared steps, together if there are several."""
    try:
        if len(items) == 1 and not _gains_flat(items[0]):
            session, step = items[0]
            outputs = [session.compute(step)]
        else:
            outputs = _run_together(items, way)
    except Exception as error:
        for session, _ in items:
            session.lose()
        return [error] * len(items)
    return [_commit(item, output) for item, output in zip(items, outputs, strict=True)]


def _run_together(items: Sequence[Item], way: Way) -> list[StepTensors]:
    first = items[0][0]
    recording = first.shard.rows_recording(first.span)
    outputs = run_rows(items, recording) if recording is not None else None
    return run_flat(items, way) if outputs is None else outputs


def _commit(item: Item, output: StepTensors) -> Outcome:
    session, step = item
    try:
        return session.commit(step, output)
    except Exception as error:
        return error
