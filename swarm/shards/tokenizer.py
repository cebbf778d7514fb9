"""The tokenizer of a checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.shards.checkpoint_index import CheckpointIndex


def load_tokenizer(model: ModelConfig) -> Any:
    """What turns text into token ids and back.

    Raises:
        ModelError: it has none that transformers can read.
    """
    folder = CheckpointIndex.open(model).folder
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ModelError(f"{model.name} has no tokenizer that can be used: {reason}") from exc
