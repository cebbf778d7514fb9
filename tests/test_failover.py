"""Peers die, hang or refuse while a model generates: the tokens must be those of the undisturbed local model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm import ClientConfig, SwarmModel, SwarmUnavailable
from swarm.builtin import demo_path
from tests.conftest import SwarmFactory
from tests.generation import MODES, generate
from tests.peers import LocalSwarm, PeerProcess
from tests.swarm_records import records, wait_all_free
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

SPANS = ("0:3", "3:6", "6:8")
NEW_TOKENS = 24
KILL_AT = 9
OPTIONS = ("--threads", "1", "--cache-tokens", "4096")


class TwinSwarm:
    """Two peers for every span; the ones that died are started again when the next test needs them."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self.swarm = swarm
        self.gateway = swarm.bootstrap()
        self._peers: list[PeerProcess] = []

    def complete(self) -> None:
        """Make every span be served twice."""
        self._peers = [peer for peer in self._peers if peer.status is None]
        for span in SPANS:
            for _ in range(2 - sum(str(peer.span) == span for peer in self._peers)):
                self._peers.append(self.serve(span))

    def serve(self, span: str, *options: str) -> PeerProcess:
        return self.swarm.serve("demo", span, *OPTIONS, *options, peers=self.gateway.addresses)

    def by_id(self, peer_id: str) -> PeerProcess:
        return next(peer for peer in self._peers if peer.peer_id == peer_id)

    def computed(self) -> dict[str, int]:
        """Token rows every running peer has computed since its start."""
        return {record.peer_id: record.computed_tokens for record in records(self.gateway.addresses, "demo")}


@pytest.fixture(scope="module")
def twins(zygote: Any) -> Iterator[TwinSwarm]:
    with LocalSwarm(zygote) as swarm:
        yield TwinSwarm(swarm)


@pytest.fixture(scope="module")
def local() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(demo_path())


@pytest.fixture
def model(twins: TwinSwarm) -> Iterator[SwarmModel]:
    twins.complete()
    with SwarmModel.from_pretrained("demo", peers=twins.gateway.addresses) as model:
        yield model


def hop_peers(twins: TwinSwarm, model: SwarmModel, indices: tuple[int, ...]) -> list[PeerProcess]:
    chain = model.chain
    assert chain is not None
    return [twins.by_id(chain.hops[index].peer_id) for index in indices]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("victims", [(0,), (1,), (2,), (0, 2)], ids=["first", "middle", "last", "two"])
def test_killed_hops_change_no_token(
    twins: TwinSwarm, model: SwarmModel, local: Any, mode: str, victims: tuple[int, ...]
) -> None:
    expected = generate(local, mode, NEW_TOKENS)

    def kill() -> None:
        for peer in hop_peers(twins, model, victims):
            peer.kill()

    assert torch.equal(generate(model, mode, NEW_TOKENS, KILL_AT, kill), expected)
    assert model.stats.failovers >= 1


def test_two_neighbours_killed_at_once_change_no_token(
    twins: TwinSwarm, model: SwarmModel, local: Any
) -> None:
    def kill() -> None:
        for peer in hop_peers(twins, model, (1, 2)):
            peer.kill()

    expected = generate(local, "greedy", NEW_TOKENS)
    assert torch.equal(generate(model, "greedy", NEW_TOKENS, KILL_AT, kill), expected)


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])
def test_only_the_lost_layers_are_computed_again(
    twins: TwinSwarm, model: SwarmModel, local: Any, victim: int
) -> None:
    before = twins.computed()
    survivors: list[str] = []

    def kill() -> None:
        chain = model.chain
        assert chain is not None
        survivors.extend(hop.peer_id for i, hop in enumerate(chain.hops) if i != victim)
        twins.by_id(chain.hops[victim].peer_id).kill()

    sequences = generate(model, "greedy", NEW_TOKENS, KILL_AT, kill)
    forwarded = sequences.shape[1] - 1
    assert model.chain is None or len(survivors) == 2

    def spent() -> list[int]:
        """What each peer computed for this generation, once all have announced it."""
        now = twins.computed()
        used = {
            peer: now[peer] - before[peer] for peer in now if peer in before and now[peer] != before[peer]
        }
        return list(used.values()) if len(used) == 3 and set(survivors) < set(used) else []

    # the two survivors and the twin of the dead peer have seen every token exactly once
    wait_for(lambda: spent() == [forwarded] * 3, 15.0, f"three peers announce {forwarded} computed tokens")
    assert model.stats.replayed_tokens < forwarded


@pytest.mark.parametrize(("mode", "victim"), [("greedy", 0), ("greedy", 2), *((mode, 1) for mode in MODES)])
def test_a_hop_that_hangs_is_replaced(
    twins: TwinSwarm, model: SwarmModel, local: Any, mode: str, victim: int
) -> None:
    expected = generate(local, mode, NEW_TOKENS)
    hung: list[PeerProcess] = []

    def suspend() -> None:
        hung.extend(hop_peers(twins, model, (victim,)))
        hung[0].suspend()

    try:
        assert torch.equal(generate(model, mode, NEW_TOKENS, KILL_AT, suspend), expected)
        assert model.stats.failovers >= 1
    finally:
        hung[0].resume()


def test_all_cache_is_free_again_after_all_this(twins: TwinSwarm) -> None:
    twins.complete()
    assert wait_all_free(twins.gateway.addresses)


class TestWithoutReplica:
    """One peer per span: nobody can take over at once."""

    @pytest.fixture
    def swarm(self, swarm_factory: SwarmFactory) -> LocalSwarm:
        return swarm_factory()

    def test_generation_waits_until_a_peer_appears(
        self, swarm: LocalSwarm, local: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = swarm.serve("demo", "0:4", *OPTIONS)
        second = swarm.serve("demo", "4:8", *OPTIONS)
        expected = generate(local, "greedy", NEW_TOKENS)

        def replace() -> None:
            second.kill()
            swarm.start(
                "serve", "demo", "--layers", "4:8", "--host", "127.0.0.1", *OPTIONS,
                "--identity", str(swarm.folder / "late.key"), "--peers", first.addresses[0],
            )  # fmt: skip

        with SwarmModel.from_pretrained("demo", peers=first.addresses) as model:
            assert torch.equal(generate(model, "greedy", NEW_TOKENS, KILL_AT, replace), expected)
        assert "layers 4:8" in caplog.text
        assert "waiting" in caplog.text

    def test_after_the_deadline_it_names_the_layers_and_can_be_resumed(
        self, swarm: LocalSwarm, local: Any
    ) -> None:
        first = swarm.serve("demo", "0:4", *OPTIONS)
        second = swarm.serve("demo", "4:8", *OPTIONS)
        config = ClientConfig(unavailable_timeout_s=2.0)
        with SwarmModel.from_pretrained("demo", peers=first.addresses, config=config) as model:
            ids = torch.tensor([[5, 6, 7, 8, 9]])
            options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
            begun = model.generate(ids, max_new_tokens=6, min_new_tokens=6, **options)
            second.kill()
            more: Callable[[], Any] = lambda: model.generate(  # noqa: E731
                begun.sequences,
                past_key_values=begun.past_key_values,
                max_new_tokens=6,
                min_new_tokens=6,
                **options,
            )
            with pytest.raises(SwarmUnavailable, match="layers 4:8"):
                more()
            swarm.serve("demo", "4:8", *OPTIONS, peers=first.addresses)
            resumed = more().sequences
        expected = local.generate(ids, max_new_tokens=12, min_new_tokens=12, **options).sequences
        assert torch.equal(resumed, expected)

    def test_a_peer_that_refuses_sessions_is_left_aside(self, swarm: LocalSwarm, local: Any) -> None:
        full = swarm.serve("demo", "0:8", *OPTIONS, "--max-sessions", "1")
        with SwarmModel.from_pretrained("demo", peers=full.addresses) as occupant:
            held = occupant.generate(
                torch.tensor([[5, 6]]), max_new_tokens=2, pad_token_id=0, return_dict_in_generate=True
            )
            with SwarmModel.from_pretrained("demo", peers=full.addresses) as model:
                swarm.start(
                    "serve", "demo", "--layers", "0:8", "--host", "127.0.0.1", *OPTIONS,
                    "--identity", str(swarm.folder / "late.key"), "--peers", full.addresses[0],
                )  # fmt: skip
                for mode in MODES:
                    assert torch.equal(generate(model, mode, NEW_TOKENS), generate(local, mode, NEW_TOKENS))
            del held
