"""Products of a few rows, compiled for this processor where there is a C compiler.

A batch of decode steps is a product of a few rows with every weight of a layer. The libraries at hand put each matrix
into another order first, which for a few rows takes longer than the product itself. `few_rows.c` does not: it takes
weights stored by columns as they are, and needs half of a library's time for 2 to 8 rows (docs/adr/0015).
"""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_suffix(".c")
_COMPILERS = ("cc", "gcc", "clang")
_FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native")  # compilers know one of them, or both
_LONGEST_S = 30.0
_Multiply = Callable[[int, int, int, int, int, int, int], None]


def by_few_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows `[B, n, in]` times a float32 matrix `[out, in]` stored by columns, in the calling thread alone.

    Raises:
        RuntimeError: if it could not be compiled; see `has_few_rows`.
    """
    multiply = _compiled()
    if multiply is None:
        raise RuntimeError("there is no compiled product on this machine")
    assert weight.stride(0) == 1, "the weights are stored by rows"
    states = rows.contiguous()
    out, width = weight.shape
    found = states.new_empty(*states.shape[:-1], out)
    pointers = states.data_ptr(), weight.data_ptr(), weight.stride(1), found.data_ptr()
    multiply(states.numel() // width, width, out, *pointers)
    return found


def has_few_rows() -> bool:
    """Whether `by_few_rows` works here; the first call compiles it, which takes a fraction of a second."""
    return _compiled() is not None


@cache
def _compiled() -> _Multiply | None:
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        logger.info("no C compiler: batches of a few rows are multiplied by libraries, which is slower")
        return None
    reason = ""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        library = Path(folder) / "few_rows.so"
        for target in _FOR_THIS_PROCESSOR:
            try:
                _compile(compiler, target, library)
                return _loaded(library)
            except subprocess.SubprocessError as error:
                reason = str(getattr(error, "stderr", "") or error)
            except OSError as error:
                reason = str(error)
    logger.warning("the product of a few rows could not be compiled: %s", " ".join(reason.split())[:200])
    return None


def _compile(compiler: str, target: str, library: Path) -> None:
    options = ("-O3", target, "-shared", "-fPIC", "-o", str(library), str(_SOURCE))
    subprocess.run([compiler, *options], check=True, capture_output=True, text=True, timeout=_LONGEST_S)


def _loaded(library: Path) -> _Multiply:
    function = ctypes.CDLL(str(library)).multiply_few_rows  # calls let go of the interpreter's lock
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = [size, size, size, pointer, pointer, size, pointer]
    function.restype = None
    multiply: _Multiply = function
    return multiply
