"""The client's part of a model, loaded while its network is still being joined; imports torch and transformers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from swarm.client.entrance import Entrance
from swarm.client.joint_head import join_head
from swarm.client.network import Network
from swarm.client.shared import LoadedModel
from swarm.client.speculation import Speculation
from swarm.core.config import ClientConfig, Precision
from swarm.core.errors import ConfigError, PeerIncompatible
from swarm.shards.causal import load_client_model
from swarm.shards.remote_layers import RemoteLayers
from swarm.shards.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How the client's part is loaded; see `SwarmModel.from_pretrained`."""

    dtype: str
    device: str
    config: ClientConfig


def load(source: ModelSource, entrance: Entrance, options: LoadOptions, mixin: type) -> PreTrainedModel:
    """The model over the network that `entrance` leads to; closing the network is up to the caller if this fails.

    Raises:
        ConfigError: if an argument is wrong.
        ModelError: if the checkpoint cannot be used.
        NodeError: if the swarm cannot be reached.
        SwarmUnavailable: if no peer serves this checkpoint.
    """
    network = Network(entrance, options.config, source.n_layers, source.inseparable)
    dtype = _choose_dtype(source, options.dtype, network)
    loaded = load_client_model(source, network, dtype=dtype, device=options.device, mixin=mixin)
    layers = cast(RemoteLayers, loaded.__dict__["remote_layers"])
    traits = layers.__dict__["traits"]
    network.attach(LoadedModel(traits, _name(dtype), join_head(loaded)))
    loaded.__dict__["swarm"] = network
    weakref.finalize(
        loaded, network.close
    )  # a model that nobody closed leaves when it is collected, or at exit
    loaded.__dict__["source_name"] = source.name
    loaded.__dict__["speculation"] = Speculation(network.stats, traits.croppable)
    return loaded


def _choose_dtype(source: ModelSource, asked: str, network: Network) -> torch.dtype:
    if asked not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype {asked!r}: use auto, float32, bfloat16 or float16")
    own = source.dtype(cast(Precision, asked))
    served = network.dtypes()
    if _name(own) in served:
        return own
    if asked != "auto":
        raise PeerIncompatible(
            f"the peers compute in {', '.join(sorted(served))}, not in {asked}: use --dtype auto"
        )
    return source.dtype(cast(Precision, min(served)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
