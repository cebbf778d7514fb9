"""A model class without the modules that a span does not need, built on the meta device."""

from __future__ import annotations

import copy
import itertools
from typing import Any, cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.shards.meta_build import on_meta, strip
from swarm.shards.stack import (
    find_stack,
    modules_along,
    read_layer_call,
    runs_before_layers,
    stack_of,
    text_config,
)
from swarm.shards.stubs import SkippedModule, ZeroEmbedding


def meta_model(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """The model without any weights: only names, shapes and code."""
    with on_meta():
        model = cls(copy.deepcopy(config))
    strip(model)
    return model


def truncated_class(
    cls: type[PreTrainedModel], config: PretrainedConfig, span: Span
) -> type[PreTrainedModel]:
    """A subclass of `cls` that owns layers `[span.start, span.end)` and what runs before layer 0, and nothing else.

    It has the name of `cls`, because transformers looks up conversions of checkpoint keys by class name.
    """
    whole = meta_model(cls, config)
    try:
        read_layer_call(*stack_of(whole))
    except ModelError as exc:
        raise ModelError(f"{cls.__name__} is not supported: {exc}") from exc
    before = runs_before_layers(whole)

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        _drop_outside_of_stack(self)
        _drop_inside_stack(self, span, before)
        forget_missing_ties(self)

    namespace = {"__init__": build, "__module__": cls.__module__}
    return cast("type[PreTrainedModel]", type(cls.__name__, (cls,), namespace))


def forget_missing_ties(model: PreTrainedModel) -> None:
    """Remove tied pairs of which a side is not part of the model any more; see `lost_ties`."""
    present = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied: dict[str, str] = model.all_tied_weights_keys
    model.all_tied_weights_keys = {a: b for a, b in tied.items() if a in present and b in present}
    model.__dict__["lost_ties"] = {a: b for a, b in tied.items() if a in present and b not in present}


def lost_ties(model: PreTrainedModel) -> dict[str, str]:
    """Parameters of a truncated model whose only copy in the checkpoint bears the name of one that lives elsewhere."""
    lost: dict[str, str] = model.__dict__.get("lost_ties", {})
    return lost


def _drop_outside_of_stack(model: PreTrainedModel) -> None:
    """The head, a vision tower, projectors: everything that is not on the path to the stack."""
    chain = modules_along(model, find_stack(model).module)
    for parent, child in itertools.pairwise(chain):
        for name, module in list(parent.named_children()):
            if module is not child:
                parent._modules[name] = SkippedModule(module)


def _drop_inside_stack(model: PreTrainedModel, span: Span, before: set[str] | None) -> None:
    stack, attribute = stack_of(model)
    vocabulary = text_config(model.config).vocab_size
    for name, module in list(stack.named_children()):
        if name == attribute:
            continue
        if isinstance(module, nn.Embedding) and _holds_tokens(name, module, vocabulary):
            stack._modules[name] = ZeroEmbedding(module)
        elif before is not None and name not in before and any(True for _ in module.parameters()):
            stack._modules[name] = SkippedModule(module)
    layers = cast(nn.ModuleList, getattr(stack, attribute))
    for index in range(len(layers)):
        if index not in span:
            layers[index] = SkippedModule(layers[index])


def _holds_tokens(name: str, module: nn.Embedding, vocabulary: int) -> bool:
    return module.num_embeddings == vocabulary or name.startswith("embed_tokens")
