"""The client's model: the real CausalLM class, whose list of decoder layers is one remote module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from swarm.core.errors import RequestError
from swarm.shards.boundary import PROBE_ROWS, PROBE_TOKENS, read_boundary
from swarm.shards.lean_forward import find_lean_forward, with_lean_forward
from swarm.shards.loading import load_weights
from swarm.shards.remote import CallContext, RemoteCache, RemoteRunner
from swarm.shards.remote_layers import RemoteLayers
from swarm.shards.source import ModelSource
from swarm.shards.stack import read_layer_call, stack_of
from swarm.shards.traits import ModelTraits, read_traits
from swarm.shards.truncate import forget_missing_ties, meta_model


def load_client_model(
    source: ModelSource,
    runner: RemoteRunner,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    mixin: type | None = None,
) -> PreTrainedModel:
    """The model with its embeddings, final norm and head; its layers run where `runner` says.

    The class has the name of the original one; `mixin` is put before its bases. `generate()` is transformers' own.

    Raises:
        ModelError: if the checkpoint is damaged, incomplete, or does not fit into memory.
    """
    base, config = source.causal_class()
    cls = _client_class(base, config, runner, mixin)
    model = load_weights(source, cls, config, dtype=dtype, device=torch.device(device)).model
    _find_boundary(model)
    model.__dict__["lean_forward"] = find_lean_forward(model, cache_argument(cls))
    if (source.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.folder, local_files_only=True)
    return model


def _find_boundary(model: Any) -> None:
    """Let the remote layer know in which form the stack hands over hidden states."""
    remote: RemoteLayers = model.remote_layers
    context: CallContext = remote.__dict__["context"]
    stack: Any = model.remote_stack
    ids = torch.zeros(PROBE_ROWS, PROBE_TOKENS, dtype=torch.long, device=model.device)

    def found(hidden: Tensor) -> Tensor:
        remote.__dict__["boundary"] = read_boundary(tuple(hidden.shape), type(model).__name__)
        return hidden

    context.answer = found
    try:
        with torch.no_grad():
            stack(input_ids=ids, use_cache=False)
    finally:
        context.answer = None


def _client_class(
    cls: type[PreTrainedModel], config: PretrainedConfig, runner: RemoteRunner, mixin: type | None
) -> type[PreTrainedModel]:
    probe = meta_model(cls, config)
    stack, attribute = stack_of(probe)
    call = read_layer_call(stack, attribute)
    traits = read_traits(stack, config, call)

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        stack, attribute = stack_of(self)
        layers = cast(nn.ModuleList, getattr(stack, attribute))
        remote = RemoteLayers(layers[0], runner, traits, call)
        setattr(stack, attribute, nn.ModuleList([remote]))
        forget_missing_ties(self)
        self.__dict__["remote_layers"], self.__dict__["remote_stack"] = remote, stack
        _watch_calls(self, stack, remote)

    namespace = {
        "__init__": build,
        "__module__": cls.__module__,
        "from_pretrained": classmethod(cast(Any, cls.from_pretrained).__func__),  # not the mixin's
        "forward": with_lean_forward(cls),
        "_prepare_cache_for_generation": _prepare_cache,
        "prepare_inputs_for_generation": _without_cached(cls),
        "_supports_default_dynamic_cache": classmethod(lambda cls: True),
    }
    bases = (cls,) if mixin is None else (mixin, cls)
    return cast("type[PreTrainedModel]", type(cls.__name__, bases, namespace))


def _prepare_cache(
    self: Any,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
    generation_mode: Any,
    batch_size: int,
    max_cache_length: int,
) -> None:
    """Give `generate` a remote cache where it would make a local one."""
    name = cache_argument(type(self))
    assisted = "assisted" in str(getattr(generation_mode, "value", generation_mode))
    if model_kwargs.get(name) is not None:
        _require_remote(model_kwargs[name])
        model_kwargs[name]._is_user_defined = True
        model_kwargs[name].drafted = assisted
        return
    if generation_config.use_cache is False:
        return
    keeps = generation_config.return_dict_in_generate or generation_config.is_assistant
    remote: RemoteLayers = self.remote_layers
    cache = remote.new_cache(max_tokens=max_cache_length + 1, rollback=bool(keeps or assisted))
    model_kwargs[name] = cache


def _without_cached(cls: type[PreTrainedModel]) -> Callable[..., Any]:
    """Inputs of a forward without what the cache has of them.

    transformers sees to that in all ways to generate but with drafts: there, a prompt whose beginning is cached would
    be fed whole.
    """

    prepare: Callable[..., Any] = cast(Any, cls).prepare_inputs_for_generation
    cache_name = cache_argument(cls)

    @functools.wraps(prepare)  # generate() looks at the signature
    def prepared(self: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get(cache_name)
        cached = cache.length if isinstance(cache, RemoteCache) and cache.drafted else 0
        if cached and kwargs.get("next_sequence_length", 0) is None:
            kwargs["next_sequence_length"] = input_ids.shape[1] - cached
        return prepare(self, input_ids, *args, **kwargs)

    return prepared


def cache_argument(cls: type) -> str:
    """The argument of `generate()` and of the forward under which this class takes its cache."""
    names = inspect.signature(cast(Any, cls).forward).parameters
    return "past_key_values" if "past_key_values" in names or "cache_params" not in names else "cache_params"


def _watch_calls(model: PreTrainedModel, stack: nn.Module, remote: RemoteLayers) -> None:
    """Note, per thread, what the model and its stack are called with."""
    context: CallContext = remote.__dict__["context"]
    traits: ModelTraits = remote.__dict__["traits"]
    names = list(inspect.signature(inspect.unwrap(type(stack).forward)).parameters)[1:]
    cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
    model_names = list(inspect.signature(inspect.unwrap(type(model).forward)).parameters)[1:]

    def enter_model(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(model_names, args, strict=False)), **kwargs}
        for name in ("output_hidden_states", "output_attentions"):
            if given.get(name):
                raise RequestError(f"{name} is not available: what inner layers compute stays on the peers")
        context.outer_mask = given.get("attention_mask")
        keep = given.get("logits_to_keep", 0)
        context.keep_last = keep if isinstance(keep, int) and keep > 0 else 0

    def enter_stack(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        cache = given.get(cache_name)
        use_cache = given.get("use_cache")
        if use_cache is None:
            use_cache = getattr(model.config.get_text_config(decoder=True), "use_cache", False)
        if cache is None and use_cache:
            cache = given[cache_name] = remote.new_cache()
        elif cache is not None:
            _require_remote(cache)
        if traits.position_limit is not None:
            _check_room(given, cache, traits.position_limit)
        context.arguments, context.cache = given, cache
        return (), given

    model.register_forward_pre_hook(enter_model, with_kwargs=True)
    stack.register_forward_pre_hook(enter_stack, with_kwargs=True)
    stack.register_forward_hook(lambda *_: context.clear(), always_call=True)
    _keep_per_layer_inputs(stack, context)


def _require_remote(cache: Any) -> None:
    """The layers run elsewhere, so a cache with tensors in this process is of no use."""
    if not isinstance(cache, RemoteCache):
        raise RequestError(
            f"a {type(cache).__name__} cannot be used here: leave past_key_values out in the first call and pass on "
            "what it returns (return_dict_in_generate=True)"
        )


def _check_room(given: dict[str, Any], cache: Any, limit: int) -> None:
    """Say clearly what an embedding of positions would say with an IndexError."""
    tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
    past = cache.get_seq_length() if cache is not None else 0
    if isinstance(tokens, Tensor) and past + tokens.shape[1] > limit:
        raise RequestError(
            f"{past + tokens.shape[1]} tokens are more than the {limit} positions this model has"
        )


def _keep_per_layer_inputs(stack: Any, context: CallContext) -> None:
    """Let the remote layer see the per-layer inputs that the stack projects before its loop (gemma3n, gemma4)."""
    project = getattr(stack, "project_per_layer_inputs", None)
    if project is None:
        return

    def projected(*args: Any, **kwargs: Any) -> Tensor:
        context.per_layer = project(*args, **kwargs)
        return context.per_layer

    stack.__dict__["project_per_layer_inputs"] = projected
