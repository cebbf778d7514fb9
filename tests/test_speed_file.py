"""What a machine measured is believed for an hour, for the same model, device and precision; a real peer uses it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.peer.speed import Speed
from swarm.peer.speed_file import FRESH_S, MOST_ENTRIES, Setup, SpeedFile
from tests.peers import LocalSwarm
from tests.swarm_records import records

SETUP = Setup("model-uid", "host", "cpu x86_64", "float32", 2)
SPEED = Speed(0.01, 0.002)


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def test_a_speed_is_recalled_for_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    SpeedFile(tmp_path / "a" / "speeds", clock).remember(SETUP, SPEED)
    clock.now_s += FRESH_S - 1
    assert SpeedFile(tmp_path / "a" / "speeds", clock).recall(SETUP) == SPEED
    clock.now_s += 1
    assert SpeedFile(tmp_path / "a" / "speeds", clock).recall(SETUP) is None
    clock.now_s = 1e9 - 1
    assert SpeedFile(tmp_path / "a" / "speeds", clock).recall(SETUP) is None, "measured in the future"


@pytest.mark.parametrize(
    "other",
    [{"model_uid": "other"}, {"machine": "b"}, {"device": "cuda A"}, {"precision": "int8"}, {"threads": 3}],
    ids=str,
)
def test_another_setup_has_another_speed(tmp_path: Path, other: dict[str, Any]) -> None:
    file = SpeedFile(tmp_path / "speeds")
    file.remember(SETUP, SPEED)
    assert file.recall(replace(SETUP, **other)) is None
    file.remember(replace(SETUP, **other), Speed(1.0, 2.0))
    assert file.recall(SETUP) == SPEED


def test_half_a_measurement_is_not_kept_and_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    file = SpeedFile(tmp_path / "speeds")
    file.remember(SETUP, Speed(0.01))
    assert file.recall(SETUP) is None
    for threads in range(1, MOST_ENTRIES + 10):
        file.remember(replace(SETUP, threads=threads), SPEED)
    assert len(json.loads((tmp_path / "speeds").read_bytes())) == MOST_ENTRIES


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"a": {"decode_s": -1}}', b'{"a": 1e999}']))
def test_a_damaged_file_is_written_anew(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("speeds") / "speeds"
    path.write_bytes(content)
    file = SpeedFile(path)
    assert file.recall(SETUP) is None
    file.remember(SETUP, SPEED)
    assert file.recall(SETUP) == SPEED


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = SpeedFile(tmp_path / "file" / "speeds")
    file.remember(SETUP, SPEED)
    assert file.recall(SETUP) is None


@pytest.mark.slow
@pytest.mark.network
def test_a_peer_announces_both_speeds_and_believes_them_after_a_restart(zygote: Any) -> None:
    options = ("--threads", "1", "--cache-tokens", "4096")
    with LocalSwarm(zygote) as swarm:
        swarm.bootstrap()
        path = swarm.folder / "swarm" / "speeds.json"
        swarm.serve("demo", "0:8", *options, "--no-reuse-speed")
        assert not path.exists()
        swarm.serve("demo", "0:8", *options)
        ((key, entry),) = json.loads(path.read_bytes()).items()
        assert min(entry["decode_s"], entry["prefill_s"]) > 0
        path.write_text(json.dumps({key: entry | {"decode_s": 1.5, "prefill_s": 0.75}}))
        told = swarm.serve("demo", "0:8", *options)
        found = {r.peer_id: r for r in records(swarm.addresses, "demo")}
        speeds = {peer_id: (r.seconds_per_layer, r.prefill_seconds_per_layer) for peer_id, r in found.items()}
        assert speeds.pop(told.peer_id) == (1.5, 0.75), "it did not measure again"
        assert len(speeds) == 2
        for decode_s, prefill_s in speeds.values():
            assert 0 < prefill_s < decode_s < 1.5
