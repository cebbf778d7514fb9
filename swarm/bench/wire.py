"""What int8 on the wire saves, and what it does to logits and tokens, beside the model's own dtype and the local model.

Logits are compared over texts that the local model wrote, so that every position counts for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from swarm.bench.lab import Lab, cut
from swarm.bench.local_swarm import LocalSwarm
from swarm.bench.plan import Plan
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import timed
from swarm.bench.turns import round_name
from swarm.core.config import ClientConfig, Wire
from swarm.wire.tensor_size import tensors_nbytes
from swarm.wire.tensors import pack

PROMPT = 16
TEXT = 256
COLUMNS = (
    Column("who", "wire"),
    Column("token_bytes", "bytes a token and link", 0),
    Column("logit_error", "logit error, rms", 5),
    Column("logit_worst", "worst", 4),
    Column("flips", "likeliest token differs"),
    Column("greedy", "greedy tokens that differ"),
)


@dataclass(frozen=True, slots=True)
class _Texts:
    """What the local model says: `[1, n]` texts, their logits, and greedy tokens after the prompts `[1, p]`."""

    texts: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    prompts: tuple[Tensor, ...]
    greedy: tuple[tuple[int, ...], ...]


def wire(lab: Lab, plan: Plan) -> Report:
    """One chain of `plan.peers` peers, one client for each form; errors are in standard deviations of the logits."""
    known = _texts(lab, plan)
    rows: list[Row] = []
    with LocalSwarm() as swarm:
        addresses = lab.start_peers(swarm, cut(lab.layers, plan.peers))
        for name in get_args(Wire):
            lab.tell(f"wire: {name}")
            with lab.client(addresses, name) as model:
                rows.append(_row(name, model, known, plan.tokens))
    exact = rows[0]
    problems = ["tokens differ from the local model's without int8"] if exact["wrong_tokens"] else []
    return Report(
        "wire",
        f"Activations on the wire, {plan.peers} peers",
        COLUMNS,
        tuple(rows),
        Figure("who", ("token_bytes",), "bytes"),
        notes=(
            "Logits: beside the local model's, in standard deviations of these, over texts that it sampled.",
        ),
        problems=tuple(problems),
    )


def _texts(lab: Lab, plan: Plan) -> _Texts:
    texts, logits, prompts, greedy = [], [], [], []
    for i in range(1, plan.rounds + 1):
        lab.tell(f"wire, local model: {round_name(i, plan.rounds)}")
        prompt = lab.prompt(PROMPT, seed=i)
        torch.manual_seed(i)
        text = lab.local.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            pad_token_id=0,
            min_new_tokens=plan.prompt or TEXT,
            max_new_tokens=plan.prompt or TEXT,
        )
        texts.append(text)
        logits.append(_logits(lab.local, text))
        prompts.append(prompt)
        greedy.append(timed(lab.local, prompt, plan.tokens).tokens)
    return _Texts(tuple(texts), tuple(logits), tuple(prompts), tuple(greedy))


def _logits(model: Any, text: Tensor) -> Tensor:
    """The logits `[n, V]` of the positions that the model wrote."""
    with torch.no_grad():
        found: Tensor = model(input_ids=text).logits[0, PROMPT - 1 :].float()
    return found


def _row(name: Wire, model: Any, known: _Texts, tokens: int) -> Row:
    errors = [_logits(model, text) - right for text, right in zip(known.texts, known.logits, strict=True)]
    spread = torch.cat(known.logits).std()
    error = torch.cat(errors) / spread
    right = torch.cat(known.logits)
    flips = int((right.argmax(-1) != (right + error * spread).argmax(-1)).sum())
    runs = [timed(model, prompt, tokens).tokens for prompt in known.prompts]
    wrong = _differing(runs, known.greedy)
    hidden = model.get_input_embeddings().embedding_dim
    metas, _ = pack({"hidden": torch.zeros(1, 1, hidden)}, ClientConfig(wire=name).coding)
    return {
        "who": name,
        "token_bytes": tensors_nbytes(metas),
        "logit_error": float(error.square().mean().sqrt()),
        "logit_worst": float(error.abs().max()),
        "flips": f"{flips} of {len(right)}",
        "wrong_flips": flips,
        "greedy": f"{wrong} of {tokens * len(runs)}",
        "wrong_tokens": wrong,
    }


def _differing(found: Sequence[Sequence[int]], known: Sequence[Sequence[int]]) -> int:
    """Tokens that are others; after the first one in a text, mostly all."""
    pairs = zip(found, known, strict=True)
    return sum(a != b for run, right in pairs for a, b in zip(run, right, strict=True))
