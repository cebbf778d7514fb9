"""One prompt continued by one model, in the swarm or in this process, token by token, with times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList, set_seed

from swarm.cli.prompt import Prompt
from swarm.cli.sampling import Sampling
from swarm.client.token_stream import TextAssembler, TokenStream
from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.shards.source import ModelSource


@dataclass(frozen=True, slots=True)
class Completion:
    """What came out. `times` are seconds since the call, one per token."""

    text: str
    tokens: list[int]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    times: list[float]

    @property
    def tokens_per_s(self) -> float | None:
        """Rate after the first token; None where there is only one."""
        if len(self.times) < 2 or self.times[-1] == self.times[0]:
            return None
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def timings(self) -> dict[str, float | None]:
        rate = self.tokens_per_s
        return {
            "first_token_s": round(self.times[0], 4) if self.times else None,
            "total_s": round(self.times[-1], 4) if self.times else None,
            "tokens_per_s": round(rate, 3) if rate is not None else None,
            "longest_gap_s": round(max((b - a for a, b in pairwise(self.times)), default=0), 4),
        }


class _StopText(StoppingCriteria):
    """Ends a generation whose text has reached a stop text."""

    def __init__(self, assembler: TextAssembler) -> None:
        self._assembler = assembler

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._assembler.stopped, device=input_ids.device)


def load_assistant(model: ModelConfig) -> Any:
    """A whole model on this machine, to draft for the big one.

    Raises:
        ModelError: it cannot be loaded.
    """
    source = ModelSource.open(model)
    for name in sorted(set(source.weight_map.values())):
        source.file(name)
    try:
        return AutoModelForCausalLM.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as exc:
        raise ModelError(f"{model.name} cannot be loaded to draft: {str(exc).splitlines()[0]}") from exc


def complete(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    sampling: Sampling,
    show: Callable[[str], None],
) -> Completion:
    """Generate, and hand the text to `show` as it becomes certain: once per token and once at the end, maybe empty."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    encoded = prompt.encode(tokenizer)
    assembler = TextAssembler(decode, sampling.stops)
    stream = TokenStream(assembler, show)
    if sampling.seed is not None:
        set_seed(sampling.seed)
    started = time.perf_counter()
    model.generate(
        **encoded,
        **sampling.arguments(),
        streamer=stream,
        stopping_criteria=StoppingCriteriaList([_StopText(assembler)]) if sampling.stops else None,
        pad_token_id=_padding(tokenizer),
    )
    length_reached = len(stream.ids) >= sampling.max_tokens and not assembler.stopped
    ended = bool(stream.ids) and stream.ids[-1] in _end_tokens(model)
    return Completion(
        text=assembler.text,
        tokens=stream.ids,
        prompt_tokens=encoded["input_ids"].shape[1],
        finish_reason="length" if length_reached and not ended else "stop",
        times=[moment - started for moment in stream.times],
    )


def _padding(tokenizer: Any) -> int | None:
    """Given so that transformers does not say on stderr which token it takes."""
    token: int | None = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return token


def _end_tokens(model: Any) -> list[int]:
    end = model.generation_config.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)
