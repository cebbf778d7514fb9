"""Settings from a YAML file: flat `key: value` lines with the names of the options.

Scalars stay text, so that a file, an environment variable and a flag with the same characters mean the same
(YAML itself would read `layers: 4:8` as the number 248).
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from swarm.core.errors import ConfigError

_NOTHING = ("", "~", "null")


class YamlSource(PydanticBaseSettingsSource):
    """Reads the file that a higher source named as `config`; no file, no values."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # required by the base class; everything happens in __call__

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if not path:
            return {}
        values = read_yaml(Path(path).expanduser())
        known = [name for name in self.settings_cls.model_fields if name != "config"]
        for key in values:
            _check_known(key, known, str(path))
        return {key: value for key, value in values.items() if value not in _NOTHING}


def read_yaml(path: Path) -> dict[str, Any]:
    """The top-level keys of the file, dashes in them read as underscores; every scalar is a `str`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping with distinct keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except OSError as exc:
        raise ConfigError(f"--config: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {exc.start})") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: {_malformed(exc)}") from exc
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{path}: must hold lines such as 'cache_tokens: 4096', not a list or a single value"
        )
    return _mapping(node, path)


def _mapping(node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path}: line {line}: a key must be one word")
        key = str(key_node.value).replace("-", "_")
        if key in values:
            raise ConfigError(f"{path}: line {line}: {key} is given twice")
        values[key] = _plain(value_node)
    return values


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    return node.value


def _malformed(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: malformed YAML: {error.problem}"
    return f"malformed YAML: {' '.join(str(error).split())}"


def _check_known(key: str, known: list[str], path: str) -> None:
    if key in known:
        return
    close = get_close_matches(key, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}"
    raise ConfigError(f"{path}: {key}: unknown key; {advice}")
