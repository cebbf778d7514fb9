"""The single "layer" of a client's model: it sends the hidden state through the chain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from swarm.core.errors import RequestError
from swarm.shards.boundary import Boundary
from swarm.shards.remote import CallContext, RemoteCache, RemoteRunner
from swarm.shards.stack import LayerCall
from swarm.shards.step import StepTensors
from swarm.shards.stubs import Stub
from swarm.shards.traits import ModelTraits


class RemoteLayers(Stub):
    """Stands for all decoder layers. `context` is filled by hooks before the stack runs; see `causal`."""

    def __init__(
        self, original: nn.Module, runner: RemoteRunner, traits: ModelTraits, call: LayerCall
    ) -> None:
        super().__init__(original)
        self.__dict__["runner"] = runner
        self.__dict__["context"] = CallContext()
        self.__dict__["traits"] = traits
        self.__dict__["call"] = call
        self.__dict__["boundary"] = Boundary(0, ())  # found out once the weights are there

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hidden state after the last layer, in the form the stack's loop expects."""
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if torch.is_grad_enabled() and hidden.requires_grad:
            raise RequestError("gradients through remote layers are not supported; use torch.no_grad()")
        context: CallContext = self.__dict__["context"]
        if context.answer is not None:
            return self._returned(context.answer(hidden))
        boundary: Boundary = self.__dict__["boundary"]
        arguments = context.arguments
        wire = boundary.to_wire(hidden)
        cache = context.cache
        temporary = cache is None
        if cache is None:
            cache = self.new_cache(max_tokens=wire.shape[1], rollback=False)
        try:
            output = cache.step(self._step_tensors(wire, cache, arguments), keep_last=context.keep_last)
        finally:
            if temporary:
                cache.close()
        output = boundary.from_wire(output.to(device=hidden.device, dtype=hidden.dtype))
        return self._returned(output)

    def _returned(self, output: Tensor) -> Any:
        call: LayerCall = self.__dict__["call"]
        return (output, *[None] * max(len(call.carried), 1)) if call.returns_tuple else output

    def new_cache(self, *, max_tokens: int | None = None, rollback: bool = True) -> RemoteCache:
        """An empty cache for this model."""
        return RemoteCache(
            self.__dict__["runner"], self.__dict__["traits"], max_tokens=max_tokens, rollback=rollback
        )

    def _step_tensors(self, hidden: Tensor, cache: RemoteCache, arguments: dict[str, Any]) -> StepTensors:
        traits: ModelTraits = self.__dict__["traits"]
        context: CallContext = self.__dict__["context"]
        rows, count = hidden.shape[:2]
        mask = _new_mask(arguments.get("attention_mask"), context.outer_mask, rows, count)
        token_ids = arguments.get("input_ids")
        if traits.needs_token_ids and token_ids is None:
            raise RequestError("this model needs input_ids; inputs_embeds alone are not enough")
        return StepTensors(
            hidden=hidden.detach(),
            mask=mask,
            positions=_positions(arguments.get("position_ids"), cache.length, rows, count),
            token_ids=token_ids if traits.needs_token_ids else None,
            embeds=hidden.detach() if traits.needs_embeds else None,
            per_layer=context.per_layer if traits.per_layer_width else None,
        )


def _new_mask(inner: Any, outer: Tensor | None, rows: int, count: int) -> Tensor | None:
    """`[B, n]` bool for the new tokens, None if none is padding.

    Composite models hand prepared masks to their text stack: then the outer model's mask is meant.
    """
    mask = inner if isinstance(inner, Tensor) and inner.dim() == 2 else outer
    if mask is None:
        return None
    if mask.dim() != 2:
        raise RequestError(f"an attention mask needs the shape [rows, tokens], got {list(mask.shape)}")
    new = mask[:, -count:].bool()
    if new.shape != (rows, count):
        raise RequestError(f"the attention mask {list(mask.shape)} is shorter than the {count} new tokens")
    return None if (rows == count == 1 and new.item()) or bool(new.all()) else new


def _positions(given: Any, start: int, rows: int, count: int) -> Tensor | None:
    """`[B, n]` position ids, None if they are `start .. start + n - 1` in every row."""
    if not isinstance(given, Tensor):
        return None
    if given.dim() == 3:  # one plane per rotary section; for text they are all the same
        if not bool((given == given[:1]).all()):
            raise RequestError("position ids that differ between sections (images, video) are not supported")
        given = given[0]
    if given.dim() == 1:
        given = given[None]
    if given.numel() == 1:
        if given.item() == start:
            return None
    elif bool((given == torch.arange(start, start + count, device=given.device)).all()):
        return None
    positions: Tensor = given.expand(rows, count).to(torch.long)
    return positions
