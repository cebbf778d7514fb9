"""A stream is never silent for long, and says what went wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from anthropic import Anthropic, APIStatusError
from openai import OpenAI

from swarm.core.errors import SwarmUnavailable
from tests.gateway_lab import LocalModel, RunningGateway, local_text, make_gateway, running
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

ASKED: list[Any] = [{"role": "user", "content": "What is 12 + 30?"}]
CHAT: dict[str, Any] = {"model": "demo", "messages": ASKED, "max_tokens": 8, "stream": True}
KEEP_ALIVE = ": keep-alive"


@pytest.fixture
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture
def served(model: LocalModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model, sessions=1, silence_s=0.05)) as served:
        yield served
        model.gate.set()


def test_a_stream_that_waits_says_so(served: RunningGateway, model: LocalModel) -> None:
    model.gate.clear()
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{served.url}/v1/chat/completions", json=CHAT) as found,
    ):
        lines = found.iter_lines()
        assert next(lines) == KEEP_ALIVE
        model.gate.set()
        assert any(line.startswith("data: {") for line in lines)


def test_so_does_one_in_the_queue_and_clients_do_not_mind(served: RunningGateway, model: LocalModel) -> None:
    model.gate.clear()
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{served.url}/v1/chat/completions", json=CHAT),
        OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as other,
        Anthropic(base_url=served.url, api_key="none", max_retries=0) as another,
    ):
        wait_for(lambda: served.admission.running == 1, 30, "the only turn is taken")
        chunks = other.chat.completions.create(model="demo", messages=ASKED, max_tokens=8, stream=True)
        events: Any = another.messages.create(model="demo", messages=ASKED, max_tokens=8, stream=True)
        assert served.admission.waiting == 2  # their headers have come all the same
        model.gate.set()
        found = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert found == local_text(ASKED, 8)
        assert "".join(e.delta.text for e in events if e.type == "content_block_delta") == found


def test_an_error_after_the_headers_is_an_event(served: RunningGateway, model: LocalModel) -> None:
    model.error = SwarmUnavailable("nobody serves layers 3:6")
    model.gate.clear()
    with (
        OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as chat,
        Anthropic(base_url=served.url, api_key="none", max_retries=0) as messages,
    ):
        chunks = chat.chat.completions.create(model="demo", messages=ASKED, max_tokens=8, stream=True)
        events: Any = messages.messages.create(model="demo", messages=ASKED, max_tokens=8, stream=True)
        stream: Any = chat.responses.create(model="demo", input=ASKED, stream=True)
        model.gate.set()
        with pytest.raises(openai.APIError, match="3:6"):
            list(chunks)
        with pytest.raises(APIStatusError, match="3:6"):
            list(events)
        assert [event.type for event in stream] == [
            "response.created", "response.in_progress", "response.failed",
        ]  # fmt: skip
    assert 'outcome="failed"} 3.0' in served.gateway.meter.exposition().decode()
