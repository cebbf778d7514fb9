"""What is wrong with a step is said before anything is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swarm.core.config import PeerLimits
from swarm.core.errors import RequestError
from swarm.peer.offer import Offer
from swarm.peer.step_check import check_step
from swarm.wire.step_messages import StepMessage
from swarm.wire.tensors import pack
from tests.in_process import shard_of
from tests.zoo import LAYERS, VOCABULARY

LIMITS = PeerLimits(max_batch_rows=4, max_step_tokens=12)
HIDDEN = torch.zeros(2, 3, 32)


def offer_of(model_type: str) -> Offer:
    return Offer(shard_of(model_type, 0, LAYERS), "some-checkpoint", model_type, "float32", LAYERS)


def check(model_type: str = "llama", start: int = 0, rows: list[int] | None = None, **tensors: Any) -> Any:
    named = {"hidden": HIDDEN} | {name.replace("__", "."): value for name, value in tensors.items()}
    named = {name: value for name, value in named.items() if value is not None}
    metas, _ = pack(named)
    message = StepMessage(session=b"s" * 16, number=0, start=start, select_rows=rows, tensors=metas)
    return check_step(message, named, offer_of(model_type), LIMITS)


def test_a_right_step_is_returned_as_tensors() -> None:
    mask, positions = torch.ones(2, 3, dtype=torch.bool), torch.arange(3).expand(2, 3)
    found = check(mask=mask, positions=positions, rows=[1, 0])
    assert found.hidden is HIDDEN
    assert found.mask is mask
    assert found.positions is positions


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden": None, "mask": torch.ones(2, 3, dtype=torch.bool)}, "needs `hidden`"),
    ({"hidden": torch.zeros(2, 32)}, "needs `hidden` of shape"),
    ({"hidden": torch.zeros(5, 1, 32)}, "5 rows in one session, at most 4"),
    ({"hidden": torch.zeros(4, 4, 32)}, "16 tokens in one step, at most 12"),
    ({"hidden": HIDDEN.half()}, "hidden is torch.float16, this peer computes in torch.float32"),
    ({"rows": [0]}, "select_rows names 1 rows and the step has 2"),
    ({"mask": torch.ones(2, 2, dtype=torch.bool)}, r"mask has shape \[2, 2\]"),
    ({"mask": torch.ones(2, 3)}, r"mask is torch\.float32"),
    ({"mask": torch.ones(2, 3, 1, dtype=torch.bool)}, "mask must have two dimensions"),
    ({"positions": torch.zeros(2, 3)}, r"positions is torch\.float32"),
    ({"positions": torch.full((2, 3), -1)}, "positions"),
    ({"logits": HIDDEN}, "takes no tensor 'logits'"),
    ({"token_ids": torch.zeros(2, 3, dtype=torch.int64)}, "takes no tensor 'token_ids'"),
    ({"carry__0": torch.zeros(1, 3)}, r"carry\.0 has shape \[1, 3\]"),
]


@pytest.mark.parametrize(("tensors", "text"), BAD, ids=[text[:30] for _, text in BAD])
def test_what_is_wrong_is_named(tensors: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        check(**tensors)


def test_models_with_a_table_of_positions_name_its_end() -> None:
    check("gpt2", start=253)
    with pytest.raises(RequestError, match="only 256 positions: shorten"):
        check("gpt2", start=254)
    with pytest.raises(RequestError, match="only 256 positions"):
        check("gpt2", positions=torch.full((2, 3), 256))
    check("llama", start=1 << 20)


def test_the_vocabulary_of_an_offer_is_the_models() -> None:
    assert offer_of("llama").vocab_size == VOCABULARY
