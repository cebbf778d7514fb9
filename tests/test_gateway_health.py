"""Is the gateway alive, ready, and what does it measure?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swarm.core.errors import SwarmUnavailable
from swarm.gateway.pulse import IDLE_S, READY_S
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running
from tests.waiting import wait_for

CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "What is 12 + 30?"}]}


@pytest.fixture
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture
def served(model: LocalModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model), pulse=True) as served:
        yield served


def get(served: RunningGateway, path: str) -> httpx2.Response:
    with httpx2.Client(timeout=60) as client:
        return client.get(served.url + path)


@pytest.mark.slow
def test_an_idle_gateway_makes_itself_ready(served: RunningGateway) -> None:
    wait_for(lambda: get(served, "/readyz").status_code == 200, 30, "it is ready")
    assert get(served, "/healthz").json() == {"status": "alive"}


@pytest.mark.slow
def test_a_gateway_without_a_chain_is_alive_but_not_ready() -> None:
    model = LocalModel()
    model.error = SwarmUnavailable("nobody serves layers 3:6")
    with running(make_gateway(model), pulse=True) as served:
        wait_for(lambda: "3:6" in get(served, "/readyz").text, 30, "the reason is told")
        assert get(served, "/readyz").status_code == 503
        assert get(served, "/healthz").status_code == 200


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("since_s", "ready"), [(None, False), (READY_S, True), (READY_S + 1, False)])
def test_ready_is_a_token_within_the_last_minute(since_s: float | None, ready: bool) -> None:
    async def scenario() -> bool:
        clock = Clock()
        gateway = make_gateway(LocalModel(), clock=clock)
        if since_s is not None:
            gateway.meter.token()
            clock.now_s += since_s
        return gateway.pulse.ready

    assert asyncio.run(scenario()) is ready
    assert IDLE_S < READY_S


@pytest.mark.slow
def test_metrics_count_tokens_times_and_refusals(served: RunningGateway) -> None:
    wait_for(lambda: get(served, "/readyz").status_code == 200, 30, "it is ready")
    with httpx2.Client(timeout=60) as client:
        usage = client.post(f"{served.url}/v1/chat/completions", json=CHAT).json()["usage"]
        client.post(f"{served.url}/v1/chat/completions", json={})
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(get(served, "/metrics").text)
        for sample in family.samples
    }
    assert samples["swarm_gateway_tokens_total", "input"] == usage["prompt_tokens"]
    assert (
        samples["swarm_gateway_tokens_total", "output"] == usage["completion_tokens"] + 1
    )  # and the probe's
    assert samples["swarm_gateway_errors_total", "400"] == 1
    assert samples[("gen_ai_server_time_to_first_token_seconds_count",)] == 1
    assert samples[("gen_ai_server_time_per_output_token_seconds_count",)] == 1
    assert samples["gen_ai_server_request_duration_seconds_count", "done"] == 1
    assert samples[("swarm_gateway_queue",)] == samples[("swarm_gateway_sessions",)] == 0
    assert ("swarm_client_failovers_total",) in samples
