"""Tensors on the wire: bit for bit the same, without copies, and only of exactly the announced size."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from swarm.core.config import Coding
from swarm.core.errors import PeerIncompatible, RequestError
from swarm.wire.message import DType, TensorMeta
from swarm.wire.tensors import pack, unpack

DTYPES: list[DType] = ["float32", "bfloat16", "float16", "int64", "bool"]


def joined(views: list[memoryview]) -> memoryview:
    return memoryview(bytearray(b"".join(views)))


def sample(dtype: DType) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(2, 3, 5, generator=generator) * 100
    return numbers > 0 if dtype == "bool" else numbers.to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_bit_for_bit(dtype: DType) -> None:
    tensor = sample(dtype)
    metas, views = pack({"hidden": tensor})
    assert metas == [TensorMeta(name="hidden", dtype=dtype, shape=[2, 3, 5])]
    assert torch.equal(unpack(metas, joined(views))["hidden"], tensor)


def test_special_numbers_come_back() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    metas, views = pack({"hidden": tensor})
    back = unpack(metas, joined(views))["hidden"]
    assert torch.equal(back.view(torch.int32), tensor.view(torch.int32))


def test_several_tensors_stand_one_after_the_other_in_any_alignment() -> None:
    tensors = {
        "mask": torch.ones(1, 3, dtype=torch.bool),
        "positions": torch.arange(3)[None],
        "carry.0": torch.ones(1),
    }
    metas, views = pack(tensors)
    back = unpack(metas, joined(views))
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_transposed_and_sliced_tensors_are_sent_in_order() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2)[:, ::2]
    metas, views = pack({"hidden": tensor})
    assert torch.equal(unpack(metas, joined(views))["hidden"], tensor)


def test_contiguous_tensors_are_not_copied() -> None:
    tensor = torch.zeros(1, 4)
    [view] = pack({"hidden": tensor})[1]
    tensor += 1
    assert bytes(view) == tensor.numpy().tobytes()
    metas, views = pack({"hidden": tensor})
    payload = joined(views)
    back = unpack(metas, payload)["hidden"]
    payload[:] = bytes(16)
    assert back.sum() == 0


def test_tensors_that_need_gradients_can_be_sent() -> None:
    assert pack({"hidden": torch.ones(1, 1, requires_grad=True)})[0][0].shape == [1, 1]


@pytest.mark.parametrize("shape", [[], [1, 0, 4], [1] * 6], ids=str)
def test_a_shape_that_no_message_can_say_is_refused_at_once(shape: list[int]) -> None:
    with pytest.raises(RequestError, match="hidden has the shape"):
        pack({"hidden": torch.zeros(shape)})


def test_odd_bytes_become_plain_true() -> None:
    [meta] = pack({"mask": torch.ones(1, 2, dtype=torch.bool)})[0]
    mask = unpack([meta], bytearray(b"\x02\x00"))["mask"]
    assert mask.tolist() == [[True, False]]
    assert (~mask).tolist() == [[False, True]]


def test_where_int8_was_agreed_all_numbers_of_tokens_travel_so_and_nothing_else() -> None:
    tensors = {
        "hidden": torch.randn(2, 3, 70),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "token_ids": torch.ones(2, 3, dtype=torch.int64),
        "embeds": torch.randn(2, 3, 8).bfloat16(),
        "per_layer": torch.randn(2, 3, 4, 8).half(),
        "carry.0": torch.randn(2, 3, 5),
        "carry.1": torch.ones(2, 3, 5, dtype=torch.int64),
        "carry.2": torch.randn(2, 3),
    }
    metas, views = pack(tensors, "int8")
    coded = {meta.name for meta in metas if meta.coding == "int8"}
    assert coded == {"hidden", "embeds", "per_layer", "carry.0"}
    back = unpack(metas, joined(views), coding="int8")
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[name], tensor) == (name not in coded)


@pytest.mark.parametrize(("sent", "agreed"), [("int8", None), (None, "int8")])
def test_a_tensor_that_is_coded_otherwise_than_agreed_is_refused(
    sent: Coding | None, agreed: Coding | None
) -> None:
    metas, views = pack({"hidden": torch.ones(1, 1, 4)}, sent)
    with pytest.raises(PeerIncompatible, match=r"hidden came as .*, agreed was"):
        unpack(metas, joined(views), coding=agreed)


META = TensorMeta(name="hidden", dtype="float32", shape=[1, 4])


@pytest.mark.parametrize("size", [0, 15, 17, 1000])
def test_a_payload_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(PeerIncompatible, match="malformed"):
        unpack([META], bytearray(size))


def test_a_name_may_stand_once() -> None:
    with pytest.raises(PeerIncompatible, match="repeated"):
        unpack([META, META], bytearray(32))


def test_only_allowed_names_are_taken() -> None:
    carry = TensorMeta(name="carry.3", dtype="float32", shape=[1, 4])
    assert list(unpack([META, carry], bytearray(32), ["hidden", "carry"])) == ["hidden", "carry.3"]
    with pytest.raises(PeerIncompatible, match="unexpected tensor"):
        unpack([META, carry], bytearray(32), ["hidden"])


@pytest.mark.slow
def test_importing_the_wire_imports_neither_torch_nor_the_training_side_of_hivemind() -> None:
    code = (
        "import sys, swarm.wire.node, swarm.wire.tensors, swarm.wire.directory; "
        "assert not {'torch', 'scipy', 'hivemind.averaging', 'hivemind.optim', 'hivemind.moe'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
