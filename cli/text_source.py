"""The model of the swarm that a command generates with, and how it does so, from the command's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.cli.client_settings import TextSettings
from swarm.cli.sampling import Sampling
from swarm.core.config import ModelConfig

if TYPE_CHECKING:
    from swarm import SwarmModel


def open_model(settings: TextSettings) -> SwarmModel:
    """Join the swarm and load what runs here."""
    from swarm import SwarmModel  # imports hivemind; torch and transformers come with the model: seconds

    return SwarmModel.from_pretrained(
        settings.model,
        peers=settings.peers,
        revision=settings.revision,
        token=settings.token,
        cache_dir=settings.cache_dir,
        dtype=settings.dtype,
        config=settings.client_config(),
    )


def sampling_of(settings: TextSettings) -> Sampling:
    """How tokens are chosen; a model that drafts is loaded."""
    return Sampling(
        settings.max_tokens,
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.seed,
        settings.stop,
        _speculation(settings),
    )


def _speculation(settings: TextSettings) -> Any:
    """The `speculate` option of `SwarmModel.generate`: a word, or a local model that drafts."""
    if settings.speculate in ("auto", "off", "ngram"):
        return settings.speculate
    from swarm.cli.completion import load_assistant

    return load_assistant(
        ModelConfig(settings.speculate, settings.revision, settings.token, settings.cache_dir)
    )
