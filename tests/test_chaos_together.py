"""Several sessions of one client at the same time, on the same peers, while some of these die."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch
from torch import Tensor

from swarm.shards.step import Step, StepTensors
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, StepMessage
from tests.in_process import Lab, LabSession, shard_of
from tests.shard_lab import hidden
from tests.zoo import LAYERS

pytestmark = pytest.mark.slow

LENGTHS = (1, 9, 1, 1, 4, 1, 1, 1)


def states(seed: int) -> Tensor:
    return hidden(sum(LENGTHS), seed=seed, rows=1 + seed % 2)


def alone(model_type: str, seed: int) -> list[Tensor]:
    """What each step returns where nobody else is."""
    session = shard_of(model_type, 0, LAYERS).open(shard_of(model_type, 0, LAYERS).span, rollback=True)
    found, start = [], 0
    for number, length in enumerate(LENGTHS):
        piece = states(seed)[:, start : start + length]
        found.append(session.apply(Step(number, start, StepTensors(piece))).hidden[:, -1])
        start += length
    return found


async def take_steps(session: LabSession, seed: int, dice: random.Random) -> list[Tensor]:
    found, start = [], 0
    for number, length in enumerate(LENGTHS):
        await asyncio.sleep(dice.choice([0.0, 0.0, 0.2]))
        piece = states(seed)[:, start : start + length]
        found.append((await session.chain.step(Step(number, start, StepTensors(piece)), 1))[:, -1])
        start += length
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_sessions_at_the_same_time_survive_the_same_deaths(model_type: str, seed: int) -> None:
    dice = random.Random(seed)
    with Lab(model_type) as lab:
        for name, start, end in (("A", 0, 2), ("B", 2, 4), ("C", 4, 6)):
            lab.serve(name, start, end)
            lab.serve(name.lower(), start, end, cost=0.1)
        lives = {name: dice.randrange(5, 90) for name in dice.sample("ABC", 2)}

        def fate(source: str, sink: str, message: Message) -> int:
            if sink in lives and isinstance(message, StepMessage | Output):
                lives[sink] -= 1
                if lives[sink] == 0:
                    lab.tasks.create_task(lab.kill(sink))
            return 1

        lab.meadow.fate = fate
        sessions = [lab.open() for _ in range(5)]

        async def together() -> list[list[Tensor]]:
            steps = (take_steps(session, index, dice) for index, session in enumerate(sessions))
            return list(await asyncio.gather(*steps))

        for index, found in enumerate(lab.do(together())):
            for mine, expected in zip(found, alone(model_type, index), strict=True):
                assert torch.allclose(mine, expected, atol=1e-4)
        for session in sessions:
            session.close()
        lab.settle()
        for peer in lab.peers.values():
            assert peer.node.dead or peer.pool.free_tokens == peer.pool.total_tokens
