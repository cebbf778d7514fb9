"""Names that a module imports for a few of its functions, and that are fetched when one of these runs.

transformers imports torch's compiler, its sharded tensors, accelerate and the whole of sympy, which next to nothing
here uses, for the sake of a few functions and decorators. While `late_imports` is on, such a name is bound to a
`LateName`; what stands for it is put in its place in the module as soon as anybody imports its home, or the name is
used. The decorators of torch's compiler, which leave a function as it is and note something about it, are noted, and
applied if the compiler is ever imported.

Only what is used in bodies of functions may be late: nobody can have taken it from the module before it was there
(`tests/test_late_imports.py` reads that in the installed packages).
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from threading import Lock
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LATE = {
    ("httpcore2._backends.trio", "trio"),
    ("httpcore2._synchronization", "trio"),
    ("transformers.integrations.accelerate", "accelerate"),
    ("transformers.integrations.accelerate", "accelerate.utils"),
    ("transformers.integrations.accelerate", "accelerate.utils.modeling"),
    ("transformers.modeling_utils", "accelerate.hooks"),
    ("transformers.modeling_utils", "accelerate.utils"),
    ("transformers.masking_utils", "torch._dynamo._trace_wrapped_higher_order_op"),
    ("transformers.distributed.fsdp", "torch.distributed._composable.fsdp"),
    ("transformers.distributed.fsdp", "torch.distributed.fsdp"),
    ("transformers.distributed.checkpoint", "torch.distributed.checkpoint.hf_storage"),
    ("torch.distributed.tensor._collective_utils", "torch.fx.experimental.symbolic_shapes"),
    ("torch.distributed.tensor._decompositions", "torch.fx.experimental.symbolic_shapes"),
    ("torch.distributed.tensor._ops._matrix_ops", "torch.fx.experimental.symbolic_shapes"),
    ("torch.distributed.tensor._ops._tensor_ops", "torch.fx.experimental.symbolic_shapes"),
}
"""Which modules get the names of which homes late, or the home itself."""

_EXCEPTIONS = {"GuardOnDataDependentSymNode"}
_COMPILER = "torch._dynamo"
_MARKS = ("assume_constant_result", "allow_in_graph")


class LateName:
    """Stands in the module with the globals `where` for `name` of the module `home`; None for the home itself."""

    def __init__(self, home: str, name: str | None, where: dict[str, Any]) -> None:
        self._home = home
        self._name = name
        self._where = where

    def fetch(self) -> Any:
        """What it stands for, which takes its place."""
        module = import_module(self._home)
        found = module if self._name is None else getattr(module, self._name)
        _replace(self, found, self._where)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fetch()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fetch(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.fetch())

    # what only the body of a module or a class does: then it is fetched at once

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.fetch(),)

    def __or__(self, other: Any) -> Any:
        return self.fetch() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.fetch()


class _Home:
    """What `from HOME import NAME` reads names from, for one module."""

    def __init__(self, late: _LateImports, home: str, where: dict[str, Any]) -> None:
        self._given = (late, home, where)

    def __getattr__(self, name: str) -> Any:
        late, home, where = self._given
        return late.promise(home, name, where)


class _LateImports:
    """Stands in for `import` while it is on, and always waits for the homes of what it promised."""

    def __init__(self) -> None:
        self._real: Any = builtins.__import__
        self._lock = Lock()
        self._users = 0
        self._compiler: dict[str, Any] = {}
        self._promised: dict[str, list[tuple[str | None, object, dict[str, Any]]]] = {}
        self._marked: list[tuple[str, Any]] = []

    # on and off -------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Somebody begins to import."""
        torch: Any = import_module("torch")
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            if self not in sys.meta_path:
                finder: Any = self
                sys.meta_path.insert(0, finder)
            python: Any = builtins
            self._real, python.__import__ = python.__import__, self
            if _COMPILER not in sys.modules:
                self._note_marks(torch)

    def leave(self) -> None:
        """And is done."""
        torch: Any = import_module("torch")
        with self._lock:
            self._users -= 1
            if self._users:
                return
            python: Any = builtins
            if python.__import__ is self:
                python.__import__ = self._real
            for kind, function in self._compiler.items():
                setattr(torch.compiler, kind, function)
            self._compiler.clear()
            if isinstance(torch.__dict__.get("_dynamo"), _Compiler):
                del torch._dynamo

    def _note_marks(self, torch: Any) -> None:
        """Have functions marked for torch's compiler later."""
        compiler = torch.compiler
        self._compiler = {kind: getattr(compiler, kind) for kind in (*_MARKS, "disable")}
        torch._dynamo = _Compiler(self)
        for kind in _MARKS:
            setattr(compiler, kind, partial(self.mark, kind))
        compiler.disable = _disable

    # while it is on ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - as Python calls it
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        where = globals if isinstance(globals, dict) else {}
        if (where.get("__name__"), name) in LATE and name not in sys.modules:
            if fromlist:
                return _Home(self, name, where)
            if find_spec(name) is not None:
                return self.promise(name, None, where)
        return self._real(name, globals, locals, fromlist, level)

    def promise(self, home: str, name: str | None, where: dict[str, Any]) -> object:
        """What stands for the name until its home is imported."""
        # nobody can raise an exception whose module is not there, so that catching another one means the same
        stand_in = type(name, (Exception,), {}) if name in _EXCEPTIONS else LateName(home, name, where)
        self._promised.setdefault(home, []).append((name, stand_in, where))
        return stand_in

    def mark(self, kind: str, function: Any) -> Any:
        """Decorate later, with the compiler's decorator of this name, which returns what it gets."""
        if _COMPILER in sys.modules:
            return getattr(sys.modules[_COMPILER], kind)(function)
        self._marked.append((kind, function))
        return function

    # as a finder: every import of a module passes here ----------------------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._promised and fullname != _COMPILER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = partial(self._exec, loader.exec_module)
        return spec

    def _exec(self, real: Callable[[ModuleType], None], module: ModuleType) -> None:
        real(module)
        for name, stand_in, where in self._promised.pop(module.__name__, []):
            _replace(stand_in, module if name is None else getattr(module, name), where)
        if module.__name__ == _COMPILER:
            marked, self._marked = self._marked, []
            for kind, function in marked:
                getattr(module, kind)(function)


class _Compiler:
    """Stands for `torch._dynamo`; whatever is asked of it but marks has it imported."""

    def __init__(self, late: _LateImports) -> None:
        for kind in _MARKS:
            setattr(self, kind, partial(late.mark, kind))

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(_COMPILER), name)


_LATE_IMPORTS = _LateImports()


@contextmanager
def late_imports() -> Iterator[None]:
    """Have the names of `LATE` fetched late by what is imported within, and torch's compiler with them."""
    _LATE_IMPORTS.enter()
    try:
        yield
    finally:
        _LATE_IMPORTS.leave()


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """As the compiler's `disable`: what must not be compiled needs no care while there is no compiler."""
    if function is None:
        return partial(_disable, recursive=recursive, **options)
    if not isinstance(function, FunctionType) or _COMPILER in sys.modules:
        return import_module(_COMPILER).disable(function, recursive, **options)
    disabled: Any = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if _COMPILER not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            disabled = import_module(_COMPILER).disable(function, recursive, **options)
        return disabled(*args, **kwargs)

    return call


def _replace(stand_in: object, found: object, where: dict[str, Any]) -> None:
    for name, value in list(where.items()):
        if value is stand_in:
            where[name] = found
