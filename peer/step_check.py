"""Checks of a step's tensors before they reach the device. Sizes come from the network: nothing is trusted."""

from __future__ import annotations

import torch

from swarm.core.config import PeerLimits
from swarm.core.errors import RequestError
from swarm.peer.offer import Offer
from swarm.shards.step import StepTensors
from swarm.wire.step_messages import StepMessage

_DTYPES = {"mask": torch.bool, "positions": torch.int64, "token_ids": torch.int64}


def check_step(
    message: StepMessage, tensors: dict[str, torch.Tensor], offer: Offer, limits: PeerLimits
) -> StepTensors:
    """Names, dtypes, sizes and values of a step; shapes that depend on the layers are the shard's to check.

    Raises:
        RequestError: naming what is wrong.
    """
    hidden = tensors.get("hidden")
    if hidden is None or hidden.dim() < 3:  # between the layers of some models there are several streams
        raise RequestError("a step needs `hidden` of shape [rows, tokens, ..., hidden size]")
    rows, new = hidden.shape[0], hidden.shape[1]
    if rows > limits.max_batch_rows:
        raise RequestError(
            f"{rows} rows in one session, at most {limits.max_batch_rows} are allowed (--max-batch-rows)"
        )
    if rows * new > limits.max_step_tokens:
        raise RequestError(
            f"{rows * new} tokens in one step, at most {limits.max_step_tokens} are allowed (--max-step-tokens)"
        )
    if message.select_rows is not None and len(message.select_rows) != rows:
        raise RequestError(f"select_rows names {len(message.select_rows)} rows and the step has {rows}")
    for name, tensor in tensors.items():
        _check_one(name, tensor, (rows, new), offer)
    _check_positions(message.start + new, tensors.get("positions"), offer.position_rows)
    return StepTensors.from_named(tensors)


def check_state(
    tensors: dict[str, torch.Tensor], offer: Offer, limits: PeerLimits
) -> dict[str, torch.Tensor]:
    """Rows and values of a part of a session's state; names and shapes are the shard's to check.

    Raises:
        RequestError: naming what is wrong.
    """
    for name, tensor in tensors.items():
        if tensor.shape[0] > limits.max_batch_rows:
            raise RequestError(
                f"{tensor.shape[0]} rows in one session, at most {limits.max_batch_rows} are allowed (--max-batch-rows)"
            )
        if name == "positions":
            _check_positions(0, tensor, offer.position_rows)
    return tensors


def _check_one(name: str, tensor: torch.Tensor, leading: tuple[int, int], offer: Offer) -> None:
    if not name.startswith("carry.") and name not in offer.tensors:
        raise RequestError(f"this model takes no tensor {name!r}")
    if tuple(tensor.shape[:2]) != leading:
        raise RequestError(
            f"{name} has shape {list(tensor.shape)}; its first two sizes must be {list(leading)}"
        )
    wanted = _DTYPES.get(name, offer.shard.dtype)
    if tensor.dtype != wanted and not name.startswith("carry."):
        raise RequestError(f"{name} is {tensor.dtype}, this peer computes in {wanted}: use the same dtype")
    if name in _DTYPES and tensor.dim() != 2:
        raise RequestError(f"{name} must have two dimensions, rows and tokens")
    if name == "embeds" and tuple(tensor.shape[2:]) != (offer.shard.hidden_size,):
        raise RequestError(f"embeds must end in {offer.shard.hidden_size}")
    if name == "token_ids" and not _within(tensor, offer.vocab_size):
        raise RequestError(f"token_ids must be in 0 .. {offer.vocab_size - 1}")


def _check_positions(end: int, positions: torch.Tensor | None, table_rows: int | None) -> None:
    """Models with a table of positions have no row for later ones."""
    limit = table_rows if table_rows is not None else 1 << 31
    if (positions is not None and not _within(positions, limit)) or (positions is None and end > limit):
        raise RequestError(f"this model has only {limit} positions: shorten the prompt or max tokens")


def _within(tensor: torch.Tensor, limit: int) -> bool:
    return int(tensor.min()) >= 0 and int(tensor.max()) < limit
