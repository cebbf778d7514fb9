"""Where the decoder layers of a transformers model live, and how its own loop calls them.

Nothing here knows a model by name: the layer list is found by its length, the calling convention is read from the
source of the stack's `forward`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from swarm.core.errors import ModelError
from swarm.core.late_imports import late_imports
from swarm.core.span import Span


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the text decoder."""
    return config.get_text_config(decoder=True)


def layer_count(config: PretrainedConfig) -> int:
    """How many decoder layers the configuration announces."""
    return int(text_config(config).num_hidden_layers)


def inseparable_layers(config: PretrainedConfig) -> Span | None:
    """The last layers, if they reuse keys and values of earlier ones: these must be served by one peer."""
    modes = getattr(text_config(config), "kv_sharing_modes", None) or []
    if "reuse" not in modes:
        return None
    producers = [index for index, mode in enumerate(modes) if mode == "store"]
    return Span(min(producers, default=0), len(modes))


def causal_class(config: PretrainedConfig) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class that `AutoModelForCausalLM` takes, and the configuration it wants.

    Raises:
        ModelError: if transformers has no decoder-only class for this configuration.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{kind!r} is an encoder-decoder model; only decoder-only language models are supported"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"transformers has no causal language model class for model type {kind!r}")
    with late_imports():
        cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    text = getattr(config, "text_config", None)
    if cls.config_class is not type(config) and isinstance(text, cls.config_class):
        config = text_config(config)
    return cast("type[PreTrainedModel]", cls), config


@dataclass(frozen=True, slots=True)
class StackPath:
    """`module` is the dotted path of the module that owns the layers, `attribute` the name of its `ModuleList`."""

    module: str
    attribute: str


def find_stack(model: PreTrainedModel) -> StackPath:
    """Find the biggest `ModuleList` that has one entry per decoder layer.

    Raises:
        ModelError: if there is none.
    """
    config = text_config(model.config)
    lengths = {config.num_hidden_layers, getattr(config, "num_layers", config.num_hidden_layers)}
    best: tuple[int, StackPath] | None = None
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if not isinstance(child, nn.ModuleList) or len(child) not in lengths or name == "experts":
                continue
            size = sum(parameter.numel() for parameter in child.parameters())
            if best is None or size > best[0]:
                best = size, StackPath(path, name)
    if best is None:
        raise ModelError(f"{type(model).__name__} has no list of {config.num_hidden_layers} decoder layers")
    return best[1]


def modules_along(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules from `model` down to the one at the dotted `path`, both included."""
    chain = [model]
    for name in filter(None, path.split(".")):
        chain.append(cast(nn.Module, getattr(chain[-1], name)))
    return chain


def stack_of(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that owns the decoder layers, and the attribute that holds them.

    Raises:
        ModelError: if there is none, or it is not called with token embeddings.
    """
    path = find_stack(model)
    stack = modules_along(model, path.module)[-1]
    if "inputs_embeds" not in inspect.signature(inspect.unwrap(type(stack).forward)).parameters:
        raise ModelError(
            f"{type(model).__name__} is not supported: its layers are run by {type(stack).__name__}, no decoder"
        )
    return stack, path.attribute


@dataclass(frozen=True, slots=True)
class LayerCall:
    """How a stack's loop treats its layers.

    Attributes:
        returns_tuple: a layer returns a tuple whose first item is the hidden state, else the hidden state itself.
        carried: for each further item of that tuple, whether the loop hands it to the next layer.
        takes_token_ids: the loop hands `input_ids` to the layers.
        takes_embeds: the loop hands the unchanged input embeddings to the layers.
    """

    returns_tuple: bool = False
    carried: tuple[bool, ...] = ()
    takes_token_ids: bool = False
    takes_embeds: bool = False

    @property
    def carries(self) -> bool:
        return any(self.carried)


def read_layer_call(stack: nn.Module, attribute: str) -> LayerCall:
    """Read the calling convention from the source of `stack.forward`.

    Raises:
        ModelError: if the loop keeps a running value of its own which the layers look at: it would stay behind.
    """
    function = inspect.unwrap(type(stack).forward)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError) as exc:
        raise ModelError(f"the source of {type(stack).__name__}.forward cannot be read: {exc}") from exc
    copies = _names_of_embeds(tree)
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For) and f"self.{attribute}" in ast.unparse(loop.iter):
            found = _read_loop(loop, copies)
            if found is not None:
                return found
    return LayerCall()


def _read_loop(loop: ast.For, embed_names: set[str]) -> LayerCall | None:
    layer_names = _names(loop.target)
    for statement in ast.walk(loop):
        if not isinstance(statement, ast.Assign):
            continue
        call = _layer_call_in(statement.value, layer_names)
        if call is None:
            continue
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        fed = set().union(*(_names(value) for value in given))
        _refuse_running_values(loop, call)
        rest = {name for value in given[1:] for name in ([value.id] if isinstance(value, ast.Name) else [])}
        takes = {"takes_token_ids": "input_ids" in rest, "takes_embeds": bool(rest & embed_names)}
        target = statement.targets[0]
        if isinstance(target, ast.Tuple):
            carried = tuple(isinstance(item, ast.Name) and item.id in fed for item in target.elts[1:])
            return LayerCall(True, carried, **takes)
        return LayerCall(isinstance(statement.value, ast.Subscript) or _is_indexed(loop, target), (), **takes)
    return None


def _refuse_running_values(loop: ast.For, call: ast.Call) -> None:
    """Some loops collect something over the layers (`x = cat(x, hidden)`) and hand it to each of them."""
    hidden = _names(call.args[0]) if call.args else set()
    passed = (
        set().union(*(_names(value) for value in [*call.args, *(k.value for k in call.keywords)])) - hidden
    )
    for node in ast.walk(loop):
        if isinstance(node, ast.Assign) and _layer_call_in(node.value, _names(loop.target)) is None:
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            running = targets & passed & _names(node.value)
            if running:
                raise ModelError(
                    f"its layers share the running value {sorted(running)[0]!r}, so they cannot be divided"
                )


def _is_indexed(loop: ast.For, target: ast.expr) -> bool:
    name = target.id if isinstance(target, ast.Name) else None
    return any(
        isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == name
        for node in ast.walk(loop)
    )


def _layer_call_in(value: ast.expr, layer_names: set[str]) -> ast.Call | None:
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in layer_names:
            return node
    return None


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _names_of_embeds(tree: ast.AST) -> set[str]:
    """Variables that keep a clone of `inputs_embeds` or are it under another name, and are assigned once."""
    counts: dict[str, int] = {}
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            for name in _names(target):
                counts[name] = counts.get(name, 0) + 1
        if ast.unparse(node.value) in (
            "torch.clone(inputs_embeds)",
            "inputs_embeds.clone()",
            "inputs_embeds",
        ):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if counts[name] == 1}


def runs_before_layers(model: PreTrainedModel) -> set[str] | None:
    """Names of the stack's children that run before its first layer, found by a dry run on the meta device.

    What is not among them (the final norm above all) need neither be downloaded nor loaded by a shard. None means
    that the dry run failed and nothing is known.
    """
    stack, attribute = stack_of(model)
    seen: set[str] = set()
    handles = []
    for name, child in stack.named_children():
        if name != attribute:
            for module in child.modules():
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: seen.add(name)))
    first = cast(nn.ModuleList, getattr(stack, attribute))[0]
    handles.append(first.register_forward_pre_hook(_stop))
    hidden = text_config(model.config).hidden_size
    dtype = next(model.parameters()).dtype
    try:
        # a 4-D mask is passed through by transformers: no data-dependent code runs on meta tensors
        for mask in (torch.zeros(1, 1, 2, 2, device="meta"), None):
            seen.clear()
            embeds = torch.zeros(1, 2, hidden, device="meta", dtype=dtype)
            if _reaches_first_layer(
                stack, {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False}
            ):
                return seen
    finally:
        for handle in handles:
            handle.remove()
    return None


class _Reached(Exception):
    """The dry run came to the first layer."""


def _stop(*_: object) -> None:
    raise _Reached


def _reaches_first_layer(stack: nn.Module, arguments: dict[str, Any]) -> bool:
    try:
        with torch.device("meta"):
            stack(**arguments)
    except _Reached:
        return True
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError, KeyError):
        return False  # this architecture's preamble does not run on meta tensors: the caller keeps everything
    return False
