"""Tokens per second of one session whose past is long, beside the local model.

The prompt is computed once. Every round goes on from its end, and then both caches are rolled back to there.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import Turns, differences, round_name

PROMPT = 1023
COLUMNS = (
    Column("who", "long"),
    Column("tokens_per_s", "tokens/s", 1),
    Column("step_ms", "ms/token", 1),
    Column("ratio", "of local"),
    Column("spread", "rounds"),
)


class Continued:
    """A model, local or remote, and its cache of a prompt without the last token."""

    def __init__(self, model: Any, ids: Tensor) -> None:
        self._model = model
        self._ids = ids
        with torch.inference_mode():
            self._cache = model(ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values

    def run(self, tokens: int) -> Timed:
        """Generate from the prompt's end, and forget what was generated."""
        found = timed(self._model, self._ids, tokens, past=self._cache)
        self._cache.crop(-tokens)  # the last token of the prompt, and all but the last of the new ones
        return found


def long(lab: Lab, plan: Plan) -> Report:
    """Every round local model and chain continue the same prompt, `plan.prompt` tokens long."""
    length = plan.prompt or PROMPT
    ids = lab.prompt(length, seed=0)
    local: list[Timed] = []
    remote: list[Timed] = []
    with lab.chain(plan.peers) as model:
        lab.tell(f"long: {length} tokens through the local model")
        yardstick = Continued(lab.local, ids)
        lab.tell(f"long: {length} tokens through {plan.peers} peers")
        chain = Continued(model, ids)
        for i in range(plan.rounds + 1):
            lab.tell(f"long: {round_name(i, plan.rounds)}")
            local.append(yardstick.run(plan.tokens))
            remote.append(chain.run(plan.tokens))
        del chain  # closes its session
    return Report(
        "long",
        f"Decode of {plan.tokens} tokens at position {length}, one session",
        COLUMNS,
        (_row("local", local[1:], None), _row(Turns.who(plan.peers), remote[1:], local[1:])),
        Figure("who", ("tokens_per_s",), "tokens/s"),
        problems=tuple(differences(remote, local)),
    )


def _row(who: str, found: list[Timed], local: list[Timed] | None) -> Row:
    steps = [run.step_s for run in found]
    speed = ratio([run.step_s for run in local], steps) if local else None
    return {
        "who": who,
        "tokens_per_s": 1 / median(steps),
        "step_ms": 1000 * median(steps),
        "ratio": speed.median if speed else None,
        "spread": speed.spread if speed else None,
        "ratios": speed.rounds if speed else None,
    }
