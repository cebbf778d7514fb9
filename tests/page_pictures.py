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
    """One answer for each picture; a peer is killed in the first two."""
    zygote = Zygote(Path(tempfile.mkdtemp()) / "log")
    try:
        with LocalSwarm(zygote) as swarm:
            peers = {name: _serve(swarm, name) for name in CAST}
            with (
                SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model,
                running(make_gateway(model)) as served,
                browsing() as browser,
            ):
                for name, size, theme in (
                    ("light", WIDE, "light"),
                    ("dark", WIDE, "dark"),
                    ("narrow", NARROW, "light"),
                ):
                    with opened(browser, served.url, viewport=size, color_scheme=theme) as page:
                        victim = _picture(page, peers, name) if size is WIDE else _quiet_picture(page, name)
                    if victim:
                        peers[victim] = _serve(swarm, victim)
    finally:
        zygote.close()


def _serve(swarm: LocalSwarm, name: str) -> PeerProcess:
    return swarm.serve("demo", CAST[name], "--threads", "1", "--name", name)


def _ask(page: Any, length: int) -> None:
    page.locator("tr[data-peer]").first.wait_for(state="attached")
    page.fill("#prompt", PROMPT)
    page.keyboard.press("Enter")
    _wait_text(page, length)


def _wait_text(page: Any, length: int) -> None:
    wait_for(lambda: len(page.locator(".answer").text_content() or "") >= length, 60, "so much text")


def _picture(page: Any, peers: dict[str, PeerProcess], name: str) -> str:
    """Kill the second hop in mid-answer; returns who that was."""
    wait_for(lambda: page.locator("tr[data-state=online]").count() == len(CAST), 60, "all are well")
    _ask(page, SHOT_AT // 2)
    victim = str(page.locator("tr.in-chain[data-peer] .peer-name").nth(1).inner_text())
    peers[victim].kill()
    page.locator("#events", has_text="does not answer").wait_for()
    _wait_text(page, SHOT_AT)
    _shoot(page, name)
    return victim


def _quiet_picture(page: Any, name: str) -> None:
    _ask(page, SHOT_AT)
    _shoot(page, name)


def _shoot(page: Any, name: str) -> None:
    page.screenshot(path=FOLDER / f"web-page-{name}.png")


if __name__ == "__main__":
    main()
