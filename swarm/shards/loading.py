"""Fill a (truncated) model class with the weights it needs, and with no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from swarm.core.errors import ModelError
from swarm.shards.checkpoint import LazyTensors, needed_keys, renamed_keys, weight_bytes
from swarm.shards.meta_build import NativeMeta
from swarm.shards.out_of_memory import is_out_of_memory
from swarm.shards.source import ModelSource
from swarm.shards.truncate import lost_ties, meta_model


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its weights, and how many bytes were read for it."""

    model: PreTrainedModel
    bytes_read: int


def load_weights(
    source: ModelSource,
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> LoadedModel:
    """Build `cls` from the tensors of `source` that it needs.

    Raises:
        ModelError: if a tensor is missing or has another shape, a file is damaged, or memory does not suffice.
    """
    probe = meta_model(cls, config)
    needed_bytes = weight_bytes(probe, dtype)
    check_memory(needed_bytes, device, source.name)
    tensors = _tensors_for(probe, source)
    tensors.prepare()
    options: dict[str, Any] = {
        "dtype": dtype,
        "state_dict": tensors,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        with quiet_transformers(), NativeMeta():
            build: Any = cls.from_pretrained
            model, info = build(None, config=probe.config, **options)
    except (MemoryError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as exc:
        if is_out_of_memory(exc):
            raise ModelError(memory_message(needed_bytes, free_memory(device), device, source.name)) from exc
        raise ModelError(f"{source.name} cannot be loaded: {_one_line(exc)}") from exc
    check_loaded(info, source.name)
    tensors.close()
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(model, tensors.bytes_read)


def _tensors_for(probe: PreTrainedModel, source: ModelSource) -> LazyTensors:
    renamed = renamed_keys(probe, source.weight_map)
    tensors = LazyTensors(source.weight_map, source.file, needed_keys(probe, renamed))
    keys = {name: key for key, name in renamed.items()}
    for name, origin in lost_ties(probe).items():
        if name not in keys and origin in keys:
            tensors.add_alias(name, keys[origin])
    return tensors


def check_loaded(info: dict[str, Any], name: str) -> None:
    """Refuse a model some of whose weights did not come from the checkpoint.

    Raises:
        ModelError: naming the first of them.
    """
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"{name} lacks the tensor {missing[0]!r}{_and_more(missing)}; the checkpoint is incomplete"
        )
    mismatched = sorted(info.get("mismatched_keys", ()))
    if mismatched:
        key, found, expected = mismatched[0]
        raise ModelError(
            f"{name}: tensor {key!r} has shape {list(found)}, its configuration says {list(expected)}"
        )


def _and_more(items: list[str]) -> str:
    return f" and {len(items) - 1} more" if len(items) > 1 else ""


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on `device` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(needed: int, device: torch.device, name: str) -> None:
    """Refuse to begin what cannot fit.

    Raises:
        ModelError: with both sizes.
    """
    free = free_memory(device)
    if needed > free:
        raise ModelError(memory_message(needed, free, device, name))


def memory_message(needed: int, free: int, device: torch.device, name: str) -> str:
    """One line with what is needed and what is free."""
    return (
        f"the weights of {name} need {needed / 2**30:.2f} GiB on {device}, but {free / 2**30:.2f} GiB are free: "
        "serve fewer layers, use a smaller --dtype, or --quantize"
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own loading report and progress bar off the terminal."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return text if len(text) <= 300 else text[:297] + "..."
