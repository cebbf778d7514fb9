"""Real peers that move: a hole is closed while a session waits, and a planned move changes no token."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from swarm.builtin import demo_path
from swarm.client.model import SwarmModel
from swarm.core.span import Span
from swarm.routing.records import PeerState
from swarm.shards.shard import Shard
from swarm.shards.step import Step, StepTensors
from tests.conftest import SwarmFactory
from tests.generation import generate
from tests.peers import LocalSwarm
from tests.shard_lab import CPU, source_of
from tests.swarm_records import records, wait_all_free
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]
OPTIONS = ("--threads", "1", "--cache-tokens", "4096", "--lease-s", "3", "--review-s", "6")
ROAMING = ("--max-layers", "4", *OPTIONS)
NEW_TOKENS, KILL_AT = 24, 8
MOVE_DEADLINE_S = 90.0


@pytest.fixture
def swarm(swarm_factory: SwarmFactory) -> LocalSwarm:
    return swarm_factory()


@pytest.fixture(scope="module")
def local() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(demo_path())


def spans(addresses: tuple[str, ...] | list[str], model: str | None = "demo") -> dict[str, str]:
    """Where each peer serves now."""
    return {
        record.peer_id: str(record.span)
        for record in records(addresses, model)
        if record.state is PeerState.ONLINE
    }


def test_peers_move_to_layers_that_were_lost_and_the_session_goes_on(swarm: LocalSwarm, local: Any) -> None:
    gateway = swarm.bootstrap().addresses
    back = [swarm.serve("demo", "4:8", *OPTIONS, peers=gateway) for _ in range(2)]
    for _ in range(2):
        swarm.serve("demo", "auto", *ROAMING, peers=gateway)
    wait_for(lambda: len(spans(gateway)) == 4, MOVE_DEADLINE_S, "all four serve, wherever the two think best")
    expected = generate(local, "greedy", NEW_TOKENS)

    def kill() -> None:
        for peer in back:
            peer.kill()

    with SwarmModel.from_pretrained("demo", peers=gateway) as model:
        found = generate(model, "greedy", NEW_TOKENS, KILL_AT, kill)
    assert torch.equal(found, expected)
    wait_for(
        lambda: sorted(spans(gateway).values()) == ["0:4", "4:8"], MOVE_DEADLINE_S, "both halves are served"
    )
    assert wait_all_free(gateway)


def test_a_planned_move_changes_no_token_and_computes_nothing_again(swarm: LocalSwarm, local: Any) -> None:
    gateway = swarm.bootstrap().addresses
    swarm.serve("demo", "0:4", *OPTIONS, peers=gateway)
    mover = swarm.serve("demo", "auto", "--replicas", "2", *ROAMING, peers=gateway)
    assert spans(gateway)[mover.peer_id] == "4:8"

    def crowd() -> None:
        for _ in range(2):
            swarm.serve("demo", "4:8", *OPTIONS, peers=gateway)
        wait_for(lambda: spans(gateway).get(mover.peer_id) == "0:4", MOVE_DEADLINE_S, "the peer has moved")

    with SwarmModel.from_pretrained("demo", peers=gateway) as model:
        found = generate(model, "greedy", NEW_TOKENS, KILL_AT, crowd)
        assert re.search(r"info: moved 4:8 -> \d:\d: weakest layer \d at \S+ tok/s, gain", mover.log)
        stats = model.stats
        assert stats.handovers >= 1  # it may go by way of other places, as its neighbours come one by one
        assert (stats.failovers, stats.replayed_tokens) == (0, 0)
    assert torch.equal(found, generate(local, "greedy", NEW_TOKENS))
    assert wait_all_free(gateway)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The demo model with a layer 1 that loads, but computes nothing finite."""
    folder = shutil.copytree(demo_path(), tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].fill_(torch.inf)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_peer_whose_new_layers_fail_their_probe_goes_back_and_can_still_move(
    swarm: LocalSwarm, damaged: Path, tmp_path: Path
) -> None:
    orders = tmp_path / "layers"
    options = (*OPTIONS, "--layers-file", str(orders))
    peer = swarm.serve(damaged, "3:6", *options)
    orders.write_text("1:4\n")
    wait_for(lambda: "layers 1:4 cannot be served" in peer.log, MOVE_DEADLINE_S, "the probe fails")
    wait_for(lambda: spans(peer.addresses, None) == {peer.peer_id: "3:6"}, MOVE_DEADLINE_S, "it is back")
    assert "not finite" in peer.log
    orders.write_text("5:8\n")
    wait_for(lambda: spans(peer.addresses, None) == {peer.peer_id: "5:8"}, MOVE_DEADLINE_S, "it has moved")
    assert "info: moved 3:6 -> 5:8: told so by" in peer.log
    assert peer.status is None


def test_layers_that_are_loaded_already_are_not_read_again() -> None:
    source = source_of("llama")

    def load(span: Span, **more: Any) -> Shard:
        return Shard.load(source, span, dtype=torch.float32, device=CPU, **more)

    whole, first = load(Span(2, 6)), load(Span(0, 4))
    one_layer = load(Span(4, 5)).bytes_read
    states = [StepTensors(torch.randn(1, n, whole.hidden_size)) for n in (5, 1, 1)]

    def outputs(shard: Shard) -> list[torch.Tensor]:
        session = shard.open(shard.span, rollback=True)
        starts = (0, 5, 6)
        return [session.apply(Step(i, starts[i], tensors)).hidden for i, tensors in enumerate(states)]

    held = first.release()
    moved = load(Span(2, 6), held=held)
    assert moved.bytes_read == 2 * one_layer
    assert moved.window[2] is held[2]
    assert all(torch.equal(a, b) for a, b in zip(outputs(moved), outputs(whole), strict=True))
    assert sum(p.numel() for p in first.window.parameters()) == 0, "the old shard has let go"
