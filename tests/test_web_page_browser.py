"""The page in a real browser, over a model that writes what it is told to and a swarm that looks as it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.client.outlook import Outlook
from swarm.core.errors import SwarmUnavailable
from swarm.gateway.key_file import add_key
from swarm.routing.records import PeerRecord
from swarm.routing.status import summarise
from tests.browser import browsing, faults, needs_chromium, opened
from tests.gateway_lab import RunningGateway, ScriptedModel, make_gateway, running
from tests.records import make_record, make_view
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, needs_chromium]

TEXT = "Once there was *a fox*.\n\n- **one** and `two`\n- three\n\n```\nif a < b: pass\n```\n\nThe end."
EVIL = "<img src=x onerror=alert(1)> <script>alert(2)</script> [x](javascript:alert(3)) **<b>bold</b>**"
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


def peer(name: str, start: int, end: int, **fields: Any) -> PeerRecord:
    return make_record(f"id-of-{name}", (start, end), layers=8, name=name, **fields)


ADA, BEN, CLEO = peer("ada", 0, 3), peer("ben", 3, 6), peer("cleo", 6, 8)


def outlook(*records: PeerRecord, failing: dict[str, str] | None = None) -> Outlook:
    return Outlook(summarise(make_view(*records)), failing or {}, {ADA.peer_id: 0.012})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def model() -> ScriptedModel:
    model = ScriptedModel(TEXT)
    model.swarm.outlook = outlook(ADA, BEN, CLEO)
    return model


@pytest.fixture
def served(model: ScriptedModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model)) as served:
        yield served


@pytest.fixture
def page(browser: Any, served: RunningGateway) -> Iterator[Any]:
    with opened(browser, served.url, viewport=WIDE) as page:
        page.locator("tr[data-peer]").first.wait_for()
        yield page


def send(page: Any, text: str = "Hello") -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def finished(page: Any) -> str:
    """The last answer, once it is complete."""
    page.locator(".message.assistant:not(.running)").last.wait_for()
    page.locator("#send").wait_for()
    return str(page.locator(".answer").last.inner_text())


def test_a_little_markdown_is_shown_as_elements(page: Any) -> None:
    send(page)
    assert "Once there was a fox." in finished(page)
    answer = page.locator(".answer")
    assert answer.locator("em").all_text_contents() == ["a fox"]
    assert answer.locator("li strong").all_text_contents() == ["one"]
    assert answer.locator("pre code").all_text_contents() == ["if a < b: pass"]


def test_html_and_links_of_the_model_stay_text(page: Any, model: ScriptedModel) -> None:
    model.text = EVIL
    send(page, EVIL)
    assert "<img src=x onerror=alert(1)> <script>alert(2)</script> [x](javascript:alert(3))" in finished(page)
    assert page.locator(".messages").locator("img, script, a, b").count() == 0
    assert page.locator(".answer strong").all_text_contents() == ["<b>bold</b>"]


def test_stop_ends_the_answer_and_frees_its_session(
    page: Any, model: ScriptedModel, served: RunningGateway
) -> None:
    model.gate.clear()
    send(page)
    page.locator("#stop").wait_for()
    wait_for(lambda: served.admission.running == 1, 30, "it is being answered")
    page.keyboard.press("Escape")
    assert finished(page) == ""
    assert "stopped" in page.locator(".meta").inner_text()
    model.gate.set()
    wait_for(lambda: served.admission.running == 0, 30, "nobody answers any more")


def test_an_answer_is_written_anew_in_place_of_the_last(page: Any, model: ScriptedModel) -> None:
    send(page)
    finished(page)
    model.text = "Another one."
    page.get_by_role("button", name="Regenerate").click()
    wait_for(lambda: finished(page) == "Another one.", 30, "the other answer")
    assert page.locator(".message").count() == 2


def test_parameters_are_sent_and_kept(page: Any, served: RunningGateway) -> None:
    asked: list[Any] = []
    page.on("request", lambda made: asked.append(made.post_data_json) if made.post_data else None)
    page.click("summary")
    for name, value in (("temperature", "0.5"), ("seed", "7"), ("max_tokens", "5"), ("system", "Be brief.")):
        page.fill(f"[name={name}]", value)
    send(page)
    finished(page)
    [body] = asked
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 7, 5)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "cut off" in page.locator(".meta").inner_text()
    page.reload()
    assert page.locator("#parameters-set").inner_text() == "4 set"


def test_a_parameter_that_cannot_be_sent_is_shown_and_nothing_is_asked(page: Any) -> None:
    page.click("summary")
    page.fill("[name=temperature]", "3")
    page.click("summary")
    page.fill("#prompt", "Hello")
    page.click("#send")
    assert page.evaluate("document.activeElement.name") == "temperature"
    assert page.locator(".message").count() == 0
    page.fill("[name=temperature]", "0.33")
    send(page)
    assert finished(page)


def test_errors_are_told_in_words(browser: Any, model: ScriptedModel) -> None:
    model.error = SwarmUnavailable("nobody serves layers 3:6")
    with running(make_gateway(model)) as served, opened(browser, served.url, expected=["503"]) as page:
        page.locator("tr[data-peer]").first.wait_for()
        send(page)
        problem = page.locator(".message .problem")
        problem.wait_for()
        assert problem.inner_text() == "No answer: nobody serves layers 3:6."


def test_the_map_follows_the_swarm(page: Any, model: ScriptedModel) -> None:
    def state(name: str) -> str:
        return str(page.locator(f"tr[data-peer=id-of-{name}]").get_attribute("data-state"))

    def tells(text: str) -> None:
        page.locator("#events", has_text=text).wait_for()

    assert [state(name) for name in ("ada", "ben", "cleo")] == ["online"] * 3
    model.swarm.outlook = outlook(ADA, BEN, CLEO, peer("dora", 0, 3, state="joining"))
    tells("dora joined with layers 0:3")
    model.swarm.outlook = outlook(ADA, BEN, CLEO, peer("dora", 3, 6))
    tells("dora moved from layers 0:3 to 3:6")
    model.swarm.outlook = outlook(ADA, BEN, peer("cleo", 6, 8, state="draining"), peer("dora", 3, 6))
    tells("cleo is about to leave")
    assert state("cleo") == "draining"
    model.swarm.outlook = outlook(ADA, BEN, CLEO, peer("dora", 3, 6), failing={BEN.peer_id: "it hangs"})
    tells("ben does not answer any more")
    assert state("ben") == "failing"
    model.swarm.outlook = outlook(ADA, CLEO, peer("dora", 3, 6))
    tells("ben is gone")
    model.swarm.outlook = outlook(ADA, CLEO)
    tells("nobody serves layers 3:6")
    assert page.locator("#health").inner_text() == "nobody serves layer 3"


def test_everything_can_be_done_with_the_keyboard(page: Any, model: ScriptedModel) -> None:
    page.locator("body").press("Tab")
    reached = []
    for _ in range(14):
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
        page.keyboard.press("Tab")
    for wanted in ("new-chat", "theme", "talk", "prompt", "send", "map-scroll"):
        assert wanted in reached
    page.locator("#prompt").focus()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    finished(page)
    assert page.locator(".message.user .text").inner_text().endswith("One\ntwo")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.textContent") != "Regenerate":
        page.keyboard.press("Shift+Tab")
    model.text = "Another one."
    page.keyboard.press("Enter")
    wait_for(lambda: finished(page) == "Another one.", 30, "the other answer")


def test_screen_readers_are_told_what_happens(page: Any) -> None:
    send(page)
    finished(page)
    assert page.get_by_role("status").inner_text().startswith("The answer is complete: Once there was")
    rows = page.get_by_role("table").get_by_role("row").all_inner_texts()
    assert any("ada" in row and "0:3" in row for row in rows)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_no_grave_fault(browser: Any, model: ScriptedModel, theme: Any, viewport: Any) -> None:
    model.swarm.outlook = outlook(
        ADA,
        BEN,
        peer("cleo", 6, 8, state="draining"),
        peer("eve", 0, 8, state="joining"),
        failing={BEN.peer_id: "x"},
    )
    with (
        running(make_gateway(model)) as served,
        opened(browser, served.url, viewport=viewport, color_scheme=theme, reduced_motion="reduce") as page,
    ):
        assert page.locator("html").get_attribute("data-theme") == theme
        page.locator("tr[data-peer]").first.wait_for(state="attached")
        assert faults(page) == []
        page.click("summary")
        send(page)
        finished(page)
        assert faults(page) == []
        if viewport is NARROW:
            page.get_by_role("button", name="Swarm").click()
            assert page.locator("tr[data-peer]").first.is_visible()
            assert faults(page) == []
            too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not page.evaluate(too_wide)


def test_the_theme_can_be_chosen_and_is_kept(page: Any) -> None:
    for name in ("light", "dark"):
        page.click("#theme")
        assert page.locator("html").get_attribute("data-theme") == name
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.click("#theme")
    assert page.locator("html").get_attribute("data-theme") == "light", "what the system says"


def test_a_key_is_asked_for_and_kept_in_the_tab_only(
    browser: Any, model: ScriptedModel, tmp_path: Path
) -> None:
    secret = add_key(tmp_path / "keys.json", "ada", None, 1)
    with (
        running(make_gateway(model, keys=tmp_path / "keys.json")) as served,
        opened(browser, served.url, expected=["401"]) as page,
    ):
        dialog = page.get_by_role("dialog", name="API key")
        dialog.wait_for()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        dialog.get_by_text("not known here").wait_for()
        page.keyboard.type(secret)
        page.keyboard.press("Enter")
        page.locator("tr[data-peer]").first.wait_for()
        send(page)
        assert "Once there was" in finished(page)
        assert page.evaluate("JSON.stringify([{...localStorage}, document.cookie])").count(secret) == 0
        assert page.evaluate("sessionStorage.getItem('api-key')") == secret


def test_a_model_without_a_chat_template_continues_texts(
    page: Any, browser: Any, model: ScriptedModel
) -> None:
    gateway = make_gateway(model)
    vocabulary = gateway.prompter._vocabulary
    template, vocabulary.tokenizer.chat_template = vocabulary.tokenizer.chat_template, None
    try:
        with running(gateway) as served, opened(browser, served.url) as plain:
            plain.locator("tr[data-peer]").first.wait_for()
            with plain.expect_request("**/v1/completions") as asked:
                send(plain, "Once upon a time")
            assert json.loads(asked.value.post_data or "")["prompt"] == "Once upon a time"
            assert "Once there was" in finished(plain)
    finally:
        vocabulary.tokenizer.chat_template = template
