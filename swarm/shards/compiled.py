"""C functions of this package, compiled for this processor where there is a C compiler."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from swarm.shards.library_folder import LibraryFolder

logger = logging.getLogger(__name__)

_COMPILERS = ("cc", "gcc", "clang")
_FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native")  # compilers know one of them, or both
_LONGEST_S = 30.0
_HERE = Path(__file__).parent

_libraries = LibraryFolder()


def keep_compiled(folder: Path) -> None:
    """Keep what this process compiles in `folder`, and take from there what is compiled already."""
    _libraries.path = folder.absolute()


@cache
def compiled(name: str) -> Any:
    """The function `name` of the file `NAME.c` beside this one, which returns nothing; None where there is none.

    Calls let go of the interpreter's lock. The first call compiles, which takes a fraction of a second.
    """
    return _compiled(name, _texts(f"{name}.c"))


@cache
def compiled_text(name: str, text: str, files: tuple[str, ...]) -> Any:
    """The same of a C program in `text`, which may include files beside this one and call functions of `files`."""
    return _compiled(name, {f"{name}.c": text} | _texts(*files))


def _texts(*files: str) -> dict[str, str]:
    return {file: (_HERE / file).read_text() for file in files}


def _compiled(name: str, sources: Mapping[str, str]) -> Any:
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        logger.info("no C compiler: %s is done by libraries, which is slower", name)
        return None
    reason = ""
    for target in _FOR_THIS_PROCESSOR:
        try:
            function = getattr(_library(compiler, target, sources), name)
        except subprocess.SubprocessError as error:
            reason = str(getattr(error, "stderr", "") or error)
        except OSError as error:
            reason = str(error)
        else:
            function.restype = None
            return function
    logger.warning("%s could not be compiled: %s", name, " ".join(reason.split())[:200])
    return None


def _library(compiler: str, target: str, sources: Mapping[str, str]) -> ctypes.CDLL:
    command = (compiler, "-O3", target, "-fno-math-errno", f"-I{_HERE}", "-shared", "-fPIC", *sources, "-lm")
    headers = (path.read_text() for path in sorted(_HERE.glob("*.h")))
    made_of = (_meaning(compiler, target), *command, *sources.values(), *headers)

    def make(library: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
            for name, text in sources.items():
                (Path(folder) / name).write_text(text)
            _run([*command, "-o", str(library)], folder)

    return _libraries.library(made_of, make)


@cache
def _meaning(compiler: str, target: str) -> str:
    """What the compiler says of itself and of the processor that `target` stands for here: its predefined macros."""
    return _run([compiler, target, "-dM", "-E", "-xc", "-"])


def _run(command: Sequence[str], folder: str | None = None) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, cwd=folder, input="", text=True, timeout=_LONGEST_S
    )
    return done.stdout
