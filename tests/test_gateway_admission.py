"""Who may generate, who waits, who is sent away: the books, and over HTTP."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from swarm.core.errors import SwarmUnavailable
from swarm.gateway.admission import Admission
from swarm.gateway.api_error import ApiError
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running
from tests.waiting import wait_for

SUM: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is 12 + 30?"}],
}


def test_slots_are_given_in_the_order_of_arrival() -> None:
    async def scenario() -> list[str]:
        admission, order = Admission(2, 9), list[str]()

        async def visit(name: str, slots: int) -> None:
            await admission.acquire(slots)
            order.append(name)

        await admission.acquire(2)
        tasks = []
        for name, slots in (("big", 2), ("small", 1)):
            tasks.append(asyncio.create_task(visit(name, slots)))
            await asyncio.sleep(0)
        admission.release(1)
        await asyncio.sleep(0)
        assert order == []  # the small one could go in, but came later
        admission.release(1)
        await asyncio.gather(tasks[0])
        admission.release(2)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scenario()) == ["big", "small"]


def test_a_full_queue_says_when_to_come_again() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        await admission.acquire(1)
        waiting = asyncio.create_task(admission.acquire(1))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await admission.acquire(1)
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert admission.waiting == 0

    asyncio.run(scenario())


def test_more_than_there_ever_is_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(Admission(2, 9).acquire(3))
    assert caught.value.status == 400


@pytest.mark.parametrize("seed", range(8))
def test_the_books_agree_whatever_happens(seed: int) -> None:
    """Visitors come, wait, give up at any moment, and leave."""
    dice = random.Random(seed)

    async def visit(admission: Admission, slots: int) -> None:
        await admission.acquire(slots)
        try:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            admission.release(slots)

    async def scenario() -> None:
        admission = Admission(3, 50)
        tasks = [asyncio.create_task(visit(admission, dice.randint(1, 3))) for _ in range(40)]
        while not all(task.done() for task in tasks):
            dice.choice(tasks).cancel() if dice.random() < 0.3 else None
            await asyncio.sleep(0)
            admission.check()
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(scenario())


@pytest.fixture
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture
def served(model: LocalModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model, sessions=2, queue=3)) as served:
        yield served
        model.gate.set()


def post(served: RunningGateway, path: str = "/v1/chat/completions", **changes: Any) -> httpx2.Response:
    with httpx2.Client(timeout=60) as client:
        return client.post(served.url + path, json=SUM | changes)


@pytest.mark.slow
def test_requests_beyond_the_queue_get_429_and_the_others_their_answers(
    served: RunningGateway, model: LocalModel
) -> None:
    model.gate.clear()
    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(post, served) for _ in range(5)]
        wait_for(lambda: (served.admission.running, served.admission.waiting) == (2, 3), 30, "all are in")
        for path, kind in (
            ("/v1/chat/completions", "rate_limit_error"),
            ("/v1/messages", "rate_limit_error"),
        ):
            refused = post(served, path, max_tokens=9)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == kind
        model.gate.set()
        found = [answer.result() for answer in answers]
    assert [answer.json()["choices"][0]["message"]["content"] for answer in found] == ["12 + 30 = 42"] * 5
    wait_for(lambda: all(line.closed for line in model.lines), 30, "all sessions are closed")


@pytest.mark.slow
def test_several_answers_to_one_request_take_as_many_slots(served: RunningGateway, model: LocalModel) -> None:
    model.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(post, served, n=2)
        wait_for(lambda: served.admission.running == 2, 30, "both are made")
        model.gate.set()
        assert len(answer.result().json()["choices"]) == 2
    assert post(served, n=3).status_code == 400


def connect(served: RunningGateway, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])))
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_who_vanishes_leaves_queue_and_session(
    served: RunningGateway, model: LocalModel, streams: bool
) -> None:
    model.gate.clear()
    body = httpx2.Request("POST", served.url, json=SUM | {"stream": streams}).read()
    connections = [connect(served, body) for _ in range(4)]
    wait_for(lambda: (served.admission.running, served.admission.waiting) == (2, 2), 30, "all are in")
    for connection in connections:
        connection.close()
    wait_for(lambda: served.admission.waiting == 0, 30, "nobody waits")
    wait_for(lambda: all(line.interrupted for line in model.lines), 30, "the answers are interrupted")
    model.gate.set()
    wait_for(lambda: served.admission.running == 0, 30, "nothing is made")
    assert len(model.lines) == 2  # nothing was begun for those who waited


@pytest.mark.slow
def test_a_swarm_without_layers_is_503_in_both_apis(served: RunningGateway, model: LocalModel) -> None:
    model.error = SwarmUnavailable("nobody serves layers 3:6")
    for path, kind in (("/v1/chat/completions", "service_unavailable"), ("/v1/messages", "overloaded_error")):
        found = post(served, path, max_tokens=5)
        assert found.status_code == 503
        assert found.headers["retry-after"]
        assert found.json()["error"]["type"] == kind


@pytest.mark.slow
def test_an_unexpected_failure_tells_and_logs_nothing_of_the_prompt(
    served: RunningGateway, model: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **options: Any) -> Any:
        raise ValueError("What is 12 + 30?")

    model.generate = fails  # type: ignore[method-assign]
    found = post(served)
    assert found.status_code == 500
    assert "12 + 30" not in found.text + caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.slow
def test_leaving_lets_answers_end_and_takes_no_new_ones(served: RunningGateway, model: LocalModel) -> None:
    model.gate.clear()
    with ThreadPoolExecutor(1) as threads, httpx2.Client(timeout=60) as client:
        assert client.get(f"{served.url}/healthz").status_code == 200
        answer = threads.submit(post, served)
        wait_for(lambda: served.admission.running == 1, 30, "it is made")
        served.admission.close()
        assert client.get(f"{served.url}/readyz").status_code == 503
        assert client.post(f"{served.url}/v1/chat/completions", json=SUM).status_code == 503
        served.server.should_exit = True
        threading.Thread(target=model.gate.set).start()
        assert answer.result().status_code == 200
