"""Imports that the garbage collector does not walk through again and again, because what they make stays anyway."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting(marker: str) -> Iterator[None]:
    """Put off cyclic collection meanwhile; at the end, spare what is there for ever from it.

    Does nothing if the module `marker`, which is about to be imported, is there already: then the process may hold
    objects of its user, which must be collected one day.

    torch and transformers make 400,000 objects. While they are imported, the collector visits them several times, and
    again in the middle of a generation, for 0.3 s. The price: 12,000 objects (8 MB) that imports drop are never freed.
    """
    if marker in sys.modules or not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
