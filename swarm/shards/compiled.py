"""C functions of this package, compiled for this processor where there is a C compiler."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_COMPILERS = ("cc", "gcc", "clang")
_FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native")  # compilers know one of them, or both
_LONGEST_S = 30.0


@cache
def compiled(name: str) -> Any:
    """The function `name` of the file `NAME.c` beside this one, which returns nothing; None where there is none.

    Calls let go of the interpreter's lock. The first call compiles, which takes a fraction of a second.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        logger.info("no C compiler: %s is done by libraries, which is slower", name)
        return None
    source, reason = Path(__file__).with_name(f"{name}.c"), ""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        library = Path(folder) / f"{name}.so"
        for target in _FOR_THIS_PROCESSOR:
            try:
                _compile(compiler, target, source, library)
                function = getattr(ctypes.CDLL(str(library)), name)
            except subprocess.SubprocessError as error:
                reason = str(getattr(error, "stderr", "") or error)
            except OSError as error:
                reason = str(error)
            else:
                function.restype = None
                return function
    logger.warning("%s could not be compiled: %s", name, " ".join(reason.split())[:200])
    return None


def _compile(compiler: str, target: str, source: Path, library: Path) -> None:
    options = ("-O3", target, "-shared", "-fPIC", "-o", str(library), str(source))
    subprocess.run([compiler, *options], check=True, capture_output=True, text=True, timeout=_LONGEST_S)
