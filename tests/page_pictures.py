"""The pictures of the web page in `docs/images`: `python -m tests.page_pictures`, where chromium is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from swarm import SwarmModel
from tests.browser import browsing, opened
from tests.gateway_lab import make_gateway, running
from tests.peers import LocalSwarm, PeerProcess
from tests.processes import Zygote
from tests.source_map import ROOT
from tests.waiting import wait_for

FOLDER = ROOT / "docs" / "images"
CAST = {"ada": "0:3", "ben": "3:6", "cleo": "6:8", "dora": "3:6"}
PROMPT = "Tell me a story about Lily."
WIDE, NARROW = {"width": 1280, "height": 760}, {"width": 390, "height": 720}
SHOT_AT = 190  # characters of the answer


def main() -> None:
    """One answer in which a peer is killed, in both themes; one on a narrow screen."""
    zygote = Zygote(Path(tempfile.mkdtemp()) / "log")
    try:
        with LocalSwarm(zygote) as swarm:
            peers = {
                name: swarm.serve("demo", span, "--threads", "1", "--name", name)
                for name, span in CAST.items()
            }
            with (
                SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model,
                running(make_gateway(model)) as served,
                browsing() as browser,
            ):
                with opened(browser, served.url, viewport=WIDE) as page:
                    _kill_one(page, peers)
                    for theme in ("light", "dark"):
                        page.emulate_media(color_scheme=theme)
                        _shoot(page, theme)
                with opened(browser, served.url, viewport=NARROW) as page:
                    _ask(page, SHOT_AT)
                    _shoot(page, "narrow")
    finally:
        zygote.close()


def _ask(page: Any, length: int) -> None:
    page.locator("tr[data-peer]").first.wait_for(state="attached")
    page.fill("#prompt", PROMPT)
    page.keyboard.press("Enter")
    _wait_text(page, length)


def _wait_text(page: Any, length: int) -> None:
    wait_for(lambda: len(page.locator(".answer").text_content() or "") >= length, 60, "so much text")


def _kill_one(page: Any, peers: dict[str, PeerProcess]) -> None:
    """The second hop, in mid-answer."""
    wait_for(lambda: page.locator("tr[data-state=online]").count() == len(CAST), 60, "all are there")
    _ask(page, SHOT_AT // 2)
    victim = str(page.locator("tr.in-chain[data-peer] .peer-name").nth(1).inner_text())
    peers[victim].kill()
    page.locator("#events", has_text="does not answer").wait_for()
    _wait_text(page, SHOT_AT)


def _shoot(page: Any, name: str) -> None:
    page.screenshot(path=FOLDER / f"web-page-{name}.png")


if __name__ == "__main__":
    main()
