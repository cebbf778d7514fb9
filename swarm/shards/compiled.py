"""C functions of this package, compiled for this processor where there is a C compiler."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_COMPILERS = ("cc", "gcc", "clang")
_FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native")  # compilers know one of them, or both
_LONGEST_S = 30.0
_HERE = Path(__file__).parent


@cache
def compiled(name: str) -> Any:
    """The function `name` of the file `NAME.c` beside this one, which returns nothing; None where there is none.

    Calls let go of the interpreter's lock. The first call compiles, which takes a fraction of a second.
    """
    return _compiled(name, [_HERE / f"{name}.c"])


@cache
def compiled_text(name: str, text: str, files: tuple[str, ...]) -> Any:
    """The same of a C program in `text`, which may include files beside this one and call functions of `files`."""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        source = Path(folder) / f"{name}.c"
        source.write_text(text)
        return _compiled(name, [source, *(_HERE / file for file in files)])


def _compiled(name: str, sources: Sequence[Path]) -> Any:
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        logger.info("no C compiler: %s is done by libraries, which is slower", name)
        return None
    reason = ""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        library = Path(folder) / f"{name}.so"
        for target in _FOR_THIS_PROCESSOR:
            try:
                _compile(compiler, target, sources, library)
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


def _compile(compiler: str, target: str, sources: Sequence[Path], library: Path) -> None:
    options = ("-O3", target, "-fno-math-errno", f"-I{_HERE}", "-shared", "-fPIC", "-o", str(library))
    command = [compiler, *options, *map(str, sources), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LONGEST_S)
