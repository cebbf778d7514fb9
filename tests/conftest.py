"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch

from swarm.shards.compiled import keep_compiled
from tests.leftovers import describe
from tests.peers import LocalSwarm
from tests.processes import COMPILED, Zygote

SwarmFactory = Callable[[], LocalSwarm]


def pytest_configure() -> None:
    COMPILED.mkdir(parents=True, exist_ok=True)
    keep_compiled(COMPILED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start real peers come first: they take longest, and should not be what one core is left with."""
    long = {item.path for item in items if item.get_closest_marker("network")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The process from which this session's `swarm` commands are forked; started when the first one is."""
    zygote = Zygote(tmp_path_factory.mktemp("zygote") / "log")
    yield zygote
    left = zygote.close()
    assert not left, "processes outlived the tests: " + ", ".join(describe(process) for process in left)


@pytest.fixture
def swarm_factory(zygote: Zygote) -> Iterator[SwarmFactory]:
    """Makes swarms of real peers; each is stopped and checked for leftovers when the test ends, if not before."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(LocalSwarm(zygote))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes in one thread, as the compiled functions do, and in as many as before after that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
