"""Memory of a cached token on a peer, as allocated and as the process grows, beside what keys, values and output need.

Sessions of different lengths run together on the layers of one peer, as they would there, but in this process, which
can see both what its tensors hold and what the system has given it.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from swarm.bench.fed_shard import PIECE, feed, first_shard
from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.report import Column, Figure, Report, Row
from swarm.core.pages import PAGE_TOKENS, pages_for
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard

PROMPT = 1024
COLUMNS = (
    Column("who", "memory"),
    Column("tokens", "tokens"),
    Column("theory", "needed, bytes/token", 0),
    Column("allocated_ratio", "allocated"),
    Column("counted_ratio", "counted by the pool"),
    Column("process_ratio", "growth of the process"),
)
_PART = PIECE // 4
_TOLERANCE = 1.1


@dataclass(frozen=True, slots=True)
class Held:
    """What sessions hold, in bytes, all together."""

    tokens: int
    allocated: int
    counted: int
    process: int


def memory(lab: Lab, plan: Plan) -> Report:
    """As many sessions as `plan.sessions` has at most: their prompts, and then token after token for all of them."""
    count, longest = max(plan.sessions), plan.prompt or PROMPT
    shard = first_shard(lab, plan.peers)
    span = shard.span
    lengths = [_stepped(longest - longest * i // (2 * count)) for i in range(count)]
    uncounted = _uncounted(shard, longest)
    before = _process_bytes()
    sessions = [shard.open(span, rollback=True) for _ in lengths]
    for number, (session, length) in enumerate(zip(sessions, lengths, strict=True)):
        lab.tell(f"memory: prompt {number + 1} of {count}")
        feed([session], length)
    prompts = _held(sessions, before)
    for number in range(plan.tokens):
        lab.tell(f"memory: token {number + 1} of {plan.tokens}")
        feed(sessions, 1)
    grown = _held(sessions, before)
    del uncounted
    theory = needed_bytes(shard)
    found = {"after the prompts": prompts, "after decoding": grown}
    return Report(
        "memory",
        f"Memory of {count} sessions of {lengths[-1]} to {longest} tokens and {plan.tokens} new ones, "
        f"layers {span} of {lab.layers}",
        COLUMNS,
        tuple(_row(who, held, theory) for who, held in found.items()),
        Figure("who", ("allocated_ratio", "counted_ratio", "process_ratio"), "of what is needed"),
        notes=(
            "Needed: 2 x key heads x head size x layers x 4 bytes, and the output, hidden size x 4 bytes.",
        ),
        problems=tuple(_problems(grown, theory)),
    )


def _stepped(length: int) -> int:
    """The next length up that is a multiple of a part of a piece: pieces have few different sizes then."""
    return -(-length // _PART) * _PART


def _uncounted(shard: Shard, longest: int) -> list[ShardSession]:
    """Sessions whose pieces have all sizes that there will be; while they stay, nobody gets their memory.

    What libraries allocate once for a size is no cache.
    """
    sessions = [shard.open(shard.span, rollback=True) for _ in range(PIECE // _PART)]
    for i, session in enumerate(sessions):
        feed([session], max(_stepped(longest) - i * _PART, _PART))
    feed(sessions, 1)
    return sessions


def needed_bytes(shard: Shard) -> int:
    """Keys and values of one token in all layers of the shard, and its output, which is kept for a replay."""
    config = shard.config
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    pair = 2 * int(getattr(config, "num_key_value_heads", None) or heads) * width
    return (pair * len(shard.span) + int(config.hidden_size)) * shard.dtype.itemsize


def _held(sessions: Sequence[ShardSession], before: int) -> Held:
    tokens = [session.length for session in sessions]
    pages = sum(map(pages_for, tokens))
    per_token = sessions[0].shard.cache_bytes_per_token
    return Held(
        sum(tokens),
        sum(session.nbytes for session in sessions),
        pages * PAGE_TOKENS * per_token,
        _process_bytes() - before,
    )


def _process_bytes() -> int:
    """What the system has given, without what the C library keeps for the next allocation (glibc: up to 64 MiB)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


def _row(who: str, held: Held, theory: int) -> Row:
    needed = held.tokens * theory
    return {
        "who": who,
        "tokens": held.tokens,
        "theory": theory,
        "allocated_ratio": held.allocated / needed,
        "counted_ratio": held.counted / needed,
        "process_ratio": held.process / needed,
    }


def _problems(held: Held, theory: int) -> list[str]:
    shares = {"allocated": held.allocated, "counted by the pool": held.counted, "the growth": held.process}
    return [
        f"{name} is {size / (held.tokens * theory):.2f} of what is needed, more than {_TOLERANCE:g}"
        for name, size in shares.items()
        if size > _TOLERANCE * held.tokens * theory
    ]
