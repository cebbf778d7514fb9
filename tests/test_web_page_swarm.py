"""The page in a real browser over real peers, one of which is killed while the page shows its answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from swarm import SwarmModel
from tests.browser import browsing, faults, needs_chromium, opened
from tests.gateway_lab import RunningGateway, local_text, make_gateway, running
from tests.peers import LocalSwarm, PeerProcess
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network, needs_chromium]

CAST = {"ada": "0:3", "ben": "3:6", "cleo": "6:8", "dora": "3:6"}  # one of them stands by
PROMPT = "Tell me a story about Lily."
TOKENS = 200
KILL_AT = 40  # characters of the answer


@pytest.fixture
def peers(zygote: Any) -> Iterator[dict[str, PeerProcess]]:
    with LocalSwarm(zygote) as swarm:
        yield {
            name: swarm.serve("demo", span, "--threads", "1", "--name", name) for name, span in CAST.items()
        }


@pytest.fixture
def served(peers: dict[str, PeerProcess]) -> Iterator[RunningGateway]:
    with (
        SwarmModel.from_pretrained("demo", peers=peers["ada"].addresses[:1]) as model,
        running(make_gateway(model)) as served,
    ):
        yield served


def test_a_peer_dies_in_mid_answer_and_the_page_shows_it(
    peers: dict[str, PeerProcess], served: RunningGateway
) -> None:
    with browsing() as browser, opened(browser, served.url) as page:
        wait_for(lambda: page.locator("tr[data-peer]").count() == len(CAST), 30, "all peers are on the map")
        page.click("summary")
        page.fill("[name=max_tokens]", str(TOKENS))
        page.fill("#prompt", PROMPT)
        page.keyboard.press("Enter")
        answer = page.locator(".answer")
        first = wait_for(answer.inner_text, 30, "text comes")
        lit = page.locator("tr.in-chain[data-peer]")
        assert lit.count() == 3
        assert page.locator("#chain .way").get_attribute("d")
        wait_for(lambda: len(answer.inner_text()) >= KILL_AT, 30, "it is in the middle")
        victim = lit.nth(1).locator(".peer-name").inner_text()
        (heir,) = {"ben", "dora"} - {victim}
        peers[victim].kill()
        page.locator(f"tr[data-state=failing] .peer-name:text-is('{victim}')").wait_for()
        page.locator(f"tr.in-chain .peer-name:text-is('{heir}')").wait_for()
        events = page.locator("#events")
        events.get_by_text(f"{heir} took over layers 3:6 from {victim}").wait_for()
        events.get_by_text(f"{victim} does not answer any more").wait_for()
        page.locator(".message.assistant:not(.running)").wait_for()
        asked: list[Any] = [{"role": "user", "content": PROMPT}]
        whole = answer.inner_text()
        assert whole == local_text(asked, TOKENS).strip()
        assert len(first) < len(whole), "it came piece by piece"
        assert "1 hop replaced" in page.locator(".meta").inner_text()
        assert faults(page) == []
