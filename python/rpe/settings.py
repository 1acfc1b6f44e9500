"""Files and mappings to `Config`, with errors that name the file, the key and the nearest key that exists.
 TOML and YAML files hold the fields of `config.Config`, one table per group. The command line puts its
overrides on top (`cli.py`).
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .config import Config
from .errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The nested mapping of a TOML or YAML file, its keys checked against `Config`.

    Raises:
        UserError: the file is missing, of another kind, cannot be parsed, or has an unknown key or a value of
            the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; give the path of a .toml or .yaml file")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if path.suffix == ".toml":
            mapping: Any = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            mapping = yaml.safe_load(text) or {}
        else:
            raise UserError(f"{path}: a config is a .toml, .yaml or .yml file, got suffix {path.suffix!r}")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read as {path.suffix[1:].upper()}: {error}") from error
    from_mapping(Config, mapping, source=str(path))
    return dict(mapping)


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and put dotted `overrides` (`{"training.steps": 10}`) on top."""
    mapping = read_mapping(path)
    for key, value in (overrides or {}).items():
        group = mapping
        *parents, last = key.split(".")
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return from_mapping(Config, mapping, source=str(path))


def from_mapping(cls: type[T], mapping: Any, *, source: str, prefix: str = "") -> T:
    """Build a settings dataclass from a nested mapping.

    Args:
        cls: `Config` or one of its groups.
        mapping: keys are field names; missing ones keep their defaults.
        source: file or object named in errors.
        prefix: dotted path of `cls` inside `Config`.

    Raises:
        UserError: unknown key, or a value of the wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(
            f"{source}: {prefix.rstrip('.') or 'the config'} must be a table of keys, got {mapping!r}"
        )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"{source}: unknown key {name!r}{nearest(name)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = from_mapping(typing.cast(type, hint), value, source=source, prefix=f"{name}.")
        else:
            values[key] = _convert(value, hint, f"{source}: {name}")
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """`Config`, or a group of it, as a plain nested dict of numbers, strings, lists and None: what a checkpoint
    carries.
    """
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"steps": 1}}` to `{"training.steps": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(key: str) -> str:
    """`; did you mean 'training.steps'?`, comparing whole dotted keys and last parts; all groups where nothing
    is near.
    """
    known = list(_keys(Config))
    by_last = {name.rsplit(".", 1)[-1]: name for name in known}
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not match:
        last = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last, n=1, cutoff=0.6)
        match = [by_last[last[0]]] if last else []
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; expected one of {', '.join(sorted({name.split('.')[0] for name in known}))}"


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield f"{prefix}{name}"
            yield from _keys(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check one value against its annotation; ints become floats and lists become tuples where that is what
    is asked for.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(choice) for choice in arguments], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}{hint_text}")
    if origin in (types.UnionType, typing.Union):
        if value is None or value == "none":
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} must be a list, got {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(f"{where} must have {len(arguments)} entries, got {len(value)}")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
