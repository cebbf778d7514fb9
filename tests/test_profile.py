"""The profile accounts for the time of a token."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from swarm import SwarmModel
from swarm.client.profile import StepProfile
from swarm.wire.step_messages import HopTiming
from tests.conftest import SwarmFactory


def test_parts_add_up_to_the_whole() -> None:
    profile = StepProfile()
    trace = [
        HopTiming(peer="a", queue_s=0.1, compute_s=0.2, serialise_s=0.01),
        HopTiming(peer="b", queue_s=0.0, compute_s=0.3, serialise_s=0.01),
    ]
    profile.add(1.0, 0.02, trace)
    profile.add(1.0, 0.02, trace)
    assert list(profile.hops) == ["a", "b"]
    assert profile.hops["a"].total_s == pytest.approx(0.62)
    assert profile.network_s == pytest.approx(2.0 - 0.04 - 0.62 - 0.62)


@pytest.mark.slow
@pytest.mark.network
def test_the_sum_is_the_time_that_generation_takes(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()
    for span in ("0:4", "4:8"):
        swarm.serve("demo", span, "--threads", "1")
    moments: list[float] = []

    class Clock:
        def put(self, value: Any) -> None:
            moments.append(time.perf_counter())

        def end(self) -> None:
            """Nothing to flush."""

    with SwarmModel.from_pretrained("demo", peers=swarm.addresses) as model:
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=40, min_new_tokens=40, streamer=Clock())
        profile = model.swarm.profile
    assert profile.steps == 39
    assert len(profile.hops) == 2
    assert all(hop.compute_s > 0 for hop in profile.hops.values())
    assert profile.network_s > 0
    assert profile.total_s == pytest.approx(moments[-1] - moments[1], rel=0.1)  # the first is the prompt's
