"""What the gateway tells of the swarm: its state, what changes in it, and to whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from swarm.client.outlook import Outlook
from swarm.core.span import Span
from swarm.gateway import lookout
from swarm.gateway.key_file import add_key, remove_key
from swarm.gateway.map_changes import Change, changes
from swarm.gateway.sight import Sight, Work
from swarm.routing.records import PeerRecord
from swarm.routing.status import summarise
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running
from tests.records import make_record, make_view
from tests.waiting import wait_for

IDLE = Work(0, 0, 0, 0, 0)


def peer(name: str, start: int, end: int, **fields: Any) -> PeerRecord:
    return make_record(f"id-of-{name}", (start, end), layers=8, name=name, **fields)


ADA, BEN = peer("ada", 0, 4), peer("ben", 4, 8)


def outlook(*records: PeerRecord, failing: dict[str, str] | None = None) -> Outlook:
    return Outlook(summarise(make_view(*records)), failing or {}, {})


def sight(*records: PeerRecord, work: Work = IDLE, **fields: Any) -> Sight:
    return Sight(outlook(*records, **fields), work)


def test_nothing_happens_while_nothing_changes() -> None:
    assert changes(sight(ADA, BEN), sight(ADA, peer("ben", 4, 8, queue_s=0.5, sessions=3))) == []


def test_peers_that_come_and_go_are_told() -> None:
    cleo = peer("cleo", 4, 8)
    assert changes(sight(ADA, BEN), sight(ADA, cleo)) == [
        Change("joined", cleo.peer_id, "cleo", Span(4, 8)),
        Change("left", BEN.peer_id, "ben", Span(4, 8)),
    ]


def test_a_move_says_from_where_to_where() -> None:
    found = changes(sight(ADA, BEN, peer("cleo", 0, 4)), sight(ADA, BEN, peer("cleo", 4, 8)))
    assert found == [Change("moved", "id-of-cleo", "cleo", Span(4, 8), Span(0, 4))]


def test_draining_failing_and_recovering_are_told_once() -> None:
    well, draining = sight(ADA, BEN), sight(ADA, peer("ben", 4, 8, state="draining"))
    assert [c.kind for c in changes(well, draining)] == ["draining", "broken"]
    assert changes(draining, draining) == []
    failing = sight(ADA, BEN, failing={BEN.peer_id: "the link ended"})
    assert changes(well, failing) == [
        Change("failing", BEN.peer_id, "ben", Span(4, 8), reason="the link ended")
    ]
    assert [c.kind for c in changes(failing, well)] == ["recovered"]


def test_a_hole_is_told_when_it_opens_and_when_it_closes() -> None:
    assert changes(sight(ADA, BEN), sight(ADA))[-1] == Change("broken", layers=Span(4, 8))
    assert changes(sight(ADA), sight(ADA, BEN))[-1] == Change("complete")


def test_failovers_and_handovers_are_counted() -> None:
    found = changes(sight(ADA, work=Work(1, 0, 2, 0, 5)), sight(ADA, work=Work(1, 0, 4, 1, 9)))
    assert found == [Change("failover", count=2), Change("handover", count=1)]


@pytest.fixture
def model() -> LocalModel:
    model = LocalModel()
    model.swarm.outlook = outlook(ADA, BEN)
    return model


@pytest.fixture
def served(model: LocalModel) -> Iterator[RunningGateway]:
    with running(make_gateway(model)) as served:
        yield served


def blocks(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Events with their data."""
    event = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            event = value
        elif field == "data":
            yield event, json.loads(value)


def test_the_state_tells_model_peers_and_work(served: RunningGateway, model: LocalModel) -> None:
    model.swarm.outlook = Outlook(outlook(ADA, BEN).report, {BEN.peer_id: "it hangs"}, {ADA.peer_id: 0.02})
    with httpx2.Client() as client:
        state = client.get(f"{served.url}/swarm/state").json()
    assert state["model"]["name"] == "demo"
    assert state["model"]["layers"] == 8
    assert state["model"]["chat"] is True
    assert state["gateway"]["running"] == 0
    assert state["complete"] is True
    told = [(p["name"], p["span"], p["state"], p["failing"], p["rtt_s"]) for p in state["peers"]]
    assert told == [
        ("ada", [0, 4], "online", None, 0.02),
        ("ben", [4, 8], "online", "it hangs", None),
    ]


def test_watchers_see_the_map_at_once_and_what_changes(served: RunningGateway, model: LocalModel) -> None:
    with httpx2.Client(timeout=30) as client, client.stream("GET", f"{served.url}/swarm/events") as found:
        assert found.headers["content-type"].startswith("text/event-stream")
        events = blocks(found.iter_lines())
        event, state = next(events)
        assert (event, len(state["peers"])) == ("map", 2)
        model.swarm.outlook = outlook(ADA, BEN, peer("cleo", 0, 4))
        event, state = next(events)
        assert (event, len(state["peers"])) == ("map", 3)
        event, change = next(events)
        assert (event, change["kind"], change["name"]) == ("change", "joined", "cleo")
        assert change["layers"] == [0, 4]


def test_watching_ends_when_the_gateway_leaves(served: RunningGateway) -> None:
    with httpx2.Client(timeout=30) as client, client.stream("GET", f"{served.url}/swarm/events") as found:
        lines = found.iter_lines()
        next(lines)
        served.admission.close()
        assert list(lines) is not None


def test_only_so_many_watch(served: RunningGateway) -> None:
    url = f"{served.url}/swarm/events"
    with ExitStack() as others, httpx2.Client(timeout=30) as client:
        for _ in range(lookout.MOST_WATCHERS):
            others.enter_context(served.gateway.lookout.watching())
        refused = client.get(url)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]


def test_who_goes_away_makes_room(served: RunningGateway) -> None:
    url = f"{served.url}/swarm/events"
    with httpx2.Client(timeout=30) as client, client.stream("GET", url) as found:
        lines = found.iter_lines()
        next(lines)
        assert served.gateway.lookout.watchers == 1
    wait_for(lambda: served.gateway.lookout.watchers == 0, 30, "nobody watches")


def test_the_map_asks_for_a_key_where_the_api_does(model: LocalModel, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    secret = add_key(keys, "ada", None, 1)
    with running(make_gateway(model, keys=keys)) as served, httpx2.Client(timeout=30) as client:
        for path in ("/swarm/state", "/swarm/events"):
            assert client.get(served.url + path).status_code == 401
            assert client.get(served.url + path, headers={"x-api-key": "wrong"}).status_code == 401
        mine = {"authorization": f"Bearer {secret}"}
        with client.stream("GET", f"{served.url}/swarm/events", headers=mine) as found:
            lines = found.iter_lines()
            assert next(lines) == "event: map"
            chat = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            answer = client.post(f"{served.url}/v1/chat/completions", json=chat, headers=mine)
            assert answer.status_code == 200, "watching does not count as one of the key's requests"
            add_key(keys, "ben", None, None)
            remove_key(keys, "ada")
            assert list(lines) is not None, "and ends with the key"
