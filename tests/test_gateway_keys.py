"""API keys: made, hashed, limited, taken back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from swarm.core.errors import ConfigError
from swarm.gateway.key_file import add_key, read_keys, remove_key
from swarm.gateway.rate import RateBucket
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running
from tests.waiting import wait_for

CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is 1 + 1?"}],
    "max_tokens": 3,
}


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = RateBucket(60)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    assert bucket.take(1.0) == pytest.approx(1.0)


def test_the_file_keeps_no_key_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = add_key(path, "ada", 5, None)
    assert secret not in path.read_text()
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert [entry.name for entry in read_keys(path)] == ["ada"]


def test_names_are_unique_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "ada", None, None)
    with pytest.raises(ConfigError, match="already"):
        add_key(path, "ada", None, None)
    remove_key(path, "ada")
    with pytest.raises(ConfigError, match="no key called"):
        remove_key(path, "ada")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{"name": "x", "sha256": "1"}]}'])
def test_a_file_that_is_none_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no file of API keys"):
        read_keys(path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def secret(keys: Path) -> str:
    return add_key(keys, "ada", None, None)


@pytest.fixture
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture
def served(keys: Path, secret: str, model: LocalModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model, keys=keys)) as served:
        yield served
        model.gate.set()


def post(served: RunningGateway, secret: str) -> httpx2.Response:
    with httpx2.Client(timeout=60) as client:
        return client.post(
            f"{served.url}/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {secret}"}
        )


@pytest.mark.slow
def test_both_clients_send_their_keys_and_wrong_ones_are_refused(served: RunningGateway, secret: str) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=secret, max_retries=0) as client:
        assert client.chat.completions.create(**CHAT).usage
    with anthropic.Anthropic(base_url=served.url, api_key=secret, max_retries=0) as other:
        assert other.messages.create(**CHAT).usage
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(**CHAT)
    with (
        anthropic.Anthropic(base_url=served.url, api_key="sk-wrong", max_retries=0) as other,
        pytest.raises(anthropic.AuthenticationError),
    ):
        other.messages.create(**CHAT)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo"])
def test_without_a_key_only_health_is_told(served: RunningGateway, path: str) -> None:
    with httpx2.Client() as client:
        assert client.get(served.url + path).status_code == 401
        refused = client.post(f"{served.url}/v1/chat/completions", json={"nonsense": 1})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get(f"{served.url}/healthz").status_code == 200
        assert client.get(f"{served.url}/metrics").status_code == 200


@pytest.mark.slow
def test_a_changed_file_counts_at_once(served: RunningGateway, keys: Path, secret: str) -> None:
    other = add_key(keys, "ben", None, None)
    assert post(served, other).status_code == 200
    remove_key(keys, "ada")
    assert post(served, secret).status_code == 401
    keys.write_text("damaged")
    os.utime(keys)
    assert post(served, other).status_code == 200


@pytest.mark.slow
def test_a_key_asks_no_more_often_than_it_may(served: RunningGateway, keys: Path) -> None:
    limited = add_key(keys, "ben", 2, None)
    assert [post(served, limited).status_code for _ in range(3)] == [200, 200, 429]
    refused = post(served, limited)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.slow
def test_a_key_asks_no_more_at_once_than_it_may(
    served: RunningGateway, keys: Path, secret: str, model: LocalModel
) -> None:
    limited = add_key(keys, "ben", None, 1)
    model.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(post, served, limited)
        wait_for(lambda: served.admission.running == 1, 30, "it is made")
        assert post(served, limited).status_code == 429
        others = threads.submit(post, served, secret)
        wait_for(lambda: served.admission.running == 2, 30, "somebody else is not limited")
        model.gate.set()
        assert [first.result().status_code, others.result().status_code] == [200, 200]
    assert post(served, limited).status_code == 200
