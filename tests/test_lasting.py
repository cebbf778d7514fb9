"""Imports that last: what they make is out of the collector's way, and nothing else changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from swarm.core.lasting import lasting


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_meanwhile_and_what_is_there_is_spared() -> None:
    with lasting("not_a_module"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_a_process_that_has_the_module_goes_on_as_before() -> None:
    frozen = gc.get_freeze_count()
    with lasting("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_collector_that_its_user_has_switched_off_stays_off() -> None:
    gc.disable()
    with lasting("not_a_module"):
        pass
    assert not gc.isenabled()


def test_it_ends_with_an_import_that_fails() -> None:
    with pytest.raises(ImportError), lasting("not_a_module"):
        raise ImportError
    assert gc.isenabled()
