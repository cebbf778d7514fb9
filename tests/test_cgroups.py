"""The smallest limit on the way to the root counts, in both versions; trees are made of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.cgroups import free_bytes
from swarm.peer.device import choose_device, free_memory

NO_LIMIT_V1 = 9223372036854771712
V1 = "12:cpu,cpuacct:/a\n5:memory:/docker/box\n1:name=systemd:/a\n"


def write(root: Path, files: dict[str, str | int]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if isinstance(content, int) else content)


def unified(group: str, limit: str | int, used: int, **more: str) -> dict[str, str | int]:
    folder = f"sys/fs/cgroup{group}"
    stat = {f"{folder}/memory.stat": more["stat"]} if more else {}
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, **stat}


def memory(group: str, limit: int, used: int) -> dict[str, str | int]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": used}


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    write(tmp_path, unified("", "max\n", 5) | {"proc/self/cgroup": "0::/\n"})
    assert free_bytes(tmp_path) is None


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path, unified("", 1000, 300))
    assert free_bytes(tmp_path) == 700, "also where /proc does not tell"
    for told in ("0::/\n", "0::/docker/not-mounted-here\n", "0::/../../elsewhere\n"):
        write(tmp_path, {"proc/self/cgroup": told})
        assert free_bytes(tmp_path) == 700


@pytest.mark.parametrize("least", ["", "/user.slice", "/user.slice/app", "/user.slice/app/swarm.service"])
def test_the_smallest_limit_on_the_way_to_the_root_counts(tmp_path: Path, least: str) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/user.slice/app/swarm.service\n"})
    for group in ("", "/user.slice", "/user.slice/app", "/user.slice/app/swarm.service"):
        write(tmp_path, unified(group, 5000 if group == least else 9000, 1000))
    write(tmp_path, unified("/user.slice/other", 1000, 999))
    assert free_bytes(tmp_path) == 4000


def test_a_group_without_limit_in_one_with_a_limit(tmp_path: Path) -> None:
    write(
        tmp_path, {"proc/self/cgroup": "0::/a/b\n"} | unified("/a", 800, 100) | unified("/a/b", "max\n", 50)
    )
    assert free_bytes(tmp_path) == 700


def test_version_1_has_other_files_and_says_no_limit_by_a_huge_number(tmp_path: Path) -> None:
    write(tmp_path, memory("", NO_LIMIT_V1, 7000) | {"proc/self/cgroup": V1})
    write(tmp_path, memory("/docker", NO_LIMIT_V1, 5000) | memory("/docker/box", 3000, 1000))
    assert free_bytes(tmp_path) == 2000
    write(tmp_path, memory("/docker", 5500, 5000))
    assert free_bytes(tmp_path) == 500
    assert free_bytes(tmp_path / "nowhere") is None


def test_with_both_versions_the_smaller_one_counts(tmp_path: Path) -> None:
    write(tmp_path, memory("/docker/box", 3000, 1000) | {"proc/self/cgroup": V1 + "0::/box\n"})
    write(tmp_path, unified("/box", 900, 100))
    assert free_bytes(tmp_path) == 800


def test_what_only_caches_files_is_free(tmp_path: Path) -> None:
    write(tmp_path, unified("", 1000, 900, stat="anon 300\nactive_file 100\ninactive_file 500\n"))
    assert free_bytes(tmp_path) == 600
    folder = "sys/fs/cgroup/memory/docker/box"
    write(
        tmp_path,
        {"proc/self/cgroup": V1, f"{folder}/memory.stat": "inactive_file 1\ntotal_inactive_file 40\n"},
    )
    write(tmp_path, memory("/docker/box", 1000, 900))
    assert free_bytes(tmp_path) == 140


def test_a_group_above_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, unified("", 100, 300))
    assert free_bytes(tmp_path) == 0


@given(st.text(max_size=60), st.binary(max_size=20))
def test_strange_files_are_no_limit_and_no_error(
    tmp_path_factory: pytest.TempPathFactory, told: str, limit: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    write(root, unified("", 1, 0))
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(told.encode("utf-8", "surrogatepass"))
    (root / "sys/fs/cgroup/memory.max").write_bytes(limit)
    left = free_bytes(root)
    assert left is None or left >= 0


def test_this_machine_has_free_memory() -> None:
    assert free_memory(choose_device("cpu")) > 0
