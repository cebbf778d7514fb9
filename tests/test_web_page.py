"""The files of the gateway's page: all there, all from here, and under a strict policy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2
import pytest

from swarm.gateway.web_page import FOLDER
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running

NAMES = sorted(path.name for path in FOLDER.iterdir())
REFERENCE = re.compile(r'(?:href|src|from)[= ]"([^"#]+)"')


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel())) as served:
        yield served


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_served_as_it_is(served: RunningGateway, name: str) -> None:
    with httpx2.Client() as client:
        found = client.get(f"{served.url}/page/{name}")
    assert found.status_code == 200
    assert found.content == (FOLDER / name).read_bytes()
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_refers_to_is_a_file_of_the_page(name: str) -> None:
    found = REFERENCE.findall((FOLDER / name).read_text(encoding="utf-8"))
    assert {reference.removeprefix("page/").removeprefix("./") for reference in found} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_parsed_as_html_or_evaluated(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|style=\"|\bon\w+=\"", text
        )
        == []
    )


def test_the_page_itself_needs_no_key_and_names_no_other_server(served: RunningGateway) -> None:
    with httpx2.Client() as client:
        found = client.get(f"{served.url}/")
    assert found.headers["content-type"].startswith("text/html")
    assert found.headers["content-security-policy"]
    assert "://" not in found.text


@pytest.mark.parametrize("name", ["nothing.js", "..%2fserver.py", "%2e%2e/server.py", "index.html/x"])
def test_other_files_are_not_there(served: RunningGateway, name: str) -> None:
    with httpx2.Client() as client:
        assert client.get(f"{served.url}/page/{name}").status_code == 404
