"""Compare a sharded model with the local one on random prompts: does splitting change anything?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from swarm.core.errors import ConfigError, ModelError, RequestError
from swarm.core.span import Span
from swarm.shards.causal import load_client_model
from swarm.shards.loading import free_memory, load_weights
from swarm.shards.local import LocalRunner
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.stack import stack_of
from swarm.shards.stubs import SkippedModule
from swarm.shards.truncate import forget_missing_ties

# what the order of additions may change, per dtype, relative to the largest logit
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One test: the largest difference of logits, relative to the largest logit; `note` is for the reader."""

    name: str
    ok: bool
    max_error: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `compare` found."""

    model: str
    splits: tuple[Span, ...]
    layers: int
    model_layers: int
    dtype: str
    results: tuple[CheckResult, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every test passed."""
        return all(result.ok for result in self.results)

    @property
    def verdict(self) -> str:
        """One line a user can act on."""
        depth = (
            ""
            if self.layers == self.model_layers
            else f" (first {self.layers} of {self.model_layers} layers)"
        )
        parts = ", ".join(str(span) for span in self.splits)
        if self.ok:
            worst = max((result.max_error for result in self.results), default=0.0)
            return f"{self.model}{depth} can be served: split into {parts} it equals the local one (error {worst:.1e})"
        failed = ", ".join(result.name for result in self.results if not result.ok)
        return f"{self.model}{depth} must not be served in parts: {failed} differ from the local one; please report it"


def compare(
    source: ModelSource,
    splits: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    max_layers: int | None = None,
) -> CheckReport:
    """Run both models on random prompts: prefill, decode, roll-back and a padded batch.

    `max_layers` looks at the first layers only; None takes as many as fit into memory twice.

    Raises:
        ConfigError: if there are more splits than layers.
        ModelError: if the checkpoint cannot be loaded.
    """
    depth = min(max_layers or _depth_that_fits(source, dtype), source.n_layers)
    spans, depth = _choose_spans(source, depth, splits)
    shards = [Shard.load(source, span, dtype=dtype, device=_CPU) for span in spans]
    runner = LocalRunner(shards)
    sharded = load_client_model(source, runner, dtype=dtype)
    local = _load_local(source, depth, dtype)
    pair = _Pair(local, sharded, shards[0].traits.croppable, dtype, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        results = tuple(_guarded(name, test, pair) for name, test in _TESTS.items())
    return CheckReport(
        source.name, tuple(spans), depth, source.n_layers, str(dtype).removeprefix("torch."), results
    )


def _choose_spans(source: ModelSource, depth: int, splits: int) -> tuple[list[Span], int]:
    """Spans of the first layers, and how many these are; layers that must stay together count as one."""
    together = source.inseparable
    whole = together is not None and depth == source.n_layers
    if together is not None:
        depth = together.start + 1 if whole else min(depth, together.start)
    if not 1 <= splits <= depth:
        raise ConfigError(f"{splits} splits asked for, but only {depth} layers are compared")
    spans = split_unequally(depth, splits)
    if whole:
        spans[-1] = Span(spans[-1].start, source.n_layers)
    return spans, spans[-1].end


def split_unequally(layers: int, splits: int) -> list[Span]:
    """Spans of different lengths that cover `[0, layers)`: the first is short, the middle ones long."""
    cuts = sorted({0, layers, *(round(layers * ((i / splits) ** 1.3)) for i in range(1, splits))})
    while len(cuts) <= splits:  # rounding made two cuts equal
        widest = max(range(len(cuts) - 1), key=lambda i: cuts[i + 1] - cuts[i])
        cuts.insert(widest + 1, (cuts[widest] + cuts[widest + 1]) // 2)
    return [Span(a, b) for a, b in itertools.pairwise(cuts)]


def _depth_that_fits(source: ModelSource, dtype: torch.dtype) -> int:
    """Layers that fit into 80% of the free memory twice, beside embeddings and head."""
    layers = source.n_layers
    per_layer = source.layer_bytes(Span(0, layers), dtype) / layers
    ends = source.total_bytes(dtype) - per_layer * layers
    room = 0.8 * free_memory(_CPU) - 2 * ends
    return max(1, min(layers, int(room / (2 * per_layer))))


def _load_local(source: ModelSource, depth: int, dtype: torch.dtype) -> PreTrainedModel:
    """The whole model in this process, cut off after `depth` layers."""
    base, config = source.causal_class()
    cls = base if depth == source.n_layers else _shallow_class(base, depth)
    return load_weights(source, cls, config, dtype=dtype, device=_CPU).model


def _shallow_class(cls: type[PreTrainedModel], depth: int) -> type[PreTrainedModel]:
    """A subclass whose layers from `depth` on pass the hidden state through."""

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        stack, attribute = stack_of(self)
        layers = cast(nn.ModuleList, getattr(stack, attribute))
        for index in range(depth, len(layers)):
            layers[index] = SkippedModule(layers[index])
        forget_missing_ties(self)

    namespace = {"__init__": build, "__module__": cls.__module__}
    return cast("type[PreTrainedModel]", type(cls.__name__, (cls,), namespace))


class _Pair:
    """Both models, asked the same."""

    def __init__(
        self, local: Any, sharded: Any, croppable: bool, dtype: torch.dtype, rng: torch.Generator
    ) -> None:
        self.local = local
        self.sharded = sharded
        self.croppable = croppable
        self.tolerance = _TOLERANCE[dtype]
        self._rng = rng
        self._vocabulary = local.config.get_text_config(decoder=True).vocab_size

    def prompt(self, rows: int, tokens: int) -> Tensor:
        """Random token ids."""
        return torch.randint(0, self._vocabulary, (rows, tokens), generator=self._rng)

    def both(self) -> Iterator[Any]:
        """The local model, then the sharded one."""
        yield self.local
        yield self.sharded


def _guarded(name: str, test: Callable[[_Pair], tuple[float, str]], pair: _Pair) -> CheckResult:
    """A test that cannot even run has failed, with the reason as its note."""
    try:
        error, note = test(pair)
    except (RequestError, ModelError, RuntimeError, ValueError, IndexError, TypeError, AttributeError) as exc:
        return CheckResult(
            name, False, float("inf"), f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        )
    return CheckResult(name, error <= pair.tolerance, error, note)


def _difference(outputs: list[Tensor], keep: Tensor | None = None) -> float:
    """Largest difference of two models' logits, relative to the largest logit; NaN counts as infinite."""
    expected, found = (output if keep is None else output[keep] for output in outputs)
    error = (expected.float() - found.float()).abs().max() / expected.float().abs().max().clamp(min=1e-6)
    return float(torch.nan_to_num(error, nan=float("inf")))


def _prefill(pair: _Pair) -> tuple[float, str]:
    ids = pair.prompt(1, 33)
    return _difference([model(ids).logits for model in pair.both()]), "33 tokens at once"


def _decode(pair: _Pair) -> tuple[float, str]:
    ids = pair.prompt(1, 12)
    arguments = {
        "max_new_tokens": 16,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    outputs = [model.generate(ids, **arguments, eos_token_id=None) for model in pair.both()]
    same = torch.equal(outputs[0].sequences, outputs[1].sequences)
    steps = min(len(output.logits) for output in outputs)
    error = _difference([torch.stack(output.logits[:steps]) for output in outputs])
    return error, "16 tokens, all the same" if same else "some of 16 tokens differ"


def _rollback(pair: _Pair) -> tuple[float, str]:
    if not pair.croppable:
        return 0.0, "skipped: this architecture cannot roll back, on one machine neither"
    ids, other = pair.prompt(1, 14), pair.prompt(1, 5)
    expected = pair.local(ids).logits[:, 9:]
    first = pair.sharded(ids[:, :9], use_cache=True)
    pair.sharded(other, past_key_values=first.past_key_values)
    first.past_key_values.crop(-5)
    found = pair.sharded(ids[:, 9:], past_key_values=first.past_key_values).logits
    return _difference([expected, found]), "5 tokens taken back"


def _batch(pair: _Pair) -> tuple[float, str]:
    ids = pair.prompt(3, 15)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[2, :9] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    outputs = []
    for model in pair.both():
        given: dict[str, Any] = model.prepare_inputs_for_generation(
            ids, attention_mask=mask, position_ids=positions, use_cache=False
        )
        given.pop("use_cache", None)
        outputs.append(model(**given, use_cache=False).logits)
    keep = mask[:, -outputs[0].shape[1] :].bool()
    return _difference(outputs, keep), "3 rows of different lengths, padded on the left"


_TESTS: dict[str, Callable[[_Pair], tuple[float, str]]] = {
    "prefill": _prefill,
    "decode": _decode,
    "rollback": _rollback,
    "batch": _batch,
}
