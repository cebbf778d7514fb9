"""Typer options made from a settings model, so that every option is written once.

The rules: a field `cache_tokens` becomes `--cache-tokens VALUE`; a `bool` becomes `--x/--no-x`; a tuple becomes an
option that may be repeated; `Shown` in the annotation changes the rest. Typer only splits the command line: values
go to the settings model as text, which validates flags, environment and files alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from swarm.cli.setting_types import Shown
from swarm.cli.settings import Settings

S = TypeVar("S", bound=Settings)

_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def command_of(settings: type[S], action: Callable[[S], None]) -> Callable[..., None]:
    """A typer command that loads `settings` from flags, environment and file, and calls `action` with them."""

    def command(**flags: Any) -> None:
        action(settings.load(flags))

    parameters = [_parameter(owner, settings, name) for owner, name in _in_order(settings)]
    command.__doc__ = action.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _in_order(settings: type[Settings]) -> list[tuple[type[Settings], str]]:
    """Arguments first, then a command's own options before those it inherits; each with the class that owns it."""
    owners = [cls for cls in settings.__mro__ if issubclass(cls, Settings)]
    nearest = {name: cls for cls in reversed(owners) for name in inspect.get_annotations(cls)}
    fields = [
        (cls, name)
        for cls in owners
        for name in inspect.get_annotations(cls)
        if name in settings.model_fields and nearest[name] is cls
    ]
    arguments = [(cls, name) for cls, name in fields if settings.shown(name).positional]
    arguments.sort(key=lambda field: field[1])  # MODEL before PROMPT
    return arguments + [field for field in fields if field not in arguments]


def _parameter(owner: type[Settings], settings: type[Settings], name: str) -> inspect.Parameter:
    field, shown, written = settings.model_fields[name], settings.shown(name), settings.written_as(name)
    common: dict[str, Any] = {"help": _help(field, shown), "show_default": False}
    metavar = shown.metavar or _metavar(field.annotation)
    kind: Any = str
    if not shown.positional:
        common["rich_help_panel"] = owner.PANEL
    if shown.positional:
        info: Any = typer.Argument(metavar=metavar, **common)
    elif _core(field.annotation) is bool:
        kind = bool
        info = typer.Option(f"{written}/--no-{written[2:]}", **common)
    else:
        kind = list[str] if get_origin(_core(field.annotation)) is tuple else str
        info = typer.Option(written, metavar=metavar, **common)
    annotation: Any = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo, shown: Shown) -> str:
    default = shown.default
    if default is None and field.default not in (None, (), False) and not field.is_required():
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    text = field.description or ""
    return f"{text} \\[default: {default}]" if default is not None else text


def _core(annotation: Any) -> Any:
    """The type inside `Annotated` and `... | None`."""
    if get_origin(annotation) is Annotated:
        return _core(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _core(next(arg for arg in get_args(annotation) if arg is not NoneType))
    return annotation


def _metavar(annotation: Any) -> str | None:
    core = _core(annotation)
    if get_origin(core) is Literal:
        return "|".join(str(value) for value in get_args(core))
    return _METAVARS.get(core)
