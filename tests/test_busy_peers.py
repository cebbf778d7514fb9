"""A peer that says "busy, ask again in N seconds" is asked again then, and not before."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, StoppingCriteriaList

from swarm import SwarmModel
from swarm.bench.timed import AtToken
from swarm.builtin import demo_path
from swarm.core.config import ClientConfig, PeerLimits
from swarm.core.errors import SwarmUnavailable
from swarm.peer.sessions import ASK_AGAIN_S
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Open
from swarm.wire.message import Message
from tests.in_process import Lab, LabSession, Options
from tests.peers import LocalSwarm
from tests.shard_lab import hidden, prompt
from tests.swarm_records import wait_all_free

pytestmark = pytest.mark.slow
ONE_SESSION = PeerLimits(max_sessions=1)


def opened(lab: Lab) -> list[tuple[str, float]]:
    """Who is asked to open a session from now on, and when; grows."""
    asked: list[tuple[str, float]] = []

    def note(source: str, sink: str, message: Message) -> int:
        if isinstance(message, Open):
            asked.append((sink, lab.loop.time() - began))
        return 1

    began = lab.loop.time()
    lab.meadow.fate = note
    return asked


def occupy(lab: Lab) -> LabSession:
    """A session that has run a step and stays."""
    session = lab.open()
    session.step(Step(0, 0, StepTensors(hidden(1))), keep_last=1)
    return session


def test_others_serve_while_a_busy_peer_is_left_alone() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6, limits=ONE_SESSION)
        lab.serve("a", 0, 6, cost=0.1)
        first = occupy(lab)
        asked = opened(lab)
        for _ in range(3):
            occupy(lab).close()
        assert [peer for peer, _ in asked] == ["A", "a", "a", "a"]
        first.close()
        lab.pass_time(ASK_AGAIN_S * 2)
        occupy(lab).close()
        assert [peer for peer, _ in asked][4:] == ["A"], "it is a peer like any other again"


def test_where_nobody_else_serves_its_layers_a_busy_peer_is_waited_for() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6, limits=ONE_SESSION)
        first = occupy(lab)
        asked = opened(lab)
        lab.loop.call_later(5.0, lambda: lab.loop.create_task(first.chain.close()))
        assert lab.generate(input_ids=prompt()) == lab.local(input_ids=prompt())
        times = [when for _, when in asked]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert 5.0 <= times[-1] <= 5.0 + 2 * ASK_AGAIN_S
        assert min(pauses) >= ASK_AGAIN_S, "it said when to ask again"
        assert lab.stats.failovers == 0


def test_the_client_says_for_whom_it_waited_when_its_time_is_up() -> None:
    with Lab(options=Options(ClientConfig(unavailable_timeout_s=10))) as lab:
        lab.serve("A", 0, 6, limits=ONE_SESSION)
        occupy(lab)
        with pytest.raises(
            SwarmUnavailable, match=r"layers 0:6: 1 peer, busy \(waited 10 s\); A: all 1 sessions are taken"
        ):
            lab.generate(input_ids=prompt())
        assert 1010.0 <= lab.loop.time() <= 1012.0


@pytest.mark.network
def test_more_answers_than_a_peer_takes_sessions_all_come(zygote: Any) -> None:
    """Three at once through a peer that holds one session: two wait until it is their turn."""
    arguments: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    prompts = [torch.full((1, 4), 7 + i) for i in range(3)]
    local: Any = AutoModelForCausalLM.from_pretrained(demo_path())
    expected = [local.generate(ids, **arguments).tolist() for ids in prompts]
    begun = threading.Event()

    def first(model: SwarmModel) -> list[list[int]]:
        waits = StoppingCriteriaList([AtToken(2, begun.set)])
        tokens: list[list[int]] = model.generate(prompts[0], stopping_criteria=waits, **arguments).tolist()
        return tokens

    def later(model: SwarmModel, ids: torch.Tensor) -> list[list[int]]:
        assert begun.wait(60)
        tokens: list[list[int]] = model.generate(ids, **arguments).tolist()
        return tokens

    with LocalSwarm(zygote) as swarm:
        swarm.bootstrap()
        swarm.serve("demo", "0:8", "--threads", "1", "--max-sessions", "1")
        with (
            SwarmModel.from_pretrained("demo", peers=swarm.addresses) as model,
            ThreadPoolExecutor(3) as pool,
        ):
            answers = [pool.submit(first, model), *(pool.submit(later, model, ids) for ids in prompts[1:])]
            assert [answer.result(120) for answer in answers] == expected
        assert wait_all_free(swarm.addresses)
